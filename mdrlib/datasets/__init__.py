"""Image sets for zero-shot retrieval, in memory or on disk, and the batches drawn from them."""

from pathlib import Path

from mdrlib.datasets import digits, glyphs, omniglot
from mdrlib.datasets.benchmarks import BENCHMARKS, load_files
from mdrlib.datasets.download import data_root
from mdrlib.datasets.images import ImageFiles, ImageSet
from mdrlib.datasets.sampling import PKBatchSampler

__all__ = ["ImageFiles", "ImageSet", "PKBatchSampler", "load"]


def load(name: str, split: str, root: str | Path | None = None) -> ImageSet | ImageFiles:
    """Load one split of a data set. No class of "train" is in another split.

    Args:
        name: In memory: "glyphs" (generated), "digits" (from scikit-learn) or "omniglot" (downloaded if
            missing). On disk: "cub", "cars", "sop" or "inshop", see `python -m mdrlib data`.
        split: "train" or "test"; of "inshop" "train", "query" or "gallery".
        root: The folder of data sets; by default $MDR_DATA_ROOT, else data/.

    Raises:
        ValueError: The name or split is unknown, or the data are damaged or incomplete.
        OSError: The data are missing; the message says where they belong and how to get them.
    """
    names = sorted(["digits", "glyphs", "omniglot", *BENCHMARKS])
    if name not in names:
        raise ValueError(f"unknown data set {name!r}; choose one of {names}")
    splits = list(BENCHMARKS[name].sizes) if name in BENCHMARKS else ["train", "test"]
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}; choose one of {splits}")
    if name in BENCHMARKS:
        return load_files(name, split, data_root(root))
    if name == "omniglot":
        parts = omniglot.read(split, data_root(root) / name)
    else:
        parts = glyphs.generate(split) if name == "glyphs" else digits.read(split)
    return ImageSet(name, split, **parts)
