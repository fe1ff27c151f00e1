"""Scans of handwritten digits that come with scikit-learn."""

from typing import Any

import torch
from torch.nn import functional as F

DIGITS = {"train": range(0, 5), "test": range(5, 10)}
SIZE = 32


def read(split: str) -> dict[str, Any]:
    """Return digits 0-4 ("train", 901 images) or 5-9 ("test", 896) as arguments of `ImageSet`.

    The 8 x 8 counts 0..16 of the "Optical Recognition of Handwritten Digits" test set (E. Alpaydin and
    C. Kaynak, UCI Machine Learning Repository, 1998), enlarged bilinearly to (N, 1, 32, 32).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'mdrlib[data]'") from error

    scans = load_digits()
    target = torch.from_numpy(scans.target).long()
    wanted = DIGITS[split]
    kept = (target >= wanted.start) & (target < wanted.stop)
    images = torch.from_numpy(scans.images).float()[kept, None] / 16
    images = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return {
        "images": (images * 255).round().to(torch.uint8),
        "labels": target[kept] - wanted.start,
        "classes": [str(digit) for digit in wanted],
    }
