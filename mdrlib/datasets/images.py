"""Image sets: drawings in memory, photographs on disk and the cache of their decoded pixels."""

import contextlib
import hashlib
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

from mdrlib.datasets.preprocessing import Preprocessing, open_image, optional
from mdrlib.datasets.transforms import to_float

VERSION = 4  # of the cache; raise it when its files or the pixels in them change
RESERVE = 2**30  # bytes of a disk that the cache leaves free


class _Split(Dataset):
    def _identify(self, content: bytes) -> None:
        self.fingerprint = hashlib.sha256(content + self.labels.numpy().tobytes()).hexdigest()[:16]

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
        self._identify(self.images.numpy().tobytes())

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
    groups: Tensor | None = None  #: (C,) int64, the coarse class of each class, an index of `group_names`
    group_names: list[str] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)  #: N sha256 of the files, where these were read
    paths: list[Path] = field(init=False)  #: N full paths
    fingerprint: str = field(init=False)  #: 16 hex digits of `files`, `contents` and labels, not of pixels

    def __post_init__(self) -> None:
        self._identify("\n".join(self.files + self.contents).encode("utf8", "surrogateescape"))
        self.paths = [self.folder / file for file in self.files]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(np.array(open_image(self.paths[index])))
        return to_float(pixels.permute(2, 0, 1).contiguous()), int(self.labels[index])


class StoredImages:
    """The stored squares of photographs (see `Preprocessing`), kept on disk if `cache` is true.

    A file of pixels (stored_size, stored_size, 3) uint8 is named by path, time and size of its source: a
    replaced photograph is decoded again. The splits of a folder share these files.
    """

    def __init__(self, files: ImageFiles, preprocessing: Preprocessing, cache: bool) -> None:
        self.paths, self.names = files.paths, [digest(file) for file in files.files]
        self.preprocessing = preprocessing
        self.kept = cache_folder(files, preprocessing) if cache else None

    def __getitem__(self, index: int) -> Any:
        path = self.paths[index]
        if self.kept is None or not (state := stamp(path)):
            return self.preprocessing.store(open_image(path))
        # The state is taken before the image is read, which may be replaced meanwhile.
        kept = self.kept / f"{self.names[index]}-{state}"
        size = self.preprocessing.stored_size, self.preprocessing.stored_size
        with contextlib.suppress(OSError, ValueError):  # it does not exist, or has too few bytes
            return optional("PIL.Image", "data").frombytes("RGB", size, kept.read_bytes())
        image = self.preprocessing.store(open_image(path))
        with contextlib.suppress(OSError):  # a full disk costs time, not the run
            if shutil.disk_usage(self.kept).free > RESERVE:
                kept.write_bytes(image.tobytes())
        return image


def stamp(path: Path) -> str:
    """Return time and size of a file, which change with it; "" if it does not exist."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return f"{status.st_mtime_ns}-{status.st_size}"
    return ""


def digest(text: str) -> str:
    """Return 16 hex digits that stand for a path, whatever bytes its name has."""
    return hashlib.sha256(text.encode("utf8", "surrogateescape")).hexdigest()[:16]


def cache_root() -> Path:
    """Return the folder of all caches, $XDG_CACHE_HOME/mdrlib or ~/.cache/mdrlib. You may delete it."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG Base Directory Specification says to ignore relative paths.
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "mdrlib"


def cache_folder(files: ImageFiles, preprocessing: Preprocessing) -> Path | None:
    """Return the folder of stored squares below `cache_root`; None, with a message, if it cannot exist."""
    root, edge = cache_root(), preprocessing.stored_size
    shape = f"{edge}-middle" if preprocessing.keep_aspect else edge
    folder = root / f"{files.name}-{digest(str(files.folder.resolve()))}-{shape}-v{VERSION}"
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            size = len(files) * 3 * edge**2 / 1e9
            print(f"mdrlib: {folder} keeps resized images, now up to {size:.1f} GB", file=sys.stderr)
    except OSError as error:
        print(f"mdrlib: {root} cannot hold resized images ({error}); set XDG_CACHE_HOME", file=sys.stderr)
        return None
    return folder
