"""Check whether the images of the Grocery Store Dataset (see data/README.md) are the published ones.

No checksum of the archive lasts, and copies are resized. grocery.txt therefore has a mark of 64 bits for each
image, in the order of the paths: which of two neighbours in a grey 9 x 8 miniature is brighter. Reducing the
short side from 128 to 48 pixels changes up to 10 bits of a mark; another photograph has 32 others on average.
"""

import base64
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from pathlib import Path

import numpy as np

from mdrlib.datasets.class_splits import Rows
from mdrlib.datasets.folder import listed, survey, unreadable
from mdrlib.datasets.preprocessing import open_image, optional

TOLERANCE = 14  # bits


def contents(folder: Path, rows: Rows) -> dict[str, str]:
    """Return the sha256 of each image; ValueError lists those that cannot be read."""
    seen = survey(folder, [row.path for found in rows.values() for row in found])
    if broken := unreadable(seen):
        raise ValueError(f"{folder}: {len(broken):,} images cannot be read: {listed(broken)}")
    return {file: about.content for file, about in seen.items()}


def verify(folder: Path, rows: Rows) -> None:
    """Raise ValueError if images cannot be read or are not the published ones; it lists them."""
    files = sorted(contents(folder, rows))
    with ThreadPoolExecutor() as pool:
        marks = pool.map(mark, (folder / file for file in files))
        different = [(a != b).sum() > TOLERANCE for a, b in zip(marks, published(), strict=True)]
    if wrong := list(compress(files, different)):
        raise ValueError(f"{folder}: {len(wrong):,} images are not the published ones: {listed(wrong)}")


def mark(path: Path) -> np.ndarray:
    """Return the mark of an image, bool (64,)."""
    box = optional("PIL.Image", "data").Resampling.BOX
    grey = np.asarray(open_image(path).convert("L").resize((9, 8), box))
    return (grey[:, 1:] > grey[:, :-1]).flatten()


def published() -> np.ndarray:
    """Return the marks of the published images in the order of their sorted paths, bool (5421, 64)."""
    text = Path(__file__).with_suffix(".txt").read_text()
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).reshape(-1, 64).astype(bool)
