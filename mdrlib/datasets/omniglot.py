"""Real drawings: Omniglot's two small background sets, split so that no class and no alphabet is shared."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdrlib.datasets.download import OMNIGLOT, fetch
from mdrlib.datasets.preprocessing import optional

LEFT_OUT = {"train": (), "test": ("Greek", "Latin")}  # alphabets that the other archive has too
SIZE = 32
# images_background_small1/Greek/character01/0394_12.png: class, alphabet, writer from 1
DRAWING = re.compile(r"[^/]+/(([^/]+)/character\d+)/\d+_(\d+)\.png")


def read(split: str, folder: Path) -> dict[str, Any]:
    """Return the drawings of a split as arguments of `ImageSet`: (N, 1, 32, 32), strokes bright on black.

    train: 136 characters of five alphabets, 2,720 drawings. test: 106 of three, 2,120. `writers` are 0..19
    within an alphabet. The archive is downloaded into `folder` if it is missing: see data/README.md.
    """
    pillow = optional("PIL.Image", "data")
    with zipfile.ZipFile(fetch(OMNIGLOT[split], folder)) as file:
        found = [match for match in map(DRAWING.fullmatch, sorted(file.namelist())) if match]
        drawings = [match for match in found if match[2] not in LEFT_OUT[split]]
        images = np.empty((len(drawings), 1, SIZE, SIZE), np.uint8)
        for image, match in zip(images, drawings, strict=True):
            with file.open(match[0]) as png, pillow.open(png) as drawing:
                small = drawing.convert("L").resize((SIZE, SIZE), pillow.Resampling.BILINEAR)
            image[0] = 255 - np.asarray(small)  # ink is black in the archive
    classes, labels = np.unique([match[1] for match in drawings], return_inverse=True)
    alphabets, groups = np.unique([match[2] for match in drawings], return_inverse=True)
    return {
        "images": torch.from_numpy(images),
        "labels": torch.from_numpy(labels),
        "classes": classes.tolist(),
        "groups": torch.from_numpy(groups),
        "group_names": alphabets.tolist(),
        "writers": torch.tensor([int(match[3]) - 1 for match in drawings]),
    }
