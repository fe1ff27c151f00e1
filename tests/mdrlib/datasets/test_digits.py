import sys

import numpy as np
import pytest
import torch

from mdrlib.datasets import digits

pytest.importorskip("sklearn")


def interpolate(scan, size=32):
    """Bilinear, half-pixel centres, edges repeated: pixel by pixel."""
    n = len(scan)
    out = np.zeros((size, size))
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.minimum(at.astype(int), n - 2)
    part = at - low
    for row in range(size):
        for column in range(size):
            r, c, u, v = low[row], low[column], part[row], part[column]
            top = (1 - v) * scan[r, c] + v * scan[r, c + 1]
            bottom = (1 - v) * scan[r + 1, c] + v * scan[r + 1, c + 1]
            out[row, column] = (1 - u) * top + u * bottom
    return out


@pytest.mark.parametrize("split, first, count", [("train", 0, 901), ("test", 5, 896)])
def test_splits(split, first, count):
    from sklearn.datasets import load_digits

    scans = load_digits()
    kept = (scans.target >= first) & (scans.target < first + 5)
    got = digits.read(split)
    assert set(got) == {"images", "labels", "classes"}
    assert got["classes"] == [str(digit) for digit in range(first, first + 5)]
    assert got["images"].shape == (count, 1, 32, 32) and got["images"].dtype == torch.uint8
    assert got["labels"].dtype == torch.int64
    np.testing.assert_array_equal(got["labels"], scans.target[kept] - first)
    for index in (0, 1, count // 2, count - 1):
        want = interpolate(scans.images[kept][index]) / 16 * 255
        np.testing.assert_allclose(got["images"][index, 0], want, atol=0.51)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'mdrlib\[data\]'"):
        digits.read("train")
