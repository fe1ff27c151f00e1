"""Photographs that stay on disk: a split as a list of files, and what every annotation has to keep."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mdrlib.datasets.transforms import to_float

# A set of fewer images than this share of the real one is a miniature, made to try things out, and is loaded
# as what it is. Anything between the two is a real set that lost something, and is refused.
MINIATURE = 0.1
SUFFIXES = (".jpg", ".jpeg", ".png")


class Row(NamedTuple):
    """One image of an annotation: its path below the folder of images, its class as number and as name."""

    path: str
    number: int
    name: str


class ImageFiles(Dataset):
    """One split of a data set of photographs, each opened when it is asked for.

    folder: where `files`, N paths, start. labels (N,) int64, contiguous from 0; classes: the name of each.
    paths: the N full paths. fingerprint: 16 hex digits of the sha256 of relative paths and labels, by which
    results name their data. whole: whether the set is the real one and no miniature.
    Item i is (image, label): the image opened as RGB, whatever it is stored as, and given to `transform`;
    without one, float32 (3, H, W) in [0, 1]. Raises FileNotFoundError for an image that is missing and
    OSError for one that is damaged, with its path; ValueError when the parts do not fit each other.
    """

    def __init__(
        self,
        name: str,
        split: str,
        folder: Path,
        files: list[str],
        labels: Tensor,
        classes: list[str],
        whole: bool = True,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if labels.shape != (len(files),) or labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64 ({len(files)},), got {labels.dtype} {labels.shape}")
        if not torch.equal(labels.unique(), torch.arange(len(classes))):
            raise ValueError(f"labels must use each of 0..{len(classes) - 1}, one for each of the classes")
        self.name, self.split, self.whole, self.transform = name, split, whole, transform
        self.paths, self.labels, self.classes = [folder / file for file in files], labels, classes
        digest = hashlib.sha256("\n".join(files).encode())
        digest.update(labels.numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = open_image(self.paths[index])
        return (to_tensor if self.transform is None else self.transform)(image), int(self.labels[index])

    def __repr__(self) -> str:
        counts = f"{len(self)} images, {len(self.classes)} classes{'' if self.whole else ', a miniature'}"
        return f"ImageFiles({self.name} {self.split}: {counts})"


def open_image(path: Path) -> Any:
    """The image at `path` as an RGB image of pillow, wholly read. Transparency and orientation are ignored.

    Raises FileNotFoundError or OSError naming the path, ImportError without pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("opening photographs needs pillow: pip install mdrlib[data]") from error

    try:
        with Image.open(path) as image:
            # Pillow warns when a palette with transparent entries loses them on the way to RGB.
            clear = image.mode == "P" and "transparency" in image.info
            return (image.convert("RGBA") if clear else image).convert("RGB")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing; `python -m mdrlib data check` says what else is"
        ) from error
    except Exception as error:  # pillow raises many kinds for a damaged file
        raise OSError(f"{path} cannot be read as an image ({error}); replace it") from error


def to_tensor(image: Any) -> Tensor:
    """An RGB image of pillow as float32 (3, H, W) in [0, 1]."""
    return to_float(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous())


def refuse(path: Path, line: int, expected: str, found: object) -> NoReturn:
    """Raise the ValueError that every wrong annotation gets."""
    raise ValueError(f"{path}, line {line}: expected {expected}, found {found!r}")


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file, counted from 1, without empty ones at its end."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").rstrip().splitlines()
    return list(enumerate(lines, 1))


def is_image_path(path: str) -> bool:
    """Whether an annotation's path stays in the folder and ends like an image, so was not cut short."""
    inside = path[:1] != "/" and ".." not in path.split("/") and "\\" not in path and "\0" not in path
    return inside and path.lower().endswith(SUFFIXES)


def require(title: str, name: str, folder: Path, *files: str) -> None:
    """Raise FileNotFoundError, with what to do, unless all `files` are in the folder."""
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{title} is not in {folder}: {' and '.join(missing)} missing; `python -m mdrlib data {name}` "
            f"gets it or says how, or set MDR_DATA_ROOT to the folder whose subfolder {folder.name} has it"
        )


def check(title: str, folder: Path, rows: dict[str, list[Row]], sizes: dict[str, tuple[int, int]]) -> bool:
    """Whether the set is the real one: True, or False for a miniature.

    rows, sizes: of each split, the images and the numbers (images, classes) of the real set.
    Raises ValueError when a split is empty, train shares a class with another, query and gallery differ in
    one, or the set is neither whole nor a miniature (see MINIATURE).
    """
    for split, found in rows.items():
        if not found:
            raise ValueError(f"{folder} gives no image of the split {split} of {title}")
    numbers = {split: {row.number for row in found} for split, found in rows.items()}
    names = {split: {row.name for row in found} for split, found in rows.items()}
    for split in [split for split in rows if split != "train"]:  # in their order
        for shared in (numbers["train"] & numbers[split], names["train"] & names[split]):
            if shared:
                raise ValueError(f"{folder}: class {min(shared)} is in both train and {split} of {title}")
    if "query" in rows and numbers["query"] != numbers["gallery"]:
        odd = min(numbers["query"] ^ numbers["gallery"])
        raise ValueError(f"{folder}: class {odd} of {title} must be in both query and gallery")
    found = {split: (len(rows[split]), len(numbers[split])) for split in sizes}
    if found == sizes:
        return True
    if sum(n for n, _ in found.values()) < MINIATURE * sum(n for n, _ in sizes.values()):
        return False
    split = next(split for split in sizes if found[split] != sizes[split])
    raise ValueError(
        f"{folder} gives {found[split][0]} images of {found[split][1]} classes for {split} of {title}, "
        f"expected {sizes[split][0]} of {sizes[split][1]}: its annotation has lost something; get it anew"
    )


def parts(
    title: str, split: str, base: Path, rows: dict[str, list[Row]], sizes: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    """What `ImageFiles` takes besides name, split and transform. Classes come in the order of their numbers.

    Checks the set first (see `check`); a miniature is announced on stderr.
    """
    whole = check(title, base, rows, sizes)
    if not whole:
        count, real = sum(map(len, rows.values())), sum(n for n, _ in sizes.values())
        print(f"mdrlib: {base} holds {count} images, a miniature of the {real} of {title}", file=sys.stderr)
    names = {row.number: row.name for row in rows[split]}
    position = {number: label for label, number in enumerate(sorted(names))}
    return {
        "folder": base,
        "files": [row.path for row in rows[split]],
        "labels": torch.tensor([position[row.number] for row in rows[split]]),
        "classes": [names[number] for number in sorted(names)],
        "whole": whole,
    }


def missing_images(base: Path, rows: Iterable[Row]) -> list[Path]:
    """The images that are listed and not there. Takes a look at every file."""
    return [base / row.path for row in rows if not (base / row.path).is_file()]
