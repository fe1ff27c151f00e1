"""Means over seeds with their intervals, and differences of two methods paired by seed.

All intervals are Student's t: right for means of roughly normal values, also of few of them. With five seeds
a bootstrap would be too narrow, since it draws from five values alone. Each interval stands for itself:
among twenty comparisons of equals, about one 95 % interval leaves 0 out by chance.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

METHOD = "Student's t over seeds"  # what tables and figures say of their intervals


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """The mean of a - b over `n` shared seeds and the ends of its confidence interval."""

    difference: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """Of a, where more is better: "better", "worse", or "undecided" where the interval covers 0."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of the values (n,), n >= 2, and its t interval: mean -+ t(n - 1) s / sqrt(n).

    s is the sample's standard deviation (divisor n - 1). Raises ValueError for fewer than two values, for NaN
    or infinite ones, and for a confidence outside (0, 1).
    """
    n, mean, s = _sample(values)
    half = _quantile(n, confidence) * s / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def prediction(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of the values (n,) and the interval for one more such value: mean -+ t(n - 1) s sqrt(1 + 1/n).

    Raises ValueError as `interval` does.
    """
    n, mean, s = _sample(values)
    half = _quantile(n, confidence) * s * math.sqrt(1 + 1 / n)
    return Interval(mean, mean - half, mean + half)


def paired(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Difference:
    """The mean of a - b over the seeds that both have, with the t interval of these differences.

    a and b map a seed to a value. What a seed decides for both, as the order of the classes, leaves the
    difference. Raises ValueError for fewer than two shared seeds, naming the seeds.
    """
    shared = sorted(a.keys() & b.keys())
    if len(shared) < 2:
        raise ValueError(
            f"a paired difference needs two or more shared seeds, got {shared} of {sorted(a)} and "
            f"{sorted(b)}; make the runs with the same seeds"
        )
    found = interval([a[seed] - b[seed] for seed in shared], confidence)
    return Difference(*found, len(shared))


def _sample(values: Sequence[float]) -> tuple[int, float, float]:
    """How many values (n,), their mean and standard deviation."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"an interval needs two or more values, shape (n,), got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(
            f"values must be finite, got {x.tolist()}; a run that diverged has no place in a mean"
        )
    if (x == x[0]).all():  # the mean of equal values may be off by a rounding, which must not become a spread
        return len(x), float(x[0]), 0.0
    return len(x), float(x.mean()), float(x.std(ddof=1))


def _quantile(n: int, confidence: float) -> float:
    """Student's t with n - 1 degrees of freedom, exceeded in size with probability 1 - confidence."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ImportError("intervals need scipy: pip install mdrlib[stats]") from error
    return float(t.ppf((1 + confidence) / 2, n - 1))
