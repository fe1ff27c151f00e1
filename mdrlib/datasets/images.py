"""Image sets: drawings in memory, photographs on disk and the cache of their decoded pixels."""

import hashlib
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mdrlib.datasets.transforms import to_float

VERSION = 2  # of the cache; raise it when rows or the pixels in them change
RESERVE = 2**30  # bytes of a disk that the cache never takes
STAMP, CHECKSUM = struct.Struct("<qq"), struct.Struct("<I")
HEAD = STAMP.size + CHECKSUM.size


@dataclass(eq=False, repr=False)
class ImageSet(Dataset):
    """One split of a data set that fits in memory.

    Item i is (image, label): float32 (C, H, W) in [0, 1], or what `transform` returns for it.
    """

    name: str
    split: str
    images: Tensor  #: (N, C, H, W) uint8
    labels: Tensor  #: (N,) int64, contiguous from 0
    classes: list[str]  #: the name of each class
    groups: Tensor | None = None  #: (N,) int64, the coarse class (alphabet) of each image
    group_names: list[str] = field(default_factory=list)
    writers: Tensor | None = None  #: (N,) int64, who drew each image
    transform: Callable[[Tensor], Any] | None = None
    fingerprint: str = field(init=False)  #: 16 hex digits, by which results name their data

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            found = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise ValueError(f"images must be uint8 (N, C, H, W), got {found}")
        _check_labels(self.labels, len(self.images), len(self.classes))
        self.fingerprint = _fingerprint(self.images.numpy().tobytes(), self.labels)

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


