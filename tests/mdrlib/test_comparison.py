"""Groups, rows, intervals and paired differences, against values worked out by hand, scipy and chance."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mdrlib.comparison import Difference, by_data, groups, interval, paired, pick, rows
from mdrlib.config import PLACE, Config
from mdrlib.results import Result

DATA = {"train": {"images": 3, "fingerprint": "0a"}, "test": {"images": 2, "fingerprint": "0b"}}


def result(recall=0.5, data=None, **config):
    """A run as it is stored: lists for tuples."""
    stored = Config(**config).to_dict()
    metrics = {"recall@1": recall, "map@r": recall / 2}
    return Result(stored, metrics, "last", 1.0, {}, None, DATA if data is None else data, [])


def seeds(values, first=0, **config):
    return [result(value, seed=seed, **config) for seed, value in enumerate(values, first)]


A, B = [0.80, 0.81, 0.82, 0.79, 0.80], [0.83, 0.84, 0.83, 0.82, 0.84]


def test_runs_that_differ_in_seed_and_place_alone_are_one_group():
    runs = [
        result(0.5, seed=0),
        result(0.6, seed=1, device="cpu", workers=2, cache_images=False),
        result(0.7, seed=2, method="triplet"),
    ]
    found = groups(runs)
    assert [(group.label, group.values) for group in found] == [
        ("triplet+mdr", {0: 0.5, 1: 0.6}),
        ("triplet", {2: 0.7}),
    ]
    assert found[0].data == DATA and not {"seed", *PLACE} & found[0].config.keys()
    assert groups(runs, "map@r")[1].values == {2: 0.35}
    assert groups([]) == []


def test_a_field_that_a_stored_config_lacks_has_its_default():
    old = result(0.5, seed=0)
    del old.config["memory_bank"], old.config["margin"]
    assert [group.values for group in groups([old, result(0.6, seed=1)])] == [{0: 0.5, 1: 0.6}]
    found = groups([old, result(0.6, seed=1, margin=0.3)])
    assert [group.label for group in found] == ["triplet+mdr margin=0.2", "triplet+mdr margin=0.3"]
    old.config["colour"] = "red"
    with pytest.raises(ValueError, match=r"unknown Config keys \['colour'\]"):
        groups([old])


@pytest.mark.parametrize(
    "changes, names",
    [
        ([{}], ["triplet+mdr"]),
        ([{"method": "triplet"}, {}], ["triplet", "triplet+mdr"]),
        ([{"dim": 8}, {"dim": 16}], ["triplet+mdr dim=8", "triplet+mdr dim=16"]),
        (
            [{"method": "triplet"}, {"mdr_weight": 0.1}, {"mdr_weight": 0.4}],
            ["triplet", "triplet+mdr mdr_weight=0.1", "triplet+mdr mdr_weight=0.4"],
        ),
        (
            [{"levels": (-3, 0, 3)}, {"levels": (-1.5, 1.5)}],
            ["triplet+mdr levels=-3,0,3", "triplet+mdr levels=-1.5,1.5"],
        ),
        ([{"method": "triplet", "dim": 8}, {}], ["triplet", "triplet+mdr"]),
        # A later field is no part of an identity at its default.
        ([{}, {"level_lr": 0.1}], ["triplet+mdr level_lr=None", "triplet+mdr level_lr=0.1"]),
        (  # for the triplet loss alone this is the same experiment twice, but it is not said to be
            [{"method": "triplet", "mdr_weight": 0.1}, {"method": "triplet", "mdr_weight": 0.4}],
            ["triplet mdr_weight=0.1", "triplet mdr_weight=0.4"],
        ),
    ],
)
def test_labels_are_the_method_and_what_else_differs(changes, names):
    assert [group.label for group in groups([result(**change) for change in changes])] == names


CHANGES = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["triplet", "triplet+mdr"]),
        "dim": st.sampled_from([8, 16]),
        "mdr_weight": st.sampled_from([0.1, 0.2]),
        "augment": st.booleans(),
        "seed": st.integers(0, 3),
    }
)


@settings(deadline=None)
@given(st.lists(CHANGES, max_size=12, unique_by=lambda change: tuple(sorted(change.items()))))
def test_every_run_is_in_one_group_and_every_label_is_its_own(changes):
    found = groups([result(k / 100, **change) for k, change in enumerate(changes)])
    assert sorted(v for group in found for v in group.values.values()) == [
        k / 100 for k in range(len(changes))
    ]
    assert len({group.label for group in found}) == len(found)


def test_the_same_run_twice_is_refused_naming_both():
    with pytest.raises(ValueError, match="two runs of glyphs triplet, seed 3 .*0.5000 and 0.6000"):
        groups([result(0.5, seed=3, method="triplet"), result(0.6, seed=3, method="triplet", device="cpu")])


def test_other_data_is_no_repetition():
    other = DATA | {"test": {"images": 2, "fingerprint": "0c"}}
    runs = [result(0.5, seed=0), result(0.6, seed=1, data=other)]
    with pytest.raises(
        ValueError, match="different data, train 0a, test 0b and, of .*seed 1, train 0a, test 0c"
    ):
        groups(runs)
    assert by_data(runs) == {
        "glyphs (train 0a, test 0b)": [runs[0]],
        "glyphs (train 0a, test 0c)": [runs[1]],
    }
    found = [*groups(runs[:1]), *groups([replace(runs[1], config=runs[1].config | {"dim": 8})])]
    with pytest.raises(ValueError, match="different images.*'triplet.mdr' glyphs: train 0a, test 0c"):
        rows(found)


def test_by_data_keeps_sets_apart_and_weights_are_no_images():
    weights = DATA | {"weights": {"fingerprint": "ff"}}
    runs = [result(), result(dataset="digits"), result(data=weights, weights="a.pt", method="triplet")]
    assert by_data(runs) == {"digits": [runs[1]], "glyphs": [runs[0], runs[2]]}
    assert [row.label for row in rows(groups(by_data(runs)["glyphs"]))][1] == "triplet"


def test_a_metric_that_is_not_there_is_refused():
    with pytest.raises(
        ValueError, match=r"glyphs triplet, seed 2 has no metric 'recall@3'.*'recall@1', 'map@r'"
    ):
        groups([result(seed=2, method="triplet")], "recall@3")


def test_rows_of_a_table():
    runs = [*seeds(B), *seeds(A, method="triplet"), *seeds([0.9], method="triplet+l2")]
    mdr, triplet, l2 = rows(groups(runs))
    assert (mdr.label, mdr.n, mdr.mean) == ("triplet+mdr", 5, pytest.approx(0.832))
    assert mdr.interval.low == pytest.approx(0.832 - 2.7764451 * 0.0083666 / 5**0.5, abs=1e-6)
    assert mdr.difference.difference == pytest.approx(0.028) and mdr.difference.n == 5
    assert mdr.verdict == "better"
    assert triplet.difference is None, "the baseline"
    assert (l2.n, l2.mean, l2.interval, l2.difference, l2.verdict) == (1, 0.9, None, None, "undecided")

    turned = {row.label: row.verdict for row in rows(groups(runs), "triplet+mdr")}
    assert turned == {"triplet+mdr": "undecided", "triplet": "worse", "triplet+l2": "undecided"}
    wide = rows(groups(runs), confidence=0.9999)
    assert wide[0].verdict == "undecided" and wide[0].interval.high > mdr.interval.high


def test_rows_pair_on_shared_seeds_and_keep_all_for_the_mean():
    runs = [*seeds(A, method="triplet"), *seeds(B, first=3)]
    found = rows(groups(runs))[1]
    assert found.n == 5 and found.mean == pytest.approx(0.832)
    assert found.difference.n == 2  # seeds 3 and 4: 0.83 - 0.79, 0.84 - 0.80
    assert found.difference.difference == pytest.approx(0.04)


def test_the_baseline_is_triplet_or_the_first_or_the_named():
    found = groups([*seeds(A, dim=8), *seeds(B, dim=16)])
    assert pick(found).label == "triplet+mdr dim=8"
    assert pick(groups([*seeds(A), *seeds(B, method="triplet")])).label == "triplet"
    assert rows(found)[0].difference is None and rows(found, "triplet+mdr dim=16")[1].difference is None
    with pytest.raises(
        ValueError, match=r"called 'foo': choose one of \['triplet.mdr dim=8', 'triplet.mdr dim=16'\]"
    ):
        rows(found, "foo")
    with pytest.raises(ValueError, match="no group of runs"):
        rows([])


VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def test_an_interval_worked_out_by_hand():
    """1..5: mean 3, s = sqrt(10/4), over sqrt(5) that is sqrt(1/2); t of 4 degrees is 2.776 at 95 %."""
    mean, low, high = interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert (low, high) == pytest.approx((3 - 2.7764451 * 0.5**0.5, 3 + 2.7764451 * 0.5**0.5))


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


@pytest.mark.parametrize("values", [[0.5], [], [[0.5, 0.6]], [0.5, float("nan")], [0.5, float("inf")]])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(ValueError, match="two or more finite values, got"):
        interval(values)


def test_fewer_than_two_shared_seeds_are_refused_by_name():
    with pytest.raises(ValueError, match=r"got \[1\] of \[0, 1\] and \[1, 2\]"):
        paired({1: 0.5, 0: 0.4}, {1: 0.5, 2: 0.4})
    with pytest.raises(ValueError, match=r"got \[\] of \[\] and \[0\]"):
        paired({}, {0: 0.5})


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r'pip install "mdrlib\[results\]"'):
        interval([0.5, 0.6])
