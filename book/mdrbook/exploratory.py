"""The exploratory comparisons of a page: paired by seed, by several metrics, judged together."""

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from mdrbook.contrasts import CONFIDENCE, points, verdict
from mdrlib.comparison import paired

VERDICTS = ("better", "undecided", "equivalent", "worse")
Values = Mapping[int, float]  # seed -> a metric in [0, 1]


class Compared(NamedTuple):
    """The mean of a - b over the shared seeds, in [-1, 1]."""

    difference: float
    low: float  #: Ends of the interval, Student's t over seeds.
    high: float
    p: float  #: Of a difference of 0, by the paired t test.
    kept: bool  #: Whether it stays decided among all that were compared with it.
    correlation: float  #: Of a and b over seeds.
    width: float  #: Of the interval, over that of Welch's, which ignores which seeds belong together.

    @property
    def verdict(self) -> str:
        """The verdict on a, one of VERDICTS; equivalent: the interval lies within 1 point of 0."""
        return verdict(self.low, self.high)

    def __str__(self) -> str:
        """Return text for a cell: points, interval in brackets and verdict, with * where it stays decided."""
        return f"{points(self)} {self.verdict}{'*' * self.kept}"

    def told(self) -> str:
        """Return the same text for a sentence, with the verdict in the brackets."""
        return f"{points(self)[:-1]}, {self.verdict}{'*' * self.kept})"


def compare(pairs: Mapping[Hashable, tuple[Values, Values]]) -> dict[Hashable, Compared]:
    """Compare the sides a and b of each pair; mark those that Benjamini-Hochberg keeps among all of them.

    Args:
        pairs: Sides of two or more shared seeds.
    """
    found = {}
    for name, (a, b) in pairs.items():
        d, seeds = paired(a, b), sorted(a.keys() & b.keys())
        x, y = (np.array([side[seed] for seed in seeds]) for side in (a, b))
        apart = stats.ttest_ind(x, y, equal_var=False).confidence_interval()
        width = (d.high - d.low) / (apart.high - apart.low)
        p, r = stats.ttest_rel(x, y).pvalue, np.corrcoef(x, y)[0, 1]
        found[name] = Compared(*d[:3], float(p), False, float(r), float(width))
    kept = (stats.false_discovery_control([one.p for one in found.values()]) <= 1 - CONFIDENCE).tolist()
    return {name: one._replace(kept=k) for (name, one), k in zip(found.items(), kept, strict=True)}


def crossed(pairs: Iterable[tuple[str, str]]) -> list[list[str | int]]:
    """Count pairs of verdicts: a row per first verdict, with counts of the second as in VERDICTS."""
    every = list(pairs)
    return [[a, *(every.count((a, b)) for b in VERDICTS)] for a in VERDICTS]
