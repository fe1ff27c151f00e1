"""Differences between two arms over splits of the classes: estimate, interval, checks and verdict.

Each half of the classes is trained on once, so that a class is tested in half of the splits. All values are
metrics in [0, 1].
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.formula.api import mixedlm
from statsmodels.stats.multitest import multipletests
from statsmodels.tools.sm_exceptions import ConvergenceWarning, SingularMatrixWarning

from mdrlib.comparison import signed
from mdrlib.results import Result

SMALLEST = 0.01  # the smallest difference that would matter: 1 point
CONFIDENCE = 0.95


class Contrast(NamedTuple):
    """The mean of a - b over class splits."""

    difference: float
    low: float  #: Ends of the interval of the mixed model.
    high: float
    p: float  #: Of a difference of 0, by the mixed model.
    p_f: float  #: By the combined F test over halvings.
    bootstrap: tuple[float, float]  #: Interval over classes alone.
    splits: int
    classes: int
    correlation: float  #: Of a and b over splits: what pairing buys.

    @property
    def verdict(self) -> str:
        """The verdict on a: see `verdict`."""
        return verdict(self.low, self.high)


def verdict(low: float, high: float) -> str:
    """Return what an interval shows: "better", "worse", "equivalent" or "undecided".

    Equivalent: the interval lies within the smallest difference that matters.
    """
    if -SMALLEST < low and high < SMALLEST:
        return "equivalent"
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


def judged(planned: Sequence[Contrast]) -> list[str]:
    """Return the verdicts of contrasts that are confirmed together.

    "better" and "worse" also need a p below 0.05 after Holm's adjustment (Scandinavian Journal of Statistics
    1979); without it the verdict is "undecided".
    """
    significant = multipletests([found.p for found in planned], 1 - CONFIDENCE, method="holm")[0]
    return [
        found.verdict if holds or found.verdict == "equivalent" else "undecided"
        for found, holds in zip(planned, significant, strict=True)
    ]


def points(found: Sequence[float]) -> str:
    """Write (difference, low, high, ...), each in [-1, 1], in points: "+2.7 (+1.9 to +3.5)".

    With a second digit where an end would be rounded to 0, so that its sign shows.
    """
    values = [100 * value for value in found[:3]]
    digits = 2 if any(abs(end) < 0.05 for end in values[1:]) else 1
    d, low, high = (signed(value, digits, plus="+") for value in values)
    return f"{d} ({low} to {high})"


def of_classes(runs: Iterable[Result], metric: str, iteration: int | None) -> pd.DataFrame:
    """Return a metric of each test class and split: columns "split", "cls", "value".

    Args:
        iteration: Of the evaluation; None for that with the largest metric of the whole test set.
    """
    rows = []
    for run in runs:
        along, at = run.per_class["history"], iteration
        if at is None:
            at = max(run.history, key=lambda row: row[metric])["iteration"]
        values = along[metric][along["iteration"].index(at)]
        names = run.per_class["class"]
        rows += [(run.config["class_split"], *pair) for pair in zip(names, values, strict=True)]
    found = pd.DataFrame(rows, columns=["split", "cls", "value"])
    return found.groupby(["split", "cls"], as_index=False).mean()  # over seeds


def contrast(a: pd.DataFrame, b: pd.DataFrame) -> Contrast:
    """Compare two arms of the same splits and classes, as `of_classes` returns them.

    The difference d of class c in split s is modelled as d = mean + split + class + rest, the last three
    random and normal, and fitted by restricted maximum likelihood. The interval is Student's t, with the
    number of splits minus one as degrees of freedom.

    Raises:
        ValueError: The arms have different splits or classes, or fewer than two halvings.
    """
    both = a.merge(b, on=["split", "cls"], how="outer", suffixes=("_a", "_b"), validate="1:1")
    if both.isna().any(axis=None):
        raise ValueError("The arms have different class splits or classes: compare those that both have.")
    both["d"] = both.value_a - both.value_b
    of_splits = both.groupby("split").mean(numeric_only=True)
    of_halvings = halvings(of_splits.d)
    mean, error = _mixed(both)
    dof = len(of_splits) - 1
    half = stats.t.ppf((1 + CONFIDENCE) / 2, dof) * error
    p = 2 * stats.t.sf(abs(mean) / error, dof)
    per_class = both.groupby("cls").d.mean().to_numpy()
    drawn = stats.bootstrap(
        (per_class,), np.mean, confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    r = float(np.corrcoef(of_splits.value_a, of_splits.value_b)[0, 1])
    ends = (float(drawn.low), float(drawn.high))
    sizes = len(of_splits), len(per_class)
    return Contrast(mean, mean - half, mean + half, float(p), combined_f(of_halvings), ends, *sizes, r)


def _mixed(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the mean of d and its standard error, with splits and classes as crossed random effects."""
    parts = {"split": "0 + C(split)", "cls": "0 + C(cls)"}
    model = mixedlm("d ~ 1", rows, groups=np.ones(len(rows)), vc_formula=parts, use_sparse=True)
    with warnings.catch_warnings():  # a component that is estimated as 0 lies on the border
        for kind in (ConvergenceWarning, SingularMatrixWarning):
            warnings.simplefilter("ignore", kind)
        # Not by gradients: from variances near 0 lbfgs does not come back, and says that it converged.
        fitted = model.fit(reml=True, method=["nm", "powell"])
    return float(fitted.fe_params.iloc[0]), float(fitted.bse_fe.iloc[0])


def halvings(of_splits: Mapping[int, float]) -> np.ndarray:
    """Return the differences of each halving's two splits, 2k - 1 and 2k: (halvings, 2)."""
    found = dict(of_splits)
    pairs = sorted({(split + 1) // 2 for split in found})
    if len(pairs) < 2 or any(2 * k - 1 not in found or 2 * k not in found for k in pairs):
        raise ValueError(
            f"Expected two or more whole halvings 2k - 1, 2k of the classes, got {sorted(found)}."
        )
    return np.array([[found[2 * k - 1], found[2 * k]] for k in pairs])


def combined_f(differences: np.ndarray) -> float:
    """Return the p of a difference of 0 by the combined F test (Alpaydin, Neural Computation 1999).

    Args:
        differences: (m, 2), of m halvings. F = sum of their squares / (2 sum of s^2) has 2m and m degrees
            of freedom, where s^2 is the sum of squared deviations from the mean of a halving.
    """
    m = len(differences)
    spread = np.square(differences - differences.mean(1, keepdims=True)).sum()
    return float(stats.f.sf(np.square(differences).sum() / (2 * spread), 2 * m, m))


def best_stop(runs: Iterable[Result], metric: str = "validation_map@r") -> tuple[int, float]:
    """Return the iteration at which a metric of held-out classes, averaged over runs, is largest, and it."""
    tables: list[dict[int, Any]] = [{row["iteration"]: row[metric] for row in run.history} for run in runs]
    means = {at: np.mean([its[at] for its in tables]) for at in set.intersection(*map(set, tables)) if at}
    at = max(sorted(means), key=means.get)
    return at, float(means[at])
