"""Scans of handwritten digits that come with scikit-learn."""

from typing import Any

import torch
from torch.nn import functional as F

from mdrlib.datasets.preprocessing import optional


def read(split: str) -> dict[str, Any]:
    """Return digits 0-4 ("train", 901 images) or 5-9 ("test", 896) as arguments of `ImageSet`.

    The 8 x 8 counts 0..16 of the scans (see data/README.md) are enlarged bilinearly to (N, 1, 32, 32).
    """
    scans, first = optional("sklearn.datasets", "data").load_digits(), 0 if split == "train" else 5
    labels = torch.from_numpy(scans.target).long() - first
    kept = (labels >= 0) & (labels < 5)
    images = torch.from_numpy(scans.images).float()[kept, None] / 16
    images = F.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
    return {
        "images": (images * 255).round().to(torch.uint8),
        "labels": labels[kept],
        "classes": [str(first + k) for k in range(5)],
    }
