"""Data sets by name: small ones in memory with what is above and below their classes, large ones as files."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mdrlib.datasets import cars, cub, digits, files, glyphs, inshop, omniglot, sop
from mdrlib.datasets.sources import data_root
from mdrlib.datasets.transforms import to_float

IN_MEMORY = {"digits": digits.read, "glyphs": glyphs.read, "omniglot": omniglot.read}
ON_DISK = {"cars": cars, "cub": cub, "inshop": inshop, "sop": sop}


class ImageSet(Dataset):
    """One split of a data set.

    images (N, C, H, W) uint8. labels (N,) int64, contiguous from 0; classes: the name of each.
    groups (N,) int64: the alphabet of each image, named by group_names; None where there are none.
    writers (N,) int64: who drew it; None where that is not known.
    fingerprint: 16 hex digits of the sha256 of images and labels, by which results name their data.
    Item i is (image, label): the image (C, H, W) float32 in [0, 1], or what `transform` makes of that.
    Raises ValueError when the parts do not fit each other.
    """

    def __init__(
        self,
        name: str,
        split: str,
        images: Tensor,
        labels: Tensor,
        classes: list[str],
        groups: Tensor | None = None,
        group_names: list[str] | None = None,
        writers: Tensor | None = None,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        for kind, values in (("labels", labels), ("groups", groups), ("writers", writers)):
            if values is not None and (values.shape != (len(images),) or values.dtype != torch.int64):
                raise ValueError(f"{kind} must be int64 ({len(images)},), got {values.dtype} {values.shape}")
        if not torch.equal(labels.unique(), torch.arange(len(classes))):
            raise ValueError(f"labels must use each of 0..{len(classes) - 1}, one for each of the classes")
        self.name, self.split, self.transform = name, split, transform
        self.images, self.labels, self.classes = images, labels, classes
        self.groups, self.group_names, self.writers = groups, group_names or [], writers
        digest = hashlib.sha256(images.numpy().tobytes())
        digest.update(labels.numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = to_float(self.images[index])
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])

    def __repr__(self) -> str:
        shape = " x ".join(str(size) for size in self.images.shape[1:])
        groups = f", {len(self.group_names)} groups" if self.group_names else ""
        counts = f"{len(self)} images {shape}, {len(self.classes)} classes{groups}"
        return f"ImageSet({self.name} {self.split}: {counts})"


def load(
    name: str,
    split: str,
    root: str | Path | None = None,
    transform: Callable[[Any], Any] | None = None,
) -> ImageSet | files.ImageFiles:
    """The `split` of the data set `name`. No class is in both train and any other split of a set.

    name: in memory, as `ImageSet`: "glyphs" (generated characters, needs nothing), "digits" (scans that
    scikit-learn brings) or "omniglot" (real drawings, looked for in `root` and downloaded into it when
    missing). On disk, as `files.ImageFiles`: "cub", "cars", "sop" and "inshop", photographs looked for in
    `root` and brought there by `python -m mdrlib data NAME`.
    split: "train" or "test"; of "inshop" "train", "query" or "gallery", the latter two with the same classes.
    root: the folder of data sets; by default the environment variable MDR_DATA_ROOT, else the folder data of
    the clone. transform: see `ImageSet` (given a tensor) and `ImageFiles` (given an image of pillow).
    Raises ValueError for an unknown name or split, naming the choices, and for photographs whose annotation
    is damaged or of another size than the real set's (see `files.check`); OSError when the data cannot be
    had, naming where they were looked for.
    """
    if name not in IN_MEMORY and name not in ON_DISK:
        raise ValueError(f"unknown data set {name!r}; choose one of {sorted([*IN_MEMORY, *ON_DISK])}")
    splits = list(ON_DISK[name].SIZES) if name in ON_DISK else ["train", "test"]
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}; choose one of {splits}")
    if name in IN_MEMORY:
        return ImageSet(name, split, **IN_MEMORY[name](split, root), transform=transform)
    module = ON_DISK[name]
    base, rows = module.read(data_root(root) / module.FOLDER)
    parts = files.parts(module.TITLE, split, base, rows, module.SIZES)
    return files.ImageFiles(name, split, **parts, transform=transform)
