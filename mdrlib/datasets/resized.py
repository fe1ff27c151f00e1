"""Photographs resized to one size, and the file that keeps them so that each is decoded once."""

import os
import shutil
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from mdrlib.datasets.files import ImageFiles, open_image
from mdrlib.datasets.omniglot import cache_folder

VERSION = 2  # raise when rows or the pixels in them change: it names the file
RESERVE = 2**30  # bytes of a disk that are never taken
STAMP, CHECKSUM = struct.Struct("<qq"), struct.Struct("<I")
HEAD = STAMP.size + CHECKSUM.size


class ResizedImages:
    """The images of `files` as RGB images of pillow, stretched to `edge` x `edge` pixels.

    With Lanczos' filter, as utils/common.py of github.com/kakaoenterprise/AAAI2021_MDR has it.
    cache: keep them in the file that `prepare` makes. Row i of it is the stamp of the source (mtime in ns,
    bytes), the crc32 of stamp and pixels, and the pixels (edge, edge, 3) uint8. A row counts only if both are
    right: an image that was replaced, a row that was never or half written and a flipped bit all mean
    decoding anew. So processes need not know of each other, and may be killed at any time.
    Item i raises FileNotFoundError or OSError naming the path, as `files.open_image` does.
    """

    def __init__(self, files: ImageFiles, edge: int, cache: bool = True) -> None:
        try:
            from torchvision.transforms import v2
        except ImportError as error:
            raise ImportError("loading photographs needs torchvision: pip install mdrlib[vision]") from error

        self.paths, self.edge = [str(path) for path in files.paths], edge
        self.kept = prepare(files, edge) if cache else None
        self.resize = v2.Resize((edge, edge), interpolation=v2.InterpolationMode.LANCZOS)
        self.row = bytearray(row_bytes(edge))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        path = Path(self.paths[index])
        # Before the image is read: one that is replaced meanwhile will not match its stamp.
        stamp = None if self.kept is None else _stamp(path)
        if stamp is not None and self._read(index, stamp):
            from PIL import Image

            return Image.frombytes("RGB", (self.edge, self.edge), memoryview(self.row)[HEAD:])
        image = self.resize(open_image(path))
        if stamp is not None and self.kept is not None:
            self._write(index, stamp, image.tobytes())
        return image

    def _read(self, index: int, stamp: bytes) -> bool:
        """Whether the row of an image is there and right; then it is in `self.row`."""
        try:
            with open(self.kept, "rb", buffering=0) as file:
                file.seek(index * len(self.row))
                count = file.readinto(self.row)
        except OSError:
            self.kept = None  # removed since, or a broken disk: go on without
            return False
        if count != len(self.row) or self.row[: STAMP.size] != stamp:
            return False
        pixels = memoryview(self.row)[HEAD:]
        return CHECKSUM.unpack_from(self.row, STAMP.size)[0] == zlib.crc32(pixels, zlib.crc32(stamp))

    def _write(self, index: int, stamp: bytes, pixels: bytes) -> None:
        checksum = CHECKSUM.pack(zlib.crc32(pixels, zlib.crc32(stamp)))
        try:
            # Written, not mapped: on a disk that is full, a mapped page would kill the process.
            with open(self.kept, "r+b", buffering=0) as file:
                file.seek(index * len(self.row))
                file.write(stamp + checksum + pixels)
        except OSError as error:
            self.kept = None
            print(f"mdrlib: resized images are kept no more ({error})", file=sys.stderr)


def row_bytes(edge: int) -> int:
    """Bytes that one image takes in the file."""
    return HEAD + 3 * edge * edge


def prepare(files: ImageFiles, edge: int) -> Path | None:
    """The file that keeps the resized images of a split, made if need be; None, and a line on stderr saying
    why, where there is no room for all of them or the folder cannot be written.

    It lies in $XDG_CACHE_HOME/mdrlib or ~/.cache/mdrlib and may be deleted at any time. It is sparse and
    grows with the images that are used, at 256 x 256 pixels to 1.2 GB for CUB-200-2011's training images and
    as much for its test images, 1.6 GB each for Cars-196, 11.7 and 11.9 GB for SOP, and 5.1, 2.8 and 2.5 GB
    for In-Shop's train, query and gallery.
    """
    path = cache_folder() / f"{files.name}-{files.split}-{files.fingerprint}-{edge}-v{VERSION}.rows"
    size = len(files) * row_bytes(edge)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        # Where the system does not say how much of a sparse file is there, nothing is.
        wanted = size if is_new else size - 512 * getattr(path.stat(), "st_blocks", 0)
        free = shutil.disk_usage(path.parent).free
        if wanted > max(free - RESERVE, 0):
            raise OSError(f"{wanted / 1e9:.1f} GB more are needed there, {free / 1e9:.1f} GB are free")
        with open(path, "ab") as file:
            file.truncate(size)  # what is there stays
    except OSError as error:
        print(
            f"mdrlib: resized images of {files.name} {files.split} cannot be kept in {path.parent} "
            f"({error}): each is decoded every time; XDG_CACHE_HOME names another place",
            file=sys.stderr,
        )
        return None
    if is_new:
        where = f"{path}, which grows to {size / 1e9:.1f} GB"
        print(f"mdrlib: resized images of {files.name} {files.split} are kept in {where}", file=sys.stderr)
    return path


def _stamp(path: Path) -> bytes | None:
    """What tells one version of a file from another; None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return STAMP.pack(status.st_mtime_ns, status.st_size)
