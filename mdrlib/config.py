"""What an experiment is: the fields of a Config, their values and their limits."""

import json
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

from mdrlib import miners
from mdrlib.datasets.benchmarks import BENCHMARKS
from mdrlib.mdr import MDR
from mdrlib.models.backbones import POOLING
from mdrlib.models.embedder import NORMALIZE, SMALL

# Method -> what the head does to embeddings, and whether MDR acts. As the paper compares them.
METHODS = {
    "triplet": ("mean-distance", False),
    "triplet+l2": ("l2", False),
    "triplet+mdr": ("mean-distance", True),
}
# Loss -> what the head does unless told otherwise. Losses of distances get them with a batch's mean of 1.
# Not so lifted structure: its soft maximum finds the near negatives where distances are large, so they must
# be free to grow. Losses of cosines look at directions alone, and get what their authors trained.
LOSSES = {
    "triplet": "mean-distance",
    "contrastive": "mean-distance",
    "margin": "mean-distance",
    "lifted-structure": "none",
    "multi-similarity": "l2",
    "proxy-nca": "l2",
    "proxy-anchor": "l2",
}
MINERS = {
    miner.__name__: miner
    for miner in (
        miners.distance_weighted,
        miners.semihard_negatives,
        miners.hard_negatives,
        miners.random_negatives,
        miners.all_triplets,
    )
}
MODES = ("train", "evaluate")
# Fields that say where and how fast a run happens, not what it is: they may change when it is resumed.
PLACE = ("device", "data_root", "workers", "cache_images")
OPTIONAL = ("data_root", "weights")  # text or None
WHOLE = ("lr_steps", "recall_at")  # lists of whole numbers; the other lists are of any
# Field -> its least value; those of the second have no largest one but infinity.
LEAST = {
    "dim": 1,
    "seed": 0,
    "iterations": 1,
    "batch_size": 4,
    "per_class": 2,
    "evaluate_every": 1,
    "image_size": 32,
    "workers": -1,
    "memory_bank": 0,
    "train_classes": 0,
}
NOT_NEGATIVE = (
    "lr",
    "lr_decay",
    "proxy_lr",
    "weight_decay",
    "margin",
    "pair_margin",
    "mdr_weight",
    "level_weight",
)


