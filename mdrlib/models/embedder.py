"""Backbone + linear head, and the three ways to treat the length of an embedding."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from mdrlib.distances import normalize_by_mean_distance
from mdrlib.models.backbones import build_backbone
from mdrlib.models.small import SmallConvNet
from mdrlib.models.weights import load_embedder

NORMALIZE = ("none", "l2", "mean-distance")
SMALL = {"small": 64, "tiny": 32}  # channels of the networks for the book's small sets


class Embedder(nn.Module):
    """Images (N, C, H, W) -> embeddings (N, dim), float32 or wider.

    normalize "none": as the linear layer gives them. "l2": on the unit sphere. "mean-distance": divided, in
    training mode, by the batch's mean distance, so that a margin keeps its meaning while distances stay free
    to grow; raw in eval mode, where scale changes no ranking (Kim & Park, section 3.1, "Learning without L2
    Norm"). freeze_batch_norm keeps batch-norm layers in eval mode, for fine-tuning on small batches.
    Called with `gather`, a function that makes the rows of a whole batch of those of a process's share
    (`mdrlib.distributed.gather`), it returns the embeddings of the whole batch.
    """

    def __init__(
        self, backbone: nn.Module, features: int, dim: int, normalize: str, freeze_batch_norm: bool = False
    ) -> None:
        super().__init__()
        if normalize not in NORMALIZE:
            raise ValueError(f"normalize must be one of {NORMALIZE}, got {normalize!r}")
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"dim must be a positive integer, got {dim!r}")
        self.backbone = backbone
        self.linear = nn.Linear(features, dim)
        self.normalize, self.freeze_batch_norm = normalize, freeze_batch_norm
        self.train()  # freezes

    def forward(self, images: Tensor, gather: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        x = self.linear(self.backbone(images))
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if gather is not None:
            x = gather(x)  # before the mean distance, which is the whole batch's
        if self.normalize == "l2":
            return unit_length(x, dim=1)
        if self.normalize == "mean-distance" and self.training:
            return normalize_by_mean_distance(x)
        return x

    def train(self, mode: bool = True) -> "Embedder":
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def build_embedder(
    backbone: str = "small",
    dim: int = 128,
    normalize: str = "none",
    pretrained: bool = False,
    weights: str | Path | None = None,
    freeze_batch_norm: bool = False,
    pooling: str = "average",
) -> Embedder:
    """An `Embedder` by name of its backbone.

    backbone: "small", or "tiny" of half the width (images (N, C, 32, 32)); or, for images (N, 3, H, W), RGB
    in [0, 1], whose own normalization is part of it: "bn_inception", "resnet18", "resnet50" or another
    classification model of torchvision (the extra `vision`), "timm:<name>" (the extra `timm`). dim: length
    of the embedding. normalize: see `Embedder`. pooling: "average" leaves the network's own, global average
    pooling in convolutional ones; "average+max" puts the sum of both in its place.

    pretrained: start from ImageNet weights, downloaded by torchvision or timm where they are not here yet;
    those of BN-Inception are looked for in torch hub's folder. weights: a file to start from, instead of
    these, see `mdrlib.models.weights`: an embedder's state_dict, a run's checkpoint.pt, a published file of
    the backbone, a checkpoint of the paper's authors.

    Raises ValueError for an unknown name, with those that are close, for a pooling that the network does
    not have, for "small" and "tiny" with pretrained, and for a file whose tensors do not fit, naming the
    first that differ; ImportError, naming the extra, where a library is missing; OSError where weights can
    be neither found nor downloaded, saying which file to put where.
    """
    if backbone in SMALL:
        if pretrained:
            raise ValueError(
                f"the {backbone} network has no pretrained weights; use pretrained=False or weights=FILE"
            )
        if pooling != "average":
            raise ValueError(
                f'the {backbone} network has no pooling to choose; use "average", not {pooling!r}'
            )
        network = SmallConvNet(SMALL[backbone])
    else:
        network = build_backbone(backbone, pretrained and weights is None, pooling)
    model = Embedder(network, network.features, dim, normalize, freeze_batch_norm)
    if weights is not None:
        load_embedder(model, Path(weights))
    return model
