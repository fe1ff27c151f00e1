"""Stored runs by arm: the order of trials, the chosen iterations, three ways to stop."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from mdrbook import contrasts, tuned
from mdrlib.config import Config
from mdrlib.results import Result, load_committed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "data/results"


def made(method, split=1, lr=1e-4, held_out=(0, 0, 0), tested=((0, 0), (0, 0), (0, 0))):
    """A run with three evaluations of two classes; each test class has its own value."""
    rows = [
        {"iteration": 100 * k, "map@r": sum(tested[k]) / 2, "validation_map@r": held_out[k]} for k in range(3)
    ]
    along = {"iteration": [0, 100, 200], "map@r": [list(values) for values in tested]}
    names = ["a", "b"] if split % 2 else ["c", "d"]
    config = {"method": method, "class_split": split, "lr": lr}
    return Result(config, {}, "last", 1.0, {}, None, {}, rows, {"class": names, "history": along})


@pytest.fixture
def study(tmp_path):
    # MDR gains 0.1 at 100 and 0.3 at 200, apart from noise of mean 0; the arms stop at 100 and 200.
    noise = {3: (0.01, -0.01), 4: (0.02, 0.01), 5: (-0.02, -0.01), 6: (-0.01, 0.01)}
    triplet, mdr = [], []
    for s, (u, v) in noise.items():
        one, other = s / 99, s / 10  # of the two classes
        triplet.append(made("triplet", s, tested=((0, 0), (one + 0.2, other), (one + 0.1, other))))
        tested = ((0, 0), (one + 0.3 + u, other + 0.1 + v), (one + 0.4 + u, other + 0.3 + v))
        mdr.append(made("triplet+mdr", s, tested=tested))
    lists = {
        "made-tuning": [
            made("triplet+mdr", lr=1e-3, held_out=(0.9, 0.2, 0.3)),
            made("triplet", lr=2e-4, held_out=(0, 0.1, 0.4)),
            made("triplet", lr=3e-4, held_out=(0, 0.5, 0.2)),
        ],
        "made-stopping": [
            made("triplet", held_out=(0, 0.5, 0.2)),
            made("triplet+mdr", held_out=(0, 0.2, 0.6)),
        ],
        "made": mdr + triplet,
    }
    for name, runs in lists.items():
        (tmp_path / f"{name}.json").write_text(json.dumps([asdict(run) for run in runs]))
    return tuned.read("made", folder=tmp_path)


def test_trials_are_by_the_best_score_while_training(study):
    assert list(study.tuning) == list(study.confirmed) == ["Triplet", "Triplet+MDR"], "baseline first"
    trials = study.trials()
    assert [(trial.config.lr, trial.score, trial.iteration) for trial in trials["Triplet"]] == [
        (3e-4, 0.5, 100),
        (2e-4, 0.4, 200),
    ]
    assert trials["Triplet+MDR"][0][:2] == (0.3, 200), "not before training"


def test_a_trial_is_the_mean_over_the_alphabets_held_out():
    runs = []
    for group, held_out in enumerate([(0, 0.6, 0.1), (0, 0.0, 0.3)]):
        run = made("triplet", held_out=held_out)
        run.config["held_out_group"] = group
        runs.append(run)
    (trial,) = tuned.Study({"Triplet": runs}, {}, {}).trials()["Triplet"]
    assert trial[:2] == (0.3, 100)


@pytest.mark.parametrize(("stop", "difference"), [("chosen", 0.25), ("end", 0.3), ("best", 0.25)])
def test_each_arm_is_compared_where_it_stops(study, stop, difference):
    assert study.stops() == {"Triplet": 100, "Triplet+MDR": 200}
    found = study.contrast("Triplet+MDR", "Triplet", "map@r", stop)
    assert found.difference == pytest.approx(difference, abs=1e-6)
    assert (found.splits, found.classes) == (4, 4)


def test_a_contrast_on_some_classes_leaves_out_the_others(study):
    found = study.contrast("Triplet+MDR", "Triplet", "map@r", classes=["a", "c"])
    assert found.classes == 2 and found.difference == pytest.approx(0.2, abs=1e-6)


def test_another_regularizer_of_the_plain_loss_is_an_arm_of_its_own():
    names = [tuned.arm_of(Config(method="triplet", **more)) for more in ({}, {"switch": 0.1})]
    names.append(tuned.arm_of(Config(method="triplet", weight_decay=1e-3)))
    assert names == ["Triplet", "Triplet, rho", "Triplet, weight decay"]


def test_every_stored_run_on_birds_is_in_an_arm():
    birds = tuned.read("photographs", folder=RESULTS)
    for name, part in zip(("photographs-tuning", "photographs-stopping", "photographs"), birds, strict=True):
        assert list(part) == list(tuned.ARMS.values())
        assert sum(map(len, part.values())) == len(load_committed(RESULTS / f"{name}.json"))


def test_the_readme_has_the_difference_on_groceries_after_the_last_iteration():
    found = tuned.read("groceries", folder=RESULTS).contrast("Triplet+MDR", "Triplet+L2Norm", "map@r", "end")
    readme = " ".join((ROOT / "README.md").read_text("utf8").split())
    assert f"MDR is ahead of L2 normalization on groceries: {contrasts.points(found)}." in readme


def test_the_readme_has_the_difference_on_cars_where_birds_stopped():
    birds = tuned.read("photographs", folder=RESULTS)
    cars = birds._replace(confirmed=tuned.by_arm("cars", folder=RESULTS))
    found = cars.contrast("Triplet+MDR", "Triplet", "map@r")
    stops = cars.stops()
    assert stops["Triplet+MDR"] == 4 * stops["Triplet"]
    readme = " ".join((ROOT / "README.md").read_text("utf8").split())
    assert f"trains four times as long as Triplet, and leads by {contrasts.points(found)}." in readme


def test_the_readme_has_the_differences_where_classes_are_learned_by_heart():
    def apart(name: str, count: int = 0) -> str:
        last = {}
        for arm, runs in tuned.by_arm(name, folder=RESULTS).items():
            for run in runs:
                if run.config["train_classes"] == count:
                    last[arm, run.config["class_split"]] = 100 * run.history[-1]["map@r"]
        both = [last["Triplet+MDR", split] - last["Triplet", split] for split in (3, 4)]
        return " and ".join(f"{difference:+.1f}" for difference in both)

    readme = " ".join((ROOT / "README.md").read_text("utf8").split())
    assert f"{apart('groceries-long')} on groceries after 1,200 iterations" in readme
    assert f"{apart('photographs-long')} on birds after 1,400" in readme
    assert f"{apart('cars-classes', 10)} on ten classes of cars" in readme