@dataclass(frozen=True)
class Config:
    """What an experiment is. Fields have the paper's values where these suit a small set.

    What is run. dataset: see `mdrlib.datasets.load`. method: a loss of LOSSES by its name, then "+l2" for
    L2-normalized embeddings, then "+mdr" for the regularizer: "triplet", "triplet+l2" and "triplet+mdr" are
    the paper's. mode: "train", or "evaluate" to measure `weights` without training.

    The network. backbone, dim, pretrained, weights, pooling, freeze_batch_norm: see `build_embedder`.
    head: its `normalize`, or "auto" for what the method says: "l2" if named, else that of LOSSES.
    image_size: pixels of a photograph's side; sets in memory keep their own.

    What is learned from. train_classes: how many of the training classes, drawn at random; 0 for all.
    label_noise: the share, in [0, 1), of training images labelled as another class.

    Training. iterations: batches trained on, of batch_size images, per_class of each class. lr is multiplied
    by lr_decay at the iterations lr_steps; the proxies of a loss that has any learn with proxy_lr. miner: a
    function of `mdrlib.miners` by its name, margin: for the triplet and the margin loss; pair_margin: see
    `pml.build_loss`. mdr_weight is the paper's lambda, level_weight its nu, momentum its gamma, levels the
    initial ones; memory_bank: how many embeddings of past batches MDR sees besides those of the batch
    (`mdr.MemoryBank`); mdr_backend: see `MDR`. augment: random crops and flips of photographs, affine
    changes of the small sets. channels_last: memory layout of the network; bf16: run it in bfloat16 (losses,
    distances and evaluations never do); compile: through torch.compile.

    Evaluation, every evaluate_every iterations. recall_at: the K of Recall@K. The result is that of the
    last evaluation; with validation, a share in [0, 1) of the training classes held out, that of the best
    Recall@1 on them; with select_by_test that of the best on the test set itself, as the paper's authors do.

    Where. device: "auto", "cpu", "cuda". data_root: see `mdrlib.datasets`. workers: processes that read
    photographs, -1 for as many as keep a GPU busy, none beside training on a CPU. cache_images: keep
    photographs on disk as they are after decoding and resizing.
    Raises ValueError or TypeError for values out of range. `Config.of(mapping)` names unknown keys.
    """

    dataset: str = "glyphs"
    method: str = "triplet+mdr"
    mode: str = "train"
    backbone: str = "small"
    dim: int = 128
    head: str = "auto"
    pretrained: bool = False
    weights: str | None = None
    pooling: str = "average"
    freeze_batch_norm: bool = False
    image_size: int = 224
    train_classes: int = 0
    label_noise: float = 0.0
    seed: int = 0
    iterations: int = 400
    batch_size: int = 128
    per_class: int = 4
    lr: float = 1e-3
    lr_steps: tuple[int, ...] = ()
    lr_decay: float = 0.2
    proxy_lr: float = 0.1
    weight_decay: float = 1e-5
    miner: str = "distance_weighted"
    margin: float = 0.2
    pair_margin: float = 1.0
    mdr_weight: float = 0.2
    level_weight: float = 0.01
    levels: tuple[float, ...] = (-3.0, 0.0, 3.0)
    momentum: float = 0.9
    learn_levels: bool = True
    diagonal_in_stats: bool = False
    memory_bank: int = 0
    mdr_backend: str = "auto"
    augment: bool = True
    channels_last: bool = False
    bf16: bool = False
    compile: bool = False
    evaluate_every: int = 50
    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    validation: float = 0.0
    select_by_test: bool = False
    device: str = "auto"
    data_root: str | None = None
    workers: int = -1
    cache_images: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, field.default, getattr(self, field.name)))
        method_parts(self.method)
        known = {"mode": MODES, "pooling": POOLING, "head": ("auto", *NORMALIZE), "miner": [*MINERS]}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {list(values)}, got {getattr(self, name)!r}")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        for name in ("momentum", "validation", "label_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if 1 not in self.recall_at or min(self.recall_at) < 1:
            raise ValueError(f"recall_at must be numbers from 1 with 1 among them, got {self.recall_at}")
        if self.validation and self.select_by_test:
            raise ValueError("select_by_test and validation both choose the result: set one of them to zero")
        if self.dataset in BENCHMARKS and self.backbone in SMALL:
            raise ValueError(
                f'{self.dataset} has photographs, which the backbone "{self.backbone}" does not take; choose '
                '"bn_inception", "resnet18", "resnet50" or another of torchvision or timm'
            )
        MDR(self.levels, self.momentum, backend=self.mdr_backend)  # checks them

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Config":
        """A Config from a mapping; ValueError names the keys that are not fields."""
        unknown = sorted(values.keys() - {field.name for field in fields(cls)}, key=str)
        if unknown:
            raise ValueError(f"unknown Config keys {unknown}; known are {[f.name for f in fields(cls)]}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them, lists for tuples; `Config.of` takes them back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def identity(self) -> str:
        """A text that two Configs share exactly if they describe the same experiment.

        It is JSON of all fields but PLACE; a file of weights counts by its name, not by its folder.
        """
        values = {k: v for k, v in self.to_dict().items() if k not in PLACE}
        if self.weights is not None:
            values["weights"] = Path(self.weights).name
        return json.dumps(values, sort_keys=True)

    @property
    def normalize(self) -> str:
        """What the head does to embeddings: "none", "l2" or "mean-distance"."""
        return method_parts(self.method)[1] if self.head == "auto" else self.head

    @property
    def loss(self) -> str:
        """The name of the loss, without what the method adds to it."""
        return method_parts(self.method)[0]

    @property
    def with_mdr(self) -> bool:
        """Whether the regularizer acts."""
        return method_parts(self.method)[2]


def method_parts(method: str) -> tuple[str, str, bool]:
    """Loss, head and whether MDR acts, of "<loss>[+l2][+mdr]"; ValueError for another text."""
    loss, *added = method.split("+")
    if loss not in LOSSES or added not in ([], ["l2"], ["mdr"], ["l2", "mdr"]):
        raise ValueError(
            f'method must be one of {sorted(LOSSES)}, then "+l2", "+mdr", both in this order, or nothing, '
            f"got {method!r}"
        )
    return loss, "l2" if "l2" in added else LOSSES[loss], "mdr" in added


def _typed(name: str, default: Any, value: Any) -> Any:
    """`value` as the type of the field's default: whole numbers pass for any number, lists for tuples."""
    kind = type(default)
    if name in OPTIONAL:
        if not isinstance(value, str | PathLike | None):
            raise TypeError(f"{name} must be a path or null, got {value!r}")
        return None if value is None else str(value)
    if kind is tuple and isinstance(value, list | tuple):
        item = int if name in WHOLE else float
        if any(isinstance(v, bool) or not isinstance(v, int | item) for v in value):
            raise TypeError(f"{name} must be a list of {item.__name__}, got {value!r}")
        return tuple(item(v) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"{name} must be {kind.__name__}, got {value!r}")
    return value


def completed(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored config as JSON has it, with fields that are newer than it at their defaults.

    Defaults of new fields do what was done before there were these fields. Raises as `Config.of` does, so for
    fields that are unknown.
    """
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(Config.of(stored)).items()}
