"""Backbones by name: BN-Inception, torchvision's and timm's networks, without their classifiers."""

import sys
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn

from mdrlib.models.bn_inception import BNInception
from mdrlib.models.pooling import AverageMaxPool, global_pool
from mdrlib.models.weights import load_network

BN_INCEPTION_FILE = "bn_inception-52deb4733.pth"
BN_INCEPTION_SOURCE = "http://data.lip6.fr/cadene/pretrainedmodels/"
BN_INCEPTION_MEAN = (104.0, 117.0, 128.0)  # of B, G and R, from 0 to 255


class Backbone(nn.Module):
    """Images (N, 3, H, W), RGB in [0, 1], float -> features (N, features).

    prepare makes of the images what `network` takes: (scale * images - mean) / std, with mean and std (3,) in
    the order of the channels that the network sees, B, G, R with `bgr`. Grey images (N, 1, H, W) are repeated
    over the channels. heads: names of the layers that a published file of the network holds and this one
    does not. Raises TypeError or ValueError for other images.
    """

    def __init__(
        self,
        network: nn.Module,
        features: int,
        heads: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        scale: float = 1.0,
        bgr: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.features, self.heads, self.scale, self.bgr = features, heads, scale, bgr
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        if not images.is_floating_point():
            raise TypeError(f"images must be float in [0, 1], got {images.dtype}; divide bytes by 255")
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must have shape (N, 3, H, W), got {tuple(images.shape)}")
        images = images.flip(1) if self.bgr else images
        return (self.scale * images - self.mean) / self.std  # one channel becomes three by broadcasting

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.prepare(images))


def build_backbone(name: str, pretrained: bool = False, pooling: str = "average") -> Backbone:
    """The backbone "bn_inception", "timm:<name>", or that of torchvision's classification models.

    Its pooling is the network's own; "average+max" puts the sum of both poolings in its place. Raises
    ValueError for an unknown name, with those that are close, and where the network has no global average
    pooling; ImportError where a library is missing; OSError where weights are neither here nor reachable.
    """
    global_pool(pooling)  # checks the name
    if name == "bn_inception":
        return _bn_inception(pretrained, pooling)
    if isinstance(name, str) and name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), pretrained, pooling)
    return _torchvision(name, pretrained, pooling)


