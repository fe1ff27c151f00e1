"""Backbones by name: BN-Inception, and the networks of torchvision and timm without their classifiers."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn

from mdrlib.models.bn_inception import POOLING, AverageMaxPool, BNInception
from mdrlib.models.small import SMALL
from mdrlib.models.weights import load_network

BN_INCEPTION_FILE = "bn_inception-52deb4733.pth"
BN_INCEPTION_SOURCE = "http://data.lip6.fr/cadene/pretrainedmodels/"
BN_INCEPTION_MEAN = (104.0, 117.0, 128.0)  # of B, G and R, from 0 to 255


class Backbone(nn.Module):
    """Images (N, 3, H, W), RGB, float in [0, 1] -> features (N, features).

    `network` sees (scale * images - mean) / std, with the channels in the order B, G, R if `bgr`. Grey images
    (N, 1, H, W) are repeated over the channels.

    Args:
        network: Images so normalized -> features.
        features: Width of the features.
        heads: Names of the classifiers that a published file of the network has and `network` has not.
        mean, std: One number per channel, in the order that the network sees.
        scale: 1, or 255 for a network trained on bytes.
        bgr: Whether the network expects B, G, R.
    """

    def __init__(
        self,
        network: nn.Module,
        features: int,
        heads: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        scale: float = 1.0,
        bgr: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.features, self.heads, self.scale, self.bgr = features, tuple(heads), scale, bgr
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """Return the normalized images; TypeError or ValueError for another dtype or shape."""
        if not images.is_floating_point():
            raise TypeError(f"images must be float in [0, 1], got {images.dtype}; divide bytes by 255")
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must have shape (N, 3, H, W), got {tuple(images.shape)}")
        images = images.flip(1) if self.bgr else images
        return (self.scale * images - self.mean) / self.std  # one channel becomes three by broadcasting

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.prepare(images))


def build_backbone(name: str, pretrained: bool = False, pooling: str = "average") -> Backbone:
    """Build "bn_inception", "timm:<name>" or a classification model of torchvision.

    `embedder.build_embedder` documents arguments and errors.
    """
    if pooling not in POOLING:
        raise ValueError(f"pooling must be one of {POOLING}, got {pooling!r}")
    if name == "bn_inception":
        return _bn_inception(pretrained, pooling)
    if isinstance(name, str) and name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), pretrained, pooling)
    return _torchvision(name, pretrained, pooling)


def _bn_inception(pretrained: bool, pooling: str) -> Backbone:
    network, heads = BNInception(pooling), ("last_linear",)
    if pretrained:
        path = _checkpoints() / BN_INCEPTION_FILE
        if not path.exists():
            raise FileNotFoundError(
                f"mdrlib does not download the ImageNet weights of bn_inception: put {BN_INCEPTION_FILE} "
                f"from {BN_INCEPTION_SOURCE} into {path.parent}, or use weights=FILE"
            )
        load_network(network, heads, path)
    return Backbone(network, network.features, heads, BN_INCEPTION_MEAN, (1.0, 1.0, 1.0), 255.0, bgr=True)


def _torchvision(name: str, pretrained: bool, pooling: str) -> Backbone:
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(f'backbone {name!r} needs torchvision: pip install "mdrlib[vision]"') from error
    names = models.list_models(module=models)
    if name not in names:
        raise _unknown(
            f'backbone must be {", ".join(map(repr, SMALL))}, "bn_inception", "timm:<name>" or a '
            f"classification model of torchvision, got {name!r}",
            name,
            [*SMALL, "bn_inception", *names],
        )
    weights = models.get_model_weights(name).DEFAULT
    options = {}
    if name in ("googlenet", "inception_v3"):  # with or without weights, transform the input as these expect
        options = {"transform_input": True, "init_weights": not pretrained}
    if pretrained:
        try:  # a file that loads with weights_only holds no code for torchvision to execute
            weights.get_state_dict(check_hash=True, progress=sys.stderr.isatty(), weights_only=True)
        except OSError as error:
            file = weights.url.rsplit("/", 1)[-1]
            raise OSError(
                f"the weights of {name} could not be downloaded from {weights.url} ({error}): put {file} "
                f"into {_checkpoints()}, or use weights=FILE"
            ) from error
    network = models.get_model(name, weights=weights if pretrained else None, **options)
    auxiliary = [n for n in ("aux1", "aux2", "AuxLogits") if hasattr(network, n)]
    if auxiliary:  # classifiers in the middle, for training on ImageNet
        network.aux_logits = False
        for part in auxiliary:
            setattr(network, part, None)
    layers = list(network.named_modules())
    at = max(i for i, (_, m) in enumerate(layers) if isinstance(m, nn.Linear | nn.Conv2d))
    head, classifier = layers[at]
    network.set_submodule(head, nn.Identity())
    if isinstance(layers[at - 1][1], nn.Dropout):  # a part of the classifier
        layers[at - 1][1].p = 0.0
    if pooling == "average+max":
        places = "avgpool", "classifier.0", "classifier.3"  # other pools belong to squeeze-and-excitation
        pools = [n for n, m in layers if n in places and getattr(m, "output_size", 0) in (1, (1, 1))]
        if not pools:
            raise ValueError(f'pooling "average+max" needs an average pooling layer; {name} has none')
        network.set_submodule(pools[0], AverageMaxPool())
    features = getattr(classifier, "in_features", None) or classifier.in_channels
    preset = weights.transforms()
    return Backbone(network, features, (head, *auxiliary), preset.mean, preset.std)


def _timm(name: str, pretrained: bool, pooling: str) -> Backbone:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f'backbone "timm:{name}" needs timm: pip install "mdrlib[timm]"') from error
    if not timm.is_model(name):
        raise _unknown(f"timm has no model {name!r}", name, timm.list_models())
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except OSError as error:
        raise OSError(f"the weights of timm:{name} were not found: {error}; or use weights=FILE") from error
    if pooling == "average+max":
        pools = [m for m in network.modules() if isinstance(m, timm.layers.SelectAdaptivePool2d)]
        if len(pools) != 1 or not isinstance(pools[0].pool, nn.AdaptiveAvgPool2d):
            raise ValueError(f'pooling "average+max" needs global average pooling; timm:{name} has none')
        pools[0].pool = AverageMaxPool()  # timm's "avgmax" is half of it
    about = network.pretrained_cfg
    # Some networks have a layer after the pooling, which changes the width from num_features.
    features = getattr(network, "head_hidden_size", None) or network.num_features
    head = about.get("classifier") or ()
    heads = (head,) if isinstance(head, str) else head
    return Backbone(network, features, heads, about["mean"], about["std"])


def _unknown(message: str, name: object, names: Sequence[str]) -> ValueError:
    close = get_close_matches(str(name).lower(), names, n=5, cutoff=0.5)
    return ValueError(f"{message}; close to it: {close or 'none'}")


def _checkpoints() -> Path:
    """The folder in which torch and torchvision keep downloaded weights; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints"
