"""Contrasts against formulas written down a second time, and on data whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, optimize, stats

from mdrbook import contrasts
from mdrlib.results import Result

ROOT = Path(__file__).resolve().parents[2]
CLASSES = [f"class {k}" for k in range(20)]
# Chapter 8: method, whether MDR is in units of distance.
TRIPLET, L2, MDR = ("triplet", False), ("triplet+l2", False), ("triplet+mdr", False)
PLANNED = [(MDR, TRIPLET), (MDR, L2), (("triplet+l2+mdr", True), L2)]


def halved(effect, of_split=0.01, of_class=0.02, rest=0.01, halvings=4, seed=0):
    """Two arms over halvings of twenty classes, each trained both ways."""
    random = np.random.default_rng(seed)
    classes = dict(zip(CLASSES, of_class * random.standard_normal(20), strict=True))
    rows = []
    for k in range(1, halvings + 1):
        order = random.permutation(CLASSES)
        for split, tested in ((2 * k - 1, order[:10]), (2 * k, order[10:])):
            shift = of_split * random.standard_normal()
            for name in tested:
                base = random.random()
                d = effect + shift + classes[name] + rest * random.standard_normal()
                rows.append((split, name, base + d, base))
    both = pd.DataFrame(rows, columns=["split", "cls", "a", "b"])
    return [both[["split", "cls", arm]].rename(columns={arm: "value"}) for arm in "ab"]


def by_hand(a, b):
    """Restricted maximum likelihood with a dense covariance: estimate and standard error of the mean."""
    both = a.merge(b, on=["split", "cls"])
    d = (both.value_x - both.value_y).to_numpy()
    same = [
        np.equal.outer(both[name].to_numpy(), both[name].to_numpy()).astype(float)
        for name in ("split", "cls")
    ]
    one = np.ones(len(d))

    def fit(logs):
        split, cls, rest = np.exp(logs)
        v = split * same[0] + cls * same[1] + rest * np.eye(len(d))
        factor = linalg.cho_factor(v)
        of_one, of_d = linalg.cho_solve(factor, np.stack([one, d], 1)).T
        weight = one @ of_one
        mean = one @ of_d / weight
        squares = (d - mean) @ (of_d - mean * of_one)
        return 2 * np.log(np.diag(factor[0])).sum() + np.log(weight) + squares, mean, weight**-0.5

    start = np.log(np.full(3, d.var() / 3))
    best = optimize.minimize(
        lambda logs: fit(logs)[0], start, method="Nelder-Mead", options={"maxiter": 4000}
    )
    return fit(best.x)[1:]


@pytest.mark.parametrize("seed", range(4))
def test_the_mixed_model_is_that_of_an_independent_formula(seed):
    a, b = halved(0.02, seed=seed)
    mean, error = by_hand(a, b)
    found = contrasts.contrast(a, b)
    assert found.difference == pytest.approx(mean, abs=2e-5)
    half = stats.t.ppf(0.975, 7) * error
    assert [found.low, found.high] == pytest.approx([mean - half, mean + half], abs=2e-4)
    assert (found.splits, found.classes) == (8, 20)


@pytest.mark.slow
def test_intervals_cover_the_true_difference_about_as_often_as_they_say():
    found = [contrasts.contrast(*halved(0.02, seed=seed)) for seed in range(60)]
    covered = [one.low <= 0.02 <= one.high for one in found]
    assert 0.88 <= np.mean(covered) <= 1, "60 draws: 95 % within about 7 points"


def test_the_f_test_is_alpaydins():
    d = np.array([[0.02, 0.03], [0.01, 0.025], [0.04, 0.01], [0.0, 0.02], [0.03, 0.03]])
    total = spread = 0.0
    for one, two in d:
        mean = (one + two) / 2
        total += one**2 + two**2
        spread += (one - mean) ** 2 + (two - mean) ** 2
    f = total / (2 * spread)
    assert contrasts.combined_f(d) == pytest.approx(1 - stats.f.cdf(f, 10, 5))


def test_of_no_difference_it_rejects_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    p = [contrasts.combined_f(random.standard_normal((5, 2))) for _ in range(2000)]
    assert np.mean(np.less(p, 0.05)) == pytest.approx(0.05, abs=0.04)


def test_a_bootstrap_over_classes_sees_classes_alone():
    a, b = halved(0.02, of_split=0, of_class=0.0, rest=0.0)
    found = contrasts.contrast(a, b)
    assert found.bootstrap == pytest.approx((0.02, 0.02)) and found.difference == pytest.approx(0.02)
    a, b = halved(0.02, of_class=0.05, of_split=0)
    low, high = contrasts.contrast(a, b).bootstrap
    assert 0.02 < high - low < 0.08, "4 standard errors of 0.05 / sqrt(20)"


@pytest.mark.parametrize(
    "ends, said",
    [
        ((0.002, 0.03), "better"),
        ((-0.03, -0.002), "worse"),
        ((-0.02, 0.004), "undecided"),
        ((-0.009, 0.004), "equivalent"),
        ((0.001, 0.009), "equivalent"),
    ],
)
def test_equivalent_is_only_what_lies_within_a_point(ends, said):
    assert contrasts.verdict(*ends) == said


def test_an_end_near_zero_shows_its_sign():
    assert contrasts.points((0.027, 0.019, 0.035)) == "+2.7 (+1.9 to +3.5)"
    assert contrasts.points((0.012, 0.0002, 0.024)) == "+1.20 (+0.02 to +2.40)"


def test_contrasts_confirmed_together_also_need_holms_p():
    a, b = halved(0.02)
    found = contrasts.contrast(a, b)
    made = [
        found._replace(low=0.002, high=0.04, p=p, p_f=1.0) for p in (0.012, 0.03, 0.04)
    ]  # Holm: 3 * 0.012, 2 * 0.03, 0.06
    assert contrasts.judged(made) == ["better", "undecided", "undecided"]
    assert contrasts.judged([found._replace(low=-0.004, high=0.008, p=0.4)]) == ["equivalent"]


def test_arms_of_other_splits_or_half_a_halving_are_refused():
    a, b = halved(0.02)
    with pytest.raises(ValueError, match="different class splits or classes"):
        contrasts.contrast(a, b[b.split != 3])
    with pytest.raises(ValueError, match="two or more whole halvings"):
        contrasts.contrast(a[a.split < 8], b[b.split < 8])


def made(split, seed, values, validation=None):
    rows = [{"iteration": 100 * k, "map@r": v, "recall@1": v} for k, v in enumerate(values)]
    for row, score in zip(rows, validation or [], strict=False):
        row["validation_map@r"] = score
    of = {"iteration": [row["iteration"] for row in rows], "map@r": [[v, v + 0.1] for v in values]}
    classes = {"class": ["x", "y"], "history": of}
    config = {"class_split": split, "seed": seed}
    return Result(config, {}, "last", 1.0, {}, None, {}, rows, classes)


def test_metrics_of_classes_are_means_over_seeds():
    runs = [made(3, 0, [0.1, 0.2]), made(3, 1, [0.3, 0.6]), made(4, 0, [0.5, 0.4])]
    end = contrasts.of_classes(runs, "map@r", 100)
    assert end.value.tolist() == pytest.approx([0.4, 0.5, 0.4, 0.5])
    best = contrasts.of_classes(runs, "map@r", None)
    assert best.value.tolist() == pytest.approx([0.4, 0.5, 0.5, 0.6]), "the best of split 4 is its start"


def test_the_stop_is_where_held_out_classes_are_best_on_average():
    runs = [made(1, 0, [0, 0, 0], [0.9, 0.2, 0.5]), made(1, 1, [0, 0, 0], [0.9, 0.6, 0.1])]
    assert contrasts.best_stop(runs) == (100, pytest.approx(0.4)), "not where nothing is trained"


def kept(name, arm):
    """The stored runs of an arm, as the file has them."""
    found = json.loads((ROOT / f"data/results/{name}.json").read_text())
    return [run for run in found if (run["config"]["method"], run["config"]["mdr_in_distance"]) == arm]


def where_it_stops(study, arm):
    """MAP@R of held-out classes, the mean of its runs, is largest there."""
    runs = kept(f"{study}-stopping", arm)
    tables = [[row["validation_map@r"] for row in run["history"]] for run in runs]
    means = [sum(values) for values in zip(*tables, strict=True)]
    best = 1 + int(np.argmax(means[1:]))
    return runs[0]["history"][best]["iteration"]


def of_test_classes(study, arm, metric):
    rows, runs = [], kept(study, arm)
    # Cars have no stops of their own: the last iteration.
    stop = runs[0]["config"]["iterations"] if study == "cars" else where_it_stops(study, arm)
    for run in runs:
        along = run["per_class"]["history"]
        values = along[metric][along["iteration"].index(stop)]
        split = run["config"]["class_split"]
        rows += [(split, *pair) for pair in zip(run["per_class"]["class"], values, strict=True)]
    return pd.DataFrame(rows, columns=["split", "cls", "value"])


@pytest.mark.parametrize("pair", PLANNED)
@pytest.mark.parametrize("metric", ["map@r", "recall@1"])
@pytest.mark.parametrize(
    "study, classes, splits",
    [
        ("photographs", 50, range(3, 11)),
        ("groceries", 81, range(3, 11)),
        ("cars", 196, range(3, 7)),
        pytest.param("handwriting", 242, range(1, 11), marks=pytest.mark.slow),
    ],
)
def test_the_planned_contrasts_are_those_of_an_independent_formula(study, classes, splits, metric, pair):
    a, b = (of_test_classes(study, arm, metric) for arm in pair)
    assert sorted(set(a.split)) == list(splits) and len(set(a.cls)) == classes
    assert set(a.groupby("cls").size()) == {len(splits) // 2}, "one half of each halving tests a class"
    mean, error = by_hand(a, b)
    found = contrasts.contrast(a, b)
    half = stats.t.ppf(0.975, len(splits) - 1) * error
    assert found.difference == pytest.approx(mean, abs=5e-5)
    assert [found.low, found.high] == pytest.approx([mean - half, mean + half], abs=5e-4)
    readme = " ".join((ROOT / "README.md").read_text("utf8").split())
    assert metric == "recall@1" or contrasts.points(found) in readme
