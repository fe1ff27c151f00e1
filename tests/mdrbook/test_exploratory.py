"""Exploratory comparisons against formulas written down a second time."""

import numpy as np
import pytest
from scipy import special

from mdrbook.exploratory import Compared, compare, crossed


def side(seed, shift=0.0, n=6):
    return dict(enumerate(0.7 + shift + 0.01 * np.random.default_rng(seed).standard_normal(n)))


def p_of(a, b):
    """Two-sided p of Student's t over the differences, by the incomplete beta function."""
    d = np.array([a[seed] - b[seed] for seed in a])
    t, dof = d.mean() / (d.std(ddof=1) / np.sqrt(len(d))), len(d) - 1
    return special.betainc(dof / 2, 1 / 2, dof / (dof + t * t))


def test_p_correlation_and_width_by_hand():
    a, b = side(0, 0.02), side(1)
    found = compare({"one": (a, b)})["one"]
    x, y = np.array(list(a.values())), np.array(list(b.values()))
    assert found.difference == pytest.approx((x - y).mean()) and found.p == pytest.approx(p_of(a, b))
    assert found.correlation == pytest.approx(((x - x.mean()) * (y - y.mean())).mean() / (x.std() * y.std()))
    # Welch's: the same mean, its own degrees of freedom
    v, w = x.var(ddof=1) / 6, y.var(ddof=1) / 6
    dof = (v + w) ** 2 / (v**2 / 5 + w**2 / 5)
    widths = special.stdtrit(5, 0.975) * (x - y).std(ddof=1) / np.sqrt(6), special.stdtrit(dof, 0.975)
    assert found.width == pytest.approx(widths[0] / (widths[1] * np.sqrt(v + w)))


def test_only_shared_seeds_count():
    a, b = side(0, 0.02), side(1)
    more = {**a, 17: 0.1}
    assert compare({"one": (more, b)}) == compare({"one": (a, b)})


def test_benjamini_hochberg_over_all_pairs():
    pairs = {k: (side(k, 0.008 * (k % 5)), side(100 + k)) for k in range(30)}
    found = compare(pairs)
    p = sorted(p_of(*pair) for pair in pairs.values())
    bound = max(value for rank, value in enumerate(p, 1) if value <= 0.05 * rank / len(p))
    assert {k: one.kept for k, one in found.items()} == {k: p_of(*pair) <= bound for k, pair in pairs.items()}
    assert 0 < sum(one.kept for one in found.values()) < sum(one.p < 0.05 for one in found.values())


def test_a_decided_interval_leaves_out_0():
    for k in range(40):
        found = compare({k: (side(k, 0.015), side(100 + k))})[k]
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (0.001, 0.03, "better"),
        (-0.03, -0.001, "worse"),
        (-0.02, 0.005, "undecided"),
        (-0.009, 0.009, "equivalent"),
    ],
)
def test_what_a_cell_says(low, high, verdict):
    found = Compared((low + high) / 2, low, high, 0.01, True, 0.0, 1.0)
    assert found.verdict == verdict and str(found).endswith(f") {verdict}*")
    assert str(found._replace(kept=False)).endswith(f") {verdict}")
    assert found.told().endswith(f", {verdict}*)") and found.told().split(",")[0] in str(found)
    assert str(Compared(-0.021, -0.03, -0.012, 0.01, False, 0.0, 1.0)).startswith(
        "\N{MINUS SIGN}2.1 (\N{MINUS SIGN}3.0"
    )


def test_crossed_counts():
    rows = crossed([("better", "better"), ("better", "worse"), ("worse", "undecided"), ("better", "worse")])
    assert rows[0] == ["better", 1, 0, 0, 2] and rows[3] == ["worse", 0, 1, 0, 0]
    assert sum(sum(row[1:]) for row in rows) == 4
