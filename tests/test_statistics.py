"""Intervals and paired differences, against values worked out by hand, scipy's own tests and chance."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mdrlib.statistics import Difference, interval, paired, prediction

VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def test_an_interval_worked_out_by_hand():
    """1..5: mean 3, s = sqrt(10/4), over sqrt(5) that is sqrt(1/2); t of 4 degrees is 2.776 at 95 %."""
    mean, low, high = interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert (low, high) == pytest.approx((3 - 2.7764451 * 0.5**0.5, 3 + 2.7764451 * 0.5**0.5))


def test_a_prediction_worked_out_by_hand():
    """The same with s sqrt(1 + 1/5) = sqrt(3)."""
    mean, low, high = prediction([1, 2, 3, 4, 5])
    assert (mean, low, high) == pytest.approx((3, 3 - 2.7764451 * 3**0.5, 3 + 2.7764451 * 3**0.5))


@settings(deadline=None)
@given(VALUES, st.floats(0.5, 0.999))
def test_an_interval_is_scipys(values, confidence):
    mean, low, high = interval(values, confidence)
    assert low <= mean <= high
    spread = np.std(values, ddof=1)
    if spread > 1e-9:  # scipy warns of more alike values
        wanted = stats.ttest_1samp(values, 0).confidence_interval(confidence)
        assert (low, high) == pytest.approx(tuple(wanted), abs=1e-9)


@settings(deadline=None)
@given(VALUES, st.data())
def test_a_paired_difference_is_scipys_and_turns_with_its_sides(values, data):
    others = data.draw(st.lists(st.floats(0, 1), min_size=len(values), max_size=len(values)))
    a, b = dict(enumerate(values)), dict(enumerate(others))
    found, turned = paired(a, b), paired(b, a)
    assert found.n == len(values)
    assert (found.difference, found.low, found.high) == pytest.approx(
        (-turned.difference, -turned.high, -turned.low)
    )
    opposite = {"better": "worse", "worse": "better", "undecided": "undecided"}
    assert turned.verdict == opposite[found.verdict]
    if np.std(np.subtract(values, others)) > 1e-9:
        wanted = stats.ttest_rel(values, others)
        assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval()), abs=1e-9)
        if abs(wanted.pvalue - 0.05) > 1e-6:
            assert (found.verdict == "undecided") == (wanted.pvalue > 0.05)


def test_only_shared_seeds_are_paired_whatever_their_order():
    a = {3: 0.9, 0: 0.5, 7: 0.6, 1: 0.7}
    b = {1: 0.6, 7: 0.4, 0: 0.4, 2: 0.0}
    found = paired(a, b)  # seeds 0, 1, 7: 0.1, 0.1, 0.2
    assert found.n == 3 and found.difference == pytest.approx(0.4 / 3)
    assert found.high - found.difference == pytest.approx(4.3026527 * (0.1 / 3**0.5) / 3**0.5)


def test_pairing_takes_out_what_a_seed_decides_for_both():
    seeds = np.array([0.70, 0.75, 0.80, 0.85, 0.90])
    a, b = dict(enumerate(seeds + [0.019, 0.021, 0.020, 0.022, 0.018])), dict(enumerate(seeds))
    assert paired(a, b).verdict == "better"
    assert interval(list(a.values())).low < interval(list(b.values())).high


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (0.1, 0.2, "better"),
        (-0.2, -0.1, "worse"),
        (-0.1, 0.2, "undecided"),
        (0.0, 0.2, "undecided"),
        (-0.2, 0.0, "undecided"),
        (0.0, 0.0, "undecided"),
    ],
)
def test_no_winner_where_the_interval_covers_0(low, high, verdict):
    assert Difference((low + high) / 2, low, high, 5).verdict == verdict


def test_values_without_spread_have_an_interval_of_no_width():
    assert interval([0.1, 0.1, 0.1]) == pytest.approx((0.1, 0.1, 0.1), abs=0)
    same = {seed: 0.1 * seed for seed in range(5)}
    assert paired(same, same).verdict == "undecided"


def test_equals_are_told_apart_about_once_in_twenty_times():
    """5 seeds of two equal methods; a percentile bootstrap errs more than twice as often, so t it is."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.01, (2, 400, 5))
    t = [
        paired(dict(enumerate(x)), dict(enumerate(y))).verdict != "undecided"
        for x, y in zip(a, b, strict=True)
    ]
    draws = rng.integers(0, 5, (2000, 5))
    means = (a - b)[:, draws].mean(axis=2)
    low, high = np.quantile(means, (0.025, 0.975), axis=1)
    assert 0.02 <= np.mean(t) <= 0.08
    assert np.mean((low > 0) | (high < 0)) > 0.1


def test_a_prediction_holds_the_next_value_as_often_as_it_says():
    runs = np.random.default_rng(1).normal(0, 1, (500, 11))
    found = [prediction(x[:10], 0.9) for x in runs]
    inside = [low <= x[10] <= high for (_, low, high), x in zip(found, runs, strict=True)]
    assert 0.86 <= np.mean(inside) <= 0.94


@pytest.mark.parametrize("function", [interval, prediction])
@pytest.mark.parametrize(
    "values, confidence, words",
    [
        ([0.5], 0.95, r"two or more values, shape \(n,\), got shape \(1,\)"),
        ([], 0.95, "two or more values"),
        ([[0.5, 0.6]], 0.95, r"got shape \(1, 2\)"),
        ([0.5, float("nan")], 0.95, "must be finite, got .*nan"),
        ([0.5, float("inf")], 0.95, "must be finite"),
        ([0.5, 0.6], 95, "confidence must be between 0 and 1, got 95"),
        ([0.5, 0.6], 0, "confidence must be"),
    ],
)
def test_what_has_no_interval_is_refused(function, values, confidence, words):
    with pytest.raises(ValueError, match=words):
        function(values, confidence)


def test_fewer_than_two_shared_seeds_are_refused_by_name():
    with pytest.raises(ValueError, match=r"got \[1\] of \[0, 1\] and \[1, 2\]; make the runs with the same"):
        paired({1: 0.5, 0: 0.4}, {1: 0.5, 2: 0.4})
    with pytest.raises(ValueError, match=r"got \[\] of \[\] and \[0\]"):
        paired({}, {0: 0.5})


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r"pip install mdrlib\[stats\]"):
        interval([0.5, 0.6])
