"""Image sets for zero-shot retrieval, in memory or on disk, and the batches drawn from them."""

from pathlib import Path

import torch

from mdrlib import checks
from mdrlib.datasets import benchmarks, digits, folder, glyphs, omniglot
from mdrlib.datasets.benchmarks import BENCHMARKS
from mdrlib.datasets.class_splits import Rows, halve, training_half
from mdrlib.datasets.download import data_root
from mdrlib.datasets.images import ImageFiles, ImageSet
from mdrlib.datasets.sampling import PKBatchSampler

__all__ = ["ImageFiles", "ImageSet", "PKBatchSampler", "load", "split_names"]

IN_MEMORY = {"digits": digits.read, "glyphs": glyphs.generate, "omniglot": omniglot.read}
CLASS_SPLITS = range(11)


def load(
    name: str, split: str, root: str | Path | None = None, class_split: int = 0
) -> ImageSet | ImageFiles:
    """Load one split of a data set. No class of "train" is in another split.

    Args:
        name: In memory: "glyphs" (generated), "digits" (from scikit-learn) or "omniglot" (downloaded if
            missing). On disk: "cub", "cars", "sop", "inshop" or "grocery", see `python -m mdrlib data`; or
            "folder", your own photographs, see `mdrlib.datasets.folder.read`.
        split: One of `split_names`.
        root: The folder of data sets, by default $MDR_DATA_ROOT, else data/. For "folder", the folder of
            photographs, which may lie below the folder of data sets.
        class_split: 0 for the set's own split, 1 to 10 for random ones: see `mdrlib.datasets.class_splits`.

    Raises:
        ValueError: The name or split is unknown, or the data are damaged or incomplete.
        OSError: The data are missing; the message says where to put them and how to get them.
    """
    names = split_names(name, root)
    if split not in names:
        raise ValueError(f"{name} has no split {split!r}; choose one of {list(names)}")
    if class_split not in CLASS_SPLITS:
        raise ValueError(f"class_split must be from 0 to {CLASS_SPLITS[-1]}, got {class_split!r}")
    if name in IN_MEMORY:
        return _in_memory(name, split, root, class_split)
    if name == "folder":
        place = _place(root)
        rows, contents = folder.read(place, class_split)
    else:
        place, rows, contents = benchmarks.read(name, data_root(root))
    return _files(name, split, place, halve(rows, class_split) if class_split else rows, contents)


def split_names(name: str, root: str | Path | None = None) -> tuple[str, ...]:
    """Return the splits of a data set, ("train", "test") or ("train", "query", "gallery"): see `load`."""
    if name == "folder":
        if root is None:
            raise ValueError('"folder" needs a folder of photographs: set root, or data_root of the Config')
        return folder.splits(_place(root))
    if name in BENCHMARKS:
        return tuple(BENCHMARKS[name].sizes)
    if name not in IN_MEMORY:
        choices = sorted(["folder", *IN_MEMORY, *BENCHMARKS])
        raise ValueError(f"unknown data set {name!r}; choose one of {choices}")
    return "train", "test"


def _place(root: str | Path) -> Path:
    """Return a folder of photographs: `root` itself, or if it does not exist, below the data sets."""
    place = checks.path(root, "root")
    return place if place.exists() or not (data_root() / place).exists() else data_root() / place


def _files(name: str, split: str, place: Path, rows: Rows, contents: dict[str, str]) -> ImageFiles:
    classes = {row.number: row for row in rows[split]}
    # Classes that only the gallery has come last: a label means the same for queries and gallery.
    asked = {row.number for row in rows.get("query", ())}
    classes = [
        classes[number] for number in sorted(classes, key=lambda number: (number not in asked, number))
    ]
    position = {row.number: label for label, row in enumerate(classes)}
    labels = torch.tensor([position[row.number] for row in rows[split]])
    named = {row.group: row.group_name for found in rows.values() for row in found if row.group is not None}
    order = sorted(named)
    groups = torch.tensor([order.index(row.group) for row in classes]) if named else None
    files, names = [row.path for row in rows[split]], [row.name for row in classes]
    seen = [contents[file] for file in files] if contents else []
    return ImageFiles(name, split, place, files, labels, names, groups, [named[g] for g in order], seen)


def _in_memory(name: str, split: str, root: str | Path | None, class_split: int) -> ImageSet:
    place = [data_root(root) / name] if name == "omniglot" else []
    if not class_split:
        return ImageSet(name, split, **IN_MEMORY[name](split, *place))
    one, other = (IN_MEMORY[name](part, *place) for part in ("train", "test"))
    labels = torch.cat([one["labels"], other["labels"] + len(one["classes"])])
    units, coarse = labels, [*one.get("group_names", ()), *other.get("group_names", ())]
    if coarse:
        units = torch.cat([one["groups"], other["groups"] + len(one["group_names"])])
    half = torch.tensor(sorted(training_half(units.tolist(), class_split)))
    kept = torch.isin(units, half) == (split == "train")
    more = {key: torch.cat([one[key], other[key]])[kept] for key in {"images", "writers"} & one.keys()}
    if coarse:
        used, more["groups"] = units[kept].unique(return_inverse=True)
        more["group_names"] = [coarse[group] for group in used]
    used, labels = labels[kept].unique(return_inverse=True)
    classes = [[*one["classes"], *other["classes"]][label] for label in used]
    return ImageSet(name, split, labels=labels, classes=classes, **more)
