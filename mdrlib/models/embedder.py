"""Backbone + linear head, and the three ways to treat the length of an embedding."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from mdrlib.distances import normalize_by_mean_distance
from mdrlib.models.small import SmallConvNet

NORMALIZE = ("none", "l2", "mean-distance")


class Embedder(nn.Module):
    """Images (N, C, H, W) -> embeddings (N, dim) float.

    normalize "none": as the linear layer gives them. "l2": on the unit sphere. "mean-distance": divided, in
    training mode, by the batch's mean distance, so that a margin keeps its meaning while distances stay free
    to grow; raw in eval mode, where scale changes no ranking (Kim & Park, section 3.1, "Learning without L2
    Norm"). freeze_batch_norm keeps batch-norm layers in eval mode, for fine-tuning on small batches.
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

    def forward(self, images: Tensor) -> Tensor:
        x = self.linear(self.backbone(images)).float()
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
) -> Embedder:
    """An `Embedder` by name of its backbone.

    backbone: "small". dim: length of the embedding. normalize: see `Embedder`. weights: a file with an
    embedder's state_dict, or a run's checkpoint.pt, to start from. Raises ValueError for an unknown name, a
    backbone without pretrained weights, or a file whose tensors do not fit, naming the first that differ.
    """
    if backbone != "small":
        raise ValueError(f'backbone must be "small", got {backbone!r}')
    if pretrained:
        raise ValueError("the small network has no pretrained weights; use pretrained=False or weights=FILE")
    model = Embedder(SmallConvNet(), SmallConvNet.features, dim, normalize, freeze_batch_norm)
    if weights is not None:
        _load(model, Path(weights))
    return model


def _load(model: Embedder, path: Path) -> None:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises several kinds
        raise ValueError(f"{path} is damaged, or holds more than tensors and plain values") from error
    found = found.get("model", found) if isinstance(found, dict) else found
    found = found if isinstance(found, dict) else {}
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {k: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in found.items()}
    differ = sorted((k for k in wanted.keys() | given.keys() if wanted.get(k) != given.get(k)), key=str)
    if differ:
        lines = [f"{key}: file {given.get(key)}, model {wanted.get(key)}" for key in differ[:3]]
        raise ValueError(f"{path} does not fit the model in {len(differ)} tensors: " + "; ".join(lines))
    model.load_state_dict(found)
