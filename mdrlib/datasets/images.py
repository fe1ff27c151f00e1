"""Image sets: drawings in memory, photographs on disk and the cache of their decoded pixels."""

import contextlib
import hashlib
import importlib
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mdrlib.datasets.transforms import to_float

VERSION = 3  # of the cache; raise it when its files or the pixels in them change
RESERVE = 2**30  # bytes of a disk that the cache leaves free


def optional(module: str, extra: str) -> Any:
    """Import and return a module of a package that only `extra` of mdrlib installs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is missing: pip install 'mdrlib[{extra}]'") from error


class _Split(Dataset):
    def _check(self, count: int, content: bytes) -> None:
        labels, classes = self.labels, torch.arange(len(self.classes))
        if labels.shape != (count,) or labels.dtype != torch.int64 or not labels.unique().equal(classes):
            wanted = f"int64 ({count},) and use each of 0..{len(classes) - 1}"
            raise ValueError(f"labels must be {wanted}, got {labels.dtype} {tuple(labels.shape)}")
        self.fingerprint = hashlib.sha256(content + labels.numpy().tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        counts = f"{len(self)} images, {len(self.classes)} classes"
        return f"{type(self).__name__}({self.name} {self.split}: {counts})"


@dataclass(eq=False, repr=False)
class ImageSet(_Split):
    """One split of a data set in memory. Item i is an image, float32 (C, H, W) in [0, 1], and its label."""

    name: str
    split: str
    images: Tensor  #: (N, C, H, W) uint8
    labels: Tensor  #: (N,) int64, contiguous from 0
    classes: list[str]  #: the name of each class
    groups: Tensor | None = None  #: (N,) int64, the coarse class (alphabet) of each image
    group_names: list[str] = field(default_factory=list)
    writers: Tensor | None = None  #: (N,) int64, who drew each image
    fingerprint: str = field(init=False)  #: 16 hex digits, by which results name their data

    def __post_init__(self) -> None:
        self._check(len(self.images), self.images.numpy().tobytes())

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_float(self.images[index]), int(self.labels[index])


@dataclass(eq=False, repr=False)
class ImageFiles(_Split):
    """One split of a data set of photographs on disk. Items are as those of `ImageSet`."""

    name: str
    split: str
    folder: Path
    files: list[str]  #: N paths below `folder`
    labels: Tensor  #: (N,) int64, contiguous from 0
    classes: list[str]  #: the name of each class
    paths: list[Path] = field(init=False)  #: N full paths
    fingerprint: str = field(init=False)  #: 16 hex digits of `files` and labels, not of pixels

    def __post_init__(self) -> None:
        self._check(len(self.files), "\n".join(self.files).encode())
        self.paths = [self.folder / file for file in self.files]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(np.array(open_image(self.paths[index])))
        return to_float(pixels.permute(2, 0, 1).contiguous()), int(self.labels[index])


def open_image(path: Path) -> Any:
    """Return an RGB image of pillow, without transparency and orientation; a damaged one is an OSError."""
    pillow = optional("PIL.Image", "data")
    try:
        with pillow.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # pillow raises many kinds for a damaged file
        raise OSError(f"{path} cannot be read as an image ({error}); see `mdrlib data check`") from error


class ResizedImages:
    """The photographs of `files` stretched to `edge` x `edge` pixels, kept on disk if `cache` is true.

    The filter is Lanczos, as in utils/common.py of github.com/kakaoenterprise/AAAI2021_MDR. A file of pixels
    (edge, edge, 3) uint8 is named by index, time and size of its source: a replaced one is decoded again.
    """

    def __init__(self, files: ImageFiles, edge: int, cache: bool) -> None:
        v2 = optional("torchvision.transforms.v2", "vision")
        self.paths, self.edge = [str(path) for path in files.paths], edge
        self.kept = cache_folder(files, edge) if cache else None
        self.resize = v2.Resize((edge, edge), interpolation=v2.InterpolationMode.LANCZOS)

    def __getitem__(self, index: int) -> Any:
        path = Path(self.paths[index])
        if self.kept is None or not path.exists():
            return self.resize(open_image(path))
        status = path.stat()  # before the image is read, which may be replaced meanwhile
        kept = self.kept / f"{index}-{status.st_mtime_ns}-{status.st_size}"
        with contextlib.suppress(OSError, ValueError):  # it does not exist, or has too few bytes
            return optional("PIL.Image", "data").frombytes("RGB", (self.edge, self.edge), kept.read_bytes())
        image = self.resize(open_image(path))
        with contextlib.suppress(OSError):  # a full disk costs time, not the run
            kept.write_bytes(image.tobytes())
        return image


def cache_folder(files: ImageFiles, edge: int) -> Path | None:
    """Return the folder that keeps the resized images of a split; None, with a message, if they do not fit.

    It lies in $XDG_CACHE_HOME/mdrlib or ~/.cache/mdrlib and may be deleted at any time.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG Base Directory Specification says to ignore relative paths.
    root = (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "mdrlib"
    folder = root / f"{files.name}-{files.split}-{files.fingerprint}-{edge}-v{VERSION}"
    size = len(files) * 3 * edge * edge
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            if size > shutil.disk_usage(root).free - RESERVE:
                raise OSError(f"{size / 1e9:.1f} GB do not fit")
            folder.mkdir(exist_ok=True)
            print(f"mdrlib: {folder} keeps resized images, up to {size / 1e9:.1f} GB", file=sys.stderr)
    except OSError as error:
        print(f"mdrlib: {root} cannot keep resized images ({error}); set XDG_CACHE_HOME", file=sys.stderr)
        return None
    return folder