@dataclass(eq=False, repr=False)
class ImageFiles(Dataset):
    """One split of a data set of photographs, each opened when it is indexed.

    Item i is (image, label): what `transform` returns for the RGB image of pillow; without a transform,
    float32 (3, H, W) in [0, 1]. A missing or damaged image raises an OSError with its path.
    """

    name: str
    split: str
    folder: Path
    files: list[str]  #: N paths below `folder`
    labels: Tensor  #: (N,) int64, contiguous from 0
    classes: list[str]  #: the name of each class
    whole: bool = True  #: False for a miniature of a published set
    transform: Callable[[Any], Any] | None = None
    paths: list[Path] = field(init=False)  #: N full paths
    fingerprint: str = field(init=False)  #: 16 hex digits of `files` and labels, not of pixels

    def __post_init__(self) -> None:
        _check_labels(self.labels, len(self.files), len(self.classes))
        self.paths = [self.folder / file for file in self.files]
        self.fingerprint = _fingerprint("\n".join(self.files).encode(), self.labels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = open_image(self.paths[index])
        if self.transform is None:
            image = to_float(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous())
        else:
            image = self.transform(image)
        return image, int(self.labels[index])

    def __repr__(self) -> str:
        counts = f"{len(self)} images, {len(self.classes)} classes{'' if self.whole else ', a miniature'}"
        return f"ImageFiles({self.name} {self.split}: {counts})"


def open_image(path: Path) -> Any:
    """Read the image at `path` as an RGB image of pillow, ignoring transparency and orientation.

    Raises:
        OSError: The image is missing or damaged; the message has its path.
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("opening photographs needs pillow: pip install 'mdrlib[data]'") from error

    try:
        with Image.open(path) as image:
            # Pillow warns when a palette with transparent entries loses them on the way to RGB.
            clear = image.mode == "P" and "transparency" in image.info
            return (image.convert("RGBA") if clear else image).convert("RGB")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; run `python -m mdrlib data check`") from error
    except Exception as error:  # pillow raises many kinds for a damaged file
        raise OSError(f"{path} cannot be read as an image ({error}); replace it") from error


class ResizedImages:
    """The photographs of `files` stretched to `edge` x `edge` pixels, kept in a file if `cache` is true.

    The filter is Lanczos, as in utils/common.py of github.com/kakaoenterprise/AAAI2021_MDR.
    Row i of the file is the stamp of the source (mtime in ns, bytes), the crc32 of stamp and pixels, and the
    pixels (edge, edge, 3) uint8. A row counts only if both are right: a replaced image, an empty or half
    written row and a flipped bit are decoded again. So processes share the file without locks.
    """

    def __init__(self, files: ImageFiles, edge: int, cache: bool) -> None:
        try:
            from torchvision.transforms import v2
        except ImportError as error:
            raise ImportError("photographs need torchvision: pip install 'mdrlib[vision]'") from error

        self.paths, self.edge = [str(path) for path in files.paths], edge
        self.kept = cache_file(files, edge) if cache else None
        self.resize = v2.Resize((edge, edge), interpolation=v2.InterpolationMode.LANCZOS)

    def __getitem__(self, index: int) -> Any:
        path = Path(self.paths[index])
        if self.kept is None or not path.exists():
            return self.resize(open_image(path))
        status = path.stat()  # before the image is read: one replaced meanwhile will not match its stamp
        stamp = STAMP.pack(status.st_mtime_ns, status.st_size)
        row = self._row(index)
        if row[:HEAD] == stamp + _checksum(stamp, row[HEAD:]):
            from PIL import Image

            return Image.frombytes("RGB", (self.edge, self.edge), row[HEAD:])
        image = self.resize(open_image(path))
        pixels = image.tobytes()
        self._row(index, stamp + _checksum(stamp, pixels) + pixels)
        return image

    def _row(self, index: int, new: bytes | None = None) -> bytes:
        """Read a row, or write `new` there. On an error, go on without the file."""
        if self.kept is None:
            return b""
        try:
            # Written, not mapped: on a full disk, a mapped page would kill the process.
            with open(self.kept, "r+b", buffering=0) as file:
                file.seek(index * row_bytes(self.edge))
                if new is None:
                    return file.read(row_bytes(self.edge))
                file.write(new)
        except OSError as error:
            print(f"mdrlib: resized images are no longer kept ({error})", file=sys.stderr)
            self.kept = None
        return b""


def row_bytes(edge: int) -> int:
    """Return the bytes that one image takes in the cache, at `edge` x `edge` pixels."""
    return HEAD + 3 * edge * edge


def cache_file(files: ImageFiles, edge: int) -> Path | None:
    """Return the sparse file that keeps the resized images of a split; None, with a message, if it cannot.

    It lies in $XDG_CACHE_HOME/mdrlib or ~/.cache/mdrlib and may be deleted at any time. It grows with the
    images that are used; it is not made unless all of them fit.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG Base Directory Specification says to ignore relative paths.
    folder = (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "mdrlib"
    path = folder / f"{files.name}-{files.split}-{files.fingerprint}-{edge}-v{VERSION}.rows"
    size = len(files) * row_bytes(edge)
    kept = f"mdrlib: resized images of {files.name} {files.split}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            # Where the system does not say how much of a sparse file exists, assume nothing does.
            missing = size - 512 * getattr(os.fstat(file.fileno()), "st_blocks", 0)
            free = max(shutil.disk_usage(folder).free - RESERVE, 0)
            if missing > free:
                raise OSError(f"{missing / 1e9:.1f} GB more are needed, {free / 1e9:.1f} GB are free")
            if not file.tell():
                print(f"{kept} are kept in {path}, which grows to {size / 1e9:.1f} GB", file=sys.stderr)
            file.truncate(size)  # keeps what the file holds
    except OSError as error:
        print(f"{kept} cannot be kept in {folder} ({error}); set XDG_CACHE_HOME to another", file=sys.stderr)
        return None
    return path


def _checksum(stamp: bytes, pixels: bytes) -> bytes:
    return CHECKSUM.pack(zlib.crc32(pixels, zlib.crc32(stamp)))


def _check_labels(labels: Tensor, count: int, classes: int) -> None:
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 ({count},), got {labels.dtype} {tuple(labels.shape)}")
    if not torch.equal(labels.unique(), torch.arange(classes)):
        raise ValueError(f"labels must use each of 0..{classes - 1}, the numbers of the classes")


def _fingerprint(content: bytes, labels: Tensor) -> str:
    return hashlib.sha256(content + labels.numpy().tobytes()).hexdigest()[:16]
