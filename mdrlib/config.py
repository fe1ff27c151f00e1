"""The fields of a Config, which define an experiment, with their types and limits."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from mdrlib import checks
from mdrlib.datasets.benchmarks import BENCHMARKS
from mdrlib.datasets.preprocessing import Preprocessing
from mdrlib.mdr import MDR
from mdrlib.models.backbones import POOLING
from mdrlib.models.embedder import NORMALIZE, SMALL

METHODS = ("triplet", "triplet+l2", "triplet+mdr")  # the paper's
#: Loss -> what the head does by default: unit length for losses of cosines.
LOSSES = {
    "triplet": "mean-distance",
    "contrastive": "mean-distance",
    "margin": "mean-distance",
    "lifted-structure": "none",
    "multi-similarity": "l2",
    "proxy-nca": "l2",
    "proxy-anchor": "l2",
}
MINERS = ("distance_weighted", "semihard_negatives", "hard_negatives", "random_negatives", "all_triplets")
PLACE = ("device", "data_root", "workers", "cache_images")  # fields that do not say what a run is
CHOICES = {"mode": ("train", "evaluate"), "head": ("auto", *NORMALIZE), "miner": MINERS, "pooling": POOLING}
# The least value of a number, where it is not 0, and what it must be below, where it has a limit.
LEAST = dict(iterations=1, batch_size=4, per_class=2, evaluate_every=1, image_size=32)
LEAST |= dict(workers=-1, held_out_group=-1)
BELOW = dict(momentum=1, validation=1, label_noise=1, switch=1, class_split=11)
BELOW |= dict(seed=2**32, dim=2**16, image_size=2**14, stored_size=2**14)
BELOW |= dict.fromkeys(("lr", "level_lr", "proxy_lr", "lr_decay", "weight_decay"), 1e6)  # float32 overflows
# Fields that the first stored runs lack: they say what a run is only where they are not the default.
LATER = ("level_lr", "class_split", "stored_size", "keep_aspect", "crop_scale", "crop_ratio")
LATER += ("frozen_stages", "switch", "spread_weight", "mdr_in_distance", "held_out_group")


@dataclass(frozen=True)
class Config:
    """The settings of an experiment.

    The defaults suit a small data set; they are the paper's values where these suit it too. As in YAML and
    JSON, lists stand for tuples, and whole numbers are accepted for float. An error names the wrong field.
    """

    dataset: str = "glyphs"  #: See `mdrlib.datasets.load`.
    method: str = "triplet+mdr"  #: A loss of LOSSES; then "+l2" for the L2 head; then "+mdr".
    mode: str = "train"  #: Or "evaluate", to measure `weights` without training.
    # The network: see `build_embedder`.
    backbone: str = "small"
    dim: int = 128  #: 0 for the features of the backbone, without a linear layer.
    head: str = "auto"  #: "none", "l2", "mean-distance", "l2-mean-distance"; "auto": that of the method.
    pretrained: bool = False
    weights: str | None = None
    pooling: str = "average"
    freeze_batch_norm: bool = False
    frozen_stages: int = 0  #: Stages of the backbone, from the input on, to freeze: see `freeze_stages`.
    # How photographs are prepared: see `Preprocessing`. Sets in memory keep their own size.
    image_size: int = 224  #: Pixels of a side.
    stored_size: int = 0  #: Pixels of the square that is cropped; 0 for 256 / 224 of image_size.
    keep_aspect: bool = False  #: Take the middle square instead of stretching to a square.
    crop_scale: tuple[float, ...] = (0.16, 1.0)  #: Of random crops: smallest and largest share of the area.
    crop_ratio: tuple[float, ...] = (0.75, 1.33)  #: Smallest and largest width over height.
    # Training data.
    class_split: int = 0  #: 0 for the set's own split of classes, 1 to 10 for others; see `load`.
    train_classes: int = 0  #: Number of training classes, drawn at random; 0 for all.
    label_noise: float = 0.0  #: Share of training images labelled as another class, in [0, 1).
    seed: int = 0
    # Training.
    iterations: int = 400
    batch_size: int = 128
    per_class: int = 4  #: Images of each class in a batch.
    lr: float = 1e-3
    lr_steps: tuple[int, ...] = ()  #: Iterations after which learning rates are multiplied by lr_decay.
    lr_decay: float = 0.2
    level_lr: float | None = None  #: Learning rate of MDR's levels; None for lr.
    proxy_lr: float = 0.1  #: Learning rate of the loss's own parameters.
    weight_decay: float = 1e-5
    miner: str = "distance_weighted"  #: A function of `mdrlib.miners`, for the triplet and the margin loss.
    margin: float = 0.2
    pair_margin: float = 1.0  #: See `losses.build_loss`.
    switch: float = 0.0  #: Share of triplets in [0, 1) that push a positive away: see `miners.switched`.
    spread_weight: float = 0.0  #: See `losses.spread_out`.
    mdr_weight: float = 0.2  #: The paper's lambda.
    mdr_in_distance: bool = False  #: Multiply L_MDR by the running standard deviation.
    level_weight: float = 0.01  #: The paper's nu.
    levels: tuple[float, ...] = (-3.0, 0.0, 3.0)  #: Initial levels, in standard deviations.
    momentum: float = 0.9  #: The paper's gamma.
    learn_levels: bool = True
    diagonal_in_stats: bool = False
    memory_bank: int = 0  #: Number of past embeddings that MDR also pairs; 0 for none.
    mdr_backend: str = "auto"  #: See `mdr_loss`.
    augment: bool = True  #: Random crops and flips of photographs, affine changes of small images.
    channels_last: bool = False  #: Memory layout of the network; on a CPU always.
    bf16: bool = False  #: Run the network in bfloat16; losses, distances and evaluations stay in float32.
    compile: bool = False  #: Run the network through torch.compile.
    # Evaluation.
    evaluate_every: int = 50  #: Iterations.
    recall_at: tuple[int, ...] = (1, 2, 4, 8)  #: The K of Recall@K.
    validation: float = 0.0  #: Share in [0, 1) of training classes on which to select the best Recall@1.
    held_out_group: int = -1  #: Number of the coarse class (alphabet) to hold out instead; -1: none.
    select_by_test: bool = False  #: Select the best Recall@1 on the test set, as the authors do.
    # Where it runs.
    device: str = "auto"  #: Or "cpu", "cuda", "cuda:1".
    data_root: str | None = None  #: See `mdrlib.datasets.load`.
    workers: int = -1  #: Processes that read photographs; -1 for as many as suit the device.
    cache_images: bool = True  #: Keep decoded and resized photographs on disk.

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            number_or_none = field.type == float | None and value is not None
            value = _typed(name, 0.0 if number_or_none else field.default, value)
            object.__setattr__(self, name, value)
            if name in CHOICES and value not in CHOICES[name]:
                raise ValueError(f"{name} must be one of {list(CHOICES[name])}, got {checks.shown(value)}")
            least, below = LEAST.get(name, 0), BELOW.get(name, float("inf"))
            if type(value) in (int, float) and not least <= value < below:
                wanted = f"at least {least} and below {below}"
                raise ValueError(f"{name} must be {wanted}, got {checks.shown(value)}")
        method_parts(self.method)
        if 1 not in self.recall_at or min(self.recall_at) < 1:
            got = checks.shown(self.recall_at)
            raise ValueError(f"recall_at must be numbers of at least 1 that include 1, got {got}")
        if min(self.lr_steps, default=1) < 1:
            raise ValueError(f"lr_steps must be at least 1, got {checks.shown(self.lr_steps)}")
        ways = {"validation": 0, "held_out_group": -1, "select_by_test": False}
        if len(both := [name for name, off in ways.items() if getattr(self, name) != off]) > 1:
            raise ValueError(f"only one field may select the result, got {' and '.join(both)}")
        Preprocessing.of(self)  # checks its sizes
        for name, greatest in (("crop_scale", 1), ("crop_ratio", float("inf"))):
            pair = getattr(self, name)
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= greatest:
                wanted = f"two increasing numbers above 0 and at most {greatest}"
                raise ValueError(f"{name} must be {wanted}, got {checks.shown(pair)}")
        if self.dataset in ("folder", *BENCHMARKS) and self.backbone in SMALL:
            wrong = f'{self.dataset} has photographs, which the backbone "{self.backbone}" does not take'
            raise ValueError(f'{wrong}; choose "efficientnet_lite0" or another of torchvision or timm')
        MDR(self.levels, self.momentum, backend=self.mdr_backend)  # checks them

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Config":
        """Make a Config from a mapping, with defaults for missing fields; ValueError names unknown keys."""
        if not isinstance(values, Mapping):
            raise TypeError(f"a Config needs a mapping of its fields, got {checks.shown(values)}")
        known = [field.name for field in fields(cls)]
        if unknown := sorted(values.keys() - known, key=str):
            raise ValueError(f"unknown Config keys {checks.shown(unknown)}; known are {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with lists for tuples; `Config.of` reads them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def stored(self) -> dict[str, Any]:
        """Return the fields as a result stores them, with names of files and folders instead of paths."""
        weights = self.weights and Path(self.weights).name
        return self.to_dict() | {"weights": weights, "data_root": self.folder_name}

    def identity(self) -> str:
        """Return JSON that is equal for equal experiments, whatever version of mdrlib wrote them.

        It holds `stored` without the fields of PLACE, and without fields of LATER at their defaults.
        """
        default = {field.name: field.default for field in fields(self)}
        values = {k: v for k, v in self.stored().items() if k not in LATER or getattr(self, k) != default[k]}
        unsaid = [key for key in PLACE if key != "data_root" or values[key] is None]
        return json.dumps({k: v for k, v in values.items() if k not in unsaid}, sort_keys=True)

    @property
    def folder_name(self) -> str | None:
        """The name of the folder of photographs, or None; its path does not identify an experiment."""
        named = self.dataset == "folder" and self.data_root is not None
        return checks.path(self.data_root).absolute().name if named else None

    @property
    def normalize(self) -> str:
        """The name of the head, one of those of `EmbeddingNetwork`, such as "mean-distance"."""
        return method_parts(self.method)[1] if self.head == "auto" else self.head

    @property
    def loss(self) -> str:
        """The name of the loss alone, without "+l2" and "+mdr"."""
        return method_parts(self.method)[0]

    @property
    def with_mdr(self) -> bool:
        """Whether the method adds MDR."""
        return method_parts(self.method)[2]


def method_parts(method: str) -> tuple[str, str, bool]:
    """Split "<loss>[+l2][+mdr]" into the loss, the head and whether MDR is added; else ValueError."""
    loss, *added = method.split("+")
    if loss not in LOSSES or added not in ([], ["l2"], ["mdr"], ["l2", "mdr"]):
        expected = f'one of {sorted(LOSSES)}, then "+l2", "+mdr", both in this order, or nothing'
        raise ValueError(f"method must be {expected}, got {checks.shown(method)}")
    return loss, "l2" if "l2" in added else LOSSES[loss], "mdr" in added


def _typed(name: str, default: Any, value: Any) -> Any:
    """Return `value` in the type of the field's default."""
    kind = type(default)
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if kind is tuple and isinstance(value, list | tuple):
        item = int if name in ("lr_steps", "recall_at") else float
        return tuple(_typed(name, item(), v) for v in value)
    if kind is float and type(value) in (int, float):
        return checks.real(value, name)
    if default is None and (value is None or isinstance(value, str | PathLike)):
        return value and str(value)
    if type(value) is not kind:
        expected = "a path or null" if default is None else kind.__name__
        raise TypeError(f"{name} must be {expected}, got {checks.shown(value)}")
    return value
