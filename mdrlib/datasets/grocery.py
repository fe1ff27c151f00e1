"""Whether the images of the Grocery Store Dataset are the published ones.

M. Klasson et al., "A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels", WACV 2019;
github.com/marcusklasson/GroceryStoreDataset, MIT licence.

GitHub makes the archive of a commit when it is asked for, so that no checksum of it lasts, and copies in
circulation are resized. grocery.txt therefore has a mark of 64 bits for each image, in the order of the
paths: which of two neighbours in a grey 9 x 8 miniature is brighter. The marks were taken from a copy with a
short side of 128 pixels. Reducing that to 48 pixels as JPEG changes up to 10 bits of a mark, and another
photograph has 32 other bits on average: marks tell photographs apart, and do not see a single changed pixel.
"""

import base64
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from mdrlib.datasets.class_splits import Rows
from mdrlib.datasets.folder import listed, survey, unreadable
from mdrlib.datasets.preprocessing import open_image, optional

IMAGES = 5421
TOLERANCE = 14  # bits


def contents(folder: Path, rows: Rows) -> dict[str, str]:
    """Return the sha256 of each image; ValueError lists those that are missing or cannot be read."""
    seen = survey(folder, [row.path for found in rows.values() for row in found])
    if broken := unreadable(seen):
        raise ValueError(f"{folder}: {len(broken):,} images cannot be read: {listed(broken)}")
    return {file: about.content for file, about in seen.items()}


def verify(folder: Path, rows: Rows) -> None:
    """Raise ValueError that lists images that are missing, cannot be read or are not the published ones."""
    files = sorted(contents(folder, rows))
    with ThreadPoolExecutor() as pool:
        marks = np.stack(list(pool.map(mark, (folder / file for file in files))))
    different = (marks != published()).sum(1)
    wrong = [files[index] for index in (different > TOLERANCE).nonzero()[0]]
    if wrong:
        raise ValueError(f"{folder}: {len(wrong):,} images are not the published ones: {listed(wrong)}")


def mark(path: Path) -> np.ndarray:
    """Return which of the horizontal neighbours in a 9 x 8 grey miniature is brighter, bool (64,)."""
    small = open_image(path).convert("L").resize((9, 8), optional("PIL.Image", "data").Resampling.BOX)
    grey = np.asarray(small)
    return (grey[:, 1:] > grey[:, :-1]).flatten()


@cache
def published() -> np.ndarray:
    """Return the marks of the published images in the order of their sorted paths, bool (5421, 64)."""
    text = Path(__file__).with_suffix(".txt").read_text()
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).reshape(IMAGES, 64).astype(bool)