def checkpoints_folder() -> Path:
    """Where torch, and torchvision with it, keeps downloaded weights: TORCH_HOME decides."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _bn_inception(pretrained: bool, pooling: str) -> Backbone:
    network = BNInception(pooling)
    if pretrained:
        path = checkpoints_folder() / BN_INCEPTION_FILE
        if not path.exists():
            raise FileNotFoundError(
                f"mdrlib does not download the ImageNet weights of bn_inception: put {BN_INCEPTION_FILE}, "
                f"published at {BN_INCEPTION_SOURCE}, into {path.parent}, or use weights=FILE"
            )
        load_network(network, ("last_linear",), path)
    return Backbone(
        network,
        BNInception.features,
        ("last_linear",),
        BN_INCEPTION_MEAN,
        (1.0, 1.0, 1.0),
        scale=255.0,
        bgr=True,
    )


def _torchvision(name: str, pretrained: bool, pooling: str) -> Backbone:
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(f"the backbone {name!r} needs torchvision: pip install mdrlib[vision]") from error
    names = models.list_models(module=models)
    if name not in names:
        close = get_close_matches(
            str(name).lower(), ["small", "tiny", "bn_inception", *names], n=5, cutoff=0.5
        )
        raise ValueError(
            'backbone must be "small", "tiny", "bn_inception", "timm:<name>" or a classification model of '
            f"torchvision, got {name!r}; close to it: {close or 'none'}"
        )
    weights = models.get_model_weights(name).DEFAULT
    options = {}
    if name in ("googlenet", "inception_v3"):  # their weights expect it: one input, trained or not
        options = {"transform_input": True, "init_weights": not pretrained}
    if pretrained:
        _fetch(name, weights)
    network = models.get_model(name, weights=weights if pretrained else None, **options)
    auxiliary = tuple(n for n in ("aux1", "aux2", "AuxLogits") if hasattr(network, n))
    if auxiliary:  # classifiers at middle layers, for training on ImageNet
        network.aux_logits = False
        for part in auxiliary:
            setattr(network, part, None)
    head, features = _remove_head(network)
    if pooling == "average+max":
        _pool_average_and_max(name, network)
    preset = weights.transforms()
    return Backbone(network, features, (head, *auxiliary), tuple(preset.mean), tuple(preset.std))


def _fetch(name: str, weights: object) -> None:
    """Download `weights` where they are not in the folder yet, and see that they hold tensors alone.

    torchvision's own loading would execute what a file says; one that has passed here says nothing.
    """
    path = checkpoints_folder() / weights.url.rsplit("/", 1)[-1]
    progress = sys.stderr.isatty()
    try:
        weights.get_state_dict(progress=progress, check_hash=True, map_location="cpu", weights_only=True)
    except OSError as error:
        raise OSError(
            f"the weights of {name} could not be downloaded from {weights.url} ({error}): put "
            f"{path.name} into {path.parent}, or use weights=FILE"
        ) from error
    except Exception as error:  # torch raises several kinds
        raise ValueError(f"{path} is damaged or not the published file ({error}); delete it") from error


def _remove_head(network: nn.Module) -> tuple[str, int]:
    """Replace the classifier by identities; return its last layer's name and the number of its inputs.

    That layer is a torchvision model's last linear one (SqueezeNet's a 1 x 1 convolution, with a ReLU after
    it). A dropout just before it goes too: it is the classifier's. The layers before stay: features of VGG
    are those of its second linear layer.
    """
    name, last = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    prefix = name.rpartition(".")[0]
    parts = list(network.get_submodule(prefix).named_children())
    at = [n for n, _ in parts].index(name.rpartition(".")[2])
    for near, kind in ((parts[at - 1 : at], nn.Dropout), (parts[at + 1 : at + 2], nn.ReLU)):
        if near and isinstance(near[0][1], kind):
            network.set_submodule(f"{prefix}.{near[0][0]}".lstrip("."), nn.Identity())
    network.set_submodule(name, nn.Identity())
    return name, last.in_features if isinstance(last, nn.Linear) else last.in_channels


def _pool_average_and_max(name: str, network: nn.Module) -> None:
    """Put the sum of average and maximum in the place of a torchvision model's global average pooling."""
    pools = [
        (n, m)
        for n, m in network.named_modules()  # those of squeeze-and-excitation lie in other parts
        if n.split(".")[0] in ("avgpool", "classifier") and isinstance(m, nn.AdaptiveAvgPool2d)
    ]
    if pools and pools[-1][1].output_size in (1, (1, 1)):
        network.set_submodule(pools[-1][0], AverageMaxPool())
        return
    # The other convolutional ones average in their forward, after a ReLU, the maps that these parts give:
    # pooled maps, of one position, it leaves as they are.
    stages = [part for part in ("features", "layers", "conv5") if hasattr(network, part)]
    if pools or not stages:
        raise ValueError(f'pooling "average+max" needs global average pooling, which {name} does not have')
    network.get_submodule(stages[0]).append(nn.ReLU()).append(AverageMaxPool())


def _timm(name: str, pretrained: bool, pooling: str) -> Backbone:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f'the backbone "timm:{name}" needs timm: pip install mdrlib[timm]') from error
    if not timm.is_model(name):
        close = get_close_matches(name.lower(), timm.list_models(), n=5, cutoff=0.5)
        raise ValueError(f"timm has no model {name!r}; close to it: {close or 'none'}")
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except OSError as error:
        source = timm.models.get_pretrained_cfg(name)
        hub, file = source.hf_hub_id, str(source.url).rsplit("/", 1)[-1]
        where = f"put {file} into {checkpoints_folder()}, or use weights=FILE"
        if hub:
            where = (
                f"put the folder models--{hub.replace('/', '--')} of another machine's Hugging Face cache "
                "into this one's (HF_HUB_CACHE, by default ~/.cache/huggingface/hub), or use weights=FILE "
                f"with the file pytorch_model.bin of https://huggingface.co/{hub}"
            )
        raise OSError(f"the weights of timm:{name} could not be downloaded ({error}): {where}") from error
    except RuntimeError as error:  # an unknown tag after the name's dot
        raise ValueError(f"timm cannot make {name!r}: {error}") from error
    if pooling == "average+max":
        layers = [m for m in network.modules() if isinstance(m, timm.layers.SelectAdaptivePool2d)]
        if len(layers) != 1 or not isinstance(layers[0].pool, nn.AdaptiveAvgPool2d):
            raise ValueError(
                f'pooling "average+max" needs global average pooling; timm:{name} has none we know'
            )
        layers[0].pool = AverageMaxPool()  # timm's own "avgmax" is half of it
    about = network.pretrained_cfg
    # What leaves the network is not always num_features wide: some have a layer after the pooling.
    features = getattr(network, "head_hidden_size", None) or network.num_features
    head = about.get("classifier") or ()
    heads = (head,) if isinstance(head, str) else tuple(head)
    return Backbone(network, features, heads, tuple(about["mean"]), tuple(about["std"]))
