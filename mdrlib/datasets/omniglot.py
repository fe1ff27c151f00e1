"""Real drawings: Omniglot's two small background sets, split so that no class and no alphabet is shared."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdrlib.datasets.download import OMNIGLOT, fetch

LEFT_OUT = {"train": (), "test": ("Greek", "Latin")}  # alphabets that the other archive has too
SIZE = 32
# images_background_small1/Greek/character01/0394_12.png: alphabet, character, drawer from 1
DRAWING = re.compile(r"[^/]+/([^/]+)/(character\d+)/\d+_(\d+)\.png")


def read(split: str, folder: Path) -> dict[str, Any]:
    """Return the drawings of a split as arguments of `ImageSet`: (N, 1, 32, 32), strokes bright on black.

    train: 136 characters of Balinese, Early Aramaic, Greek, Korean and Latin, 2,720 drawings. test: 106 of
    Katakana, Sanskrit and Tagalog, 2,120. Each was drawn by 20 people, `writers` 0..19 within an alphabet.
    Source: B. Lake, R. Salakhutdinov, J. Tenenbaum, "Human-level concept learning through probabilistic
    program induction", Science 350, 2015.

    Args:
        split: "train" or "test".
        folder: Of the two archives; a missing one is downloaded there.

    Raises:
        OSError: An archive is missing and cannot be downloaded.
        ValueError: An archive is damaged.
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading Omniglot's drawings needs pillow: pip install 'mdrlib[data]'") from error

    archives = {name: fetch(archive, folder) for name, archive in OMNIGLOT.items()}
    with zipfile.ZipFile(archives[split]) as file:
        found = [match for match in map(DRAWING.fullmatch, file.namelist()) if match]
        matches = [match for match in found if match[1] not in LEFT_OUT[split]]
        matches.sort(key=lambda match: match.groups())
        images = np.empty((len(matches), 1, SIZE, SIZE), np.uint8)
        for image, match in zip(images, matches, strict=True):
            with file.open(match[0]) as png, Image.open(png) as drawing:
                # Pillow widens the filter by the factor of reduction: the strokes are anti-aliased.
                small = drawing.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            image[0] = 255 - np.asarray(small)  # ink is black in the archive
    names = [f"{match[1]}/{match[2]}" for match in matches]
    alphabets = [match[1] for match in matches]
    classes, group_names = sorted(set(names)), sorted(set(alphabets))
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
