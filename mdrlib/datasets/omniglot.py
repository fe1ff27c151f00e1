"""Real drawings: Omniglot's two small background sets, split so that no class and no alphabet is shared."""

import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdrlib import checkpoint
from mdrlib.datasets.sources import data_root, download, verify

URL = "https://github.com/brendenlake/omniglot/raw/master/python/"
FILES = {  # split: the archive and its sha256
    "train": (
        "images_background_small1.zip",
        "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    ),
    "test": (
        "images_background_small2.zip",
        "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    ),
}
CONTENT = {"train": (136, 2720), "test": (106, 2120)}  # classes and drawings
LEFT_OUT = {"train": (), "test": ("Greek", "Latin")}  # alphabets that the other archive has too
SIZE = 32
VERSION = 1  # raise when the decoded images change: it names the cached file
# images_background_small1/Greek/character01/0394_12.png: alphabet, character, drawer from 1
DRAWING = re.compile(r"[^/]+/([^/]+)/(character\d+)/\d+_(\d+)\.png")


def read(split: str, root: str | Path | None = None) -> dict[str, Any]:
    """The drawings of a split, as arguments of `ImageSet`: (N, 1, 32, 32), strokes bright on black.

    train: 136 characters of Balinese, Early Aramaic, Greek, Korean and Latin, 2,720 drawings. test: 106 of
    Katakana, Sanskrit and Tagalog, 2,120. 20 drawers a character, `writers` 0..19 within each alphabet.
    Source: B. Lake, R. Salakhutdinov, J. Tenenbaum, "Human-level concept learning through probabilistic
    program induction", Science 350, 2015.
    Both archives are looked for in the folder omniglot of the data root and downloaded there when missing;
    a folder that has them is only read. Decoded images are kept in the user's cache folder.
    Raises OSError when the archives are neither there nor to be had, ValueError when one is damaged,
    ImportError without pillow.
    """
    archives = find(data_root(root) / "omniglot")
    sha256 = FILES[split][1]
    path = cache_folder() / f"omniglot-{split}-{sha256[:16]}-{SIZE}-v{VERSION}.pt"
    found = _cached(path)
    if found is None:
        found = _decode(archives[split], split)
        try:
            checkpoint.save(path, found | {"digest": _digest(found)})
        except OSError:
            pass  # a home that cannot be written costs a second of decoding each time, no more
    return found


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/mdrlib, or ~/.cache/mdrlib."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # Relative paths are to be ignored, says the XDG Base Directory Specification.
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "mdrlib"


def find(folder: Path) -> dict[str, Path]:
    """The archive of each split in `folder`, downloaded if need be, with the right content."""
    paths = {split: folder / name for split, (name, _) in FILES.items()}
    for split, (name, sha256) in FILES.items():
        if paths[split].exists():
            verify(paths[split], sha256)
            continue
        try:
            download(URL + name, paths[split], sha256)
        except OSError as error:
            names = " and ".join(name for name, _ in FILES.values())
            raise OSError(
                f"Omniglot is not in {folder} and could not be downloaded ({error}); put {names} there, or "
                "set MDR_DATA_ROOT to the folder whose subfolder omniglot has them"
            ) from error
    return paths


def _decode(archive: Path, split: str) -> dict[str, Any]:
    """Read the drawings straight from the archive."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading Omniglot's drawings needs pillow: pip install mdrlib[data]") from error

    with zipfile.ZipFile(archive) as file:
        matches = sorted(
            (match for match in map(DRAWING.fullmatch, file.namelist()) if match),
            key=lambda match: match.groups(),
        )
        matches = [match for match in matches if match[1] not in LEFT_OUT[split]]
        images = np.empty((len(matches), 1, SIZE, SIZE), np.uint8)
        for image, match in zip(images, matches, strict=True):
            with file.open(match[0]) as png, Image.open(png) as drawing:
                # Pillow widens the filter by the factor of reduction: the strokes are anti-aliased.
                small = drawing.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            image[0] = 255 - np.asarray(small)  # ink is black in the archive
    names = [f"{match[1]}/{match[2]}" for match in matches]
    alphabets = [match[1] for match in matches]
    classes, group_names = sorted(set(names)), sorted(set(alphabets))
    if (len(classes), len(matches)) != CONTENT[split]:
        raise ValueError(
            f"{archive} gives {len(classes)} classes and {len(matches)} drawings for {split}, expected "
            f"{CONTENT[split][0]} and {CONTENT[split][1]}"
        )
    return {
        "images": torch.from_numpy(images),
        "labels": _positions(names, classes),
        "classes": classes,
        "groups": _positions(alphabets, group_names),
        "group_names": group_names,
        "writers": torch.tensor([int(match[3]) - 1 for match in matches]),
    }


def _positions(values: list[str], order: list[str]) -> Tensor:
    position = {value: k for k, value in enumerate(order)}
    return torch.tensor([position[value] for value in values])


def _cached(path: Path) -> dict[str, Any] | None:
    """What an earlier call has stored, None if there is nothing or it is damaged."""
    try:
        found = torch.load(path, weights_only=True)
        intact = found.pop("digest") == _digest(found)
    except Exception:  # torch raises several kinds for a damaged file
        return None
    return found if intact else None


def _digest(content: dict[str, Any]) -> str:
    """sha256 of all that is cached, so that a flipped bit does not become a result."""
    digest = hashlib.sha256()
    for key in sorted(content):
        value = content[key]
        digest.update(value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()
