"""ci/expected.yml: its ranges follow from runs, and a network that does not learn lies outside."""

import copy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from scipy import stats

import check_results
import matrix
from check_results import derive, problems
from mdrlib import experiment
from mdrlib.config import Config
from mdrlib.datasets import load
from mdrlib.evaluation import Evaluation
from mdrlib.experiment import run
from mdrlib.results import load_committed

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = yaml.safe_load((ROOT / "ci/expected.yml").read_text())
ENTRIES = [(scale, name) for scale, runs in EXPECTED.items() for name, about in runs.items() if about]
STORED = load_committed(ROOT / "data/results/quick-seeds.json")


@pytest.mark.parametrize("scale, name", ENTRIES)
def test_committed_ranges_follow_from_their_means_and_spreads(scale, name):
    entry = EXPECTED[scale][name]
    n = len(entry["seeds"])
    t = stats.t.isf((1 - check_results.CONFIDENCE) / 2, n - 1)
    for value, about in entry["ranges"].items():
        half = check_results.WIDENED * t * about["spread"] * (1 + 1 / n) ** 0.5
        low, high = max(about["mean"] - half, 0), about["mean"] + half
        if value in ("recall@1", "map@r"):
            high = min(high, 1)
        assert [about["low"], about["high"]] == pytest.approx([low, high], abs=3e-4)
    if scale != "smoke":
        assert entry["ranges"]["recall@1"]["low"] > entry["untrained"]


def test_each_run_of_smoke_and_quick_has_an_entry_of_its_config():
    for scale in ("smoke", "quick"):
        runs = check_results.configs_of(ROOT, scale)
        assert list(EXPECTED[scale]) == list(runs)
        for name, (_, config) in runs.items():
            entry = EXPECTED[scale][name]
            assert check_results.identity(entry["config"]) == check_results.identity(config)
            means = {value: about["mean"] for value, about in entry["ranges"].items()}
            typical = replace(STORED[0], config=asdict(Config.of(config)), metrics=means, history=[means])
            assert problems(typical, config, entry) == []


def test_the_ranges_of_quick_are_those_of_the_stored_runs_of_the_book():
    runs = check_results.configs_of(ROOT, "quick")
    of_study = {cell.identity for cell in matrix.cells(ROOT, "quick")}
    assert of_study == {
        matrix.identity(Config.of(config | {"seed": seed}))
        for _, config in runs.values()
        for seed in range(5)
    }
    for name, (_, config) in runs.items():
        its = [r for r in STORED if check_results.identity(r.config) == check_results.identity(config)]
        assert derive(config, its, above_untrained=True) == EXPECTED["quick"][name]


class Brief(experiment.Evaluation):
    """As quick as can be: at no training images, at all test images only in the last of three evaluations."""

    calls = 0

    def __call__(self, model):
        self.calls += 1
        images, labels = self.splits["test"]
        few = len(labels) if self.calls == 3 else 80
        return Evaluation({"test": (images[:few], labels[:few])}, self.ks)(model)


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    """Makes the run glyphs-triplet of scale smoke, with changes, and returns which values are outside."""
    monkeypatch.setenv("MDR_PROGRESS", "off")
    monkeypatch.setattr(experiment, "Evaluation", Brief)

    def made(**changes):
        config = check_results.configs_of(ROOT, "smoke")["glyphs-triplet"][1]
        entry = EXPECTED["smoke"]["glyphs-triplet"]
        found = run(Config.of(config | changes | {"device": "cpu"}), tmp_path / str(changes))
        return [line.split(":")[0] for line in problems(replace(found, config=config), config, entry)]

    return made


def test_a_network_that_does_not_learn_fails(smoke):
    assert smoke() == []
    assert "recall@1" in smoke(lr=0.0)


def test_a_network_that_learns_shuffled_labels_fails(smoke, monkeypatch):
    def shuffled(name, split, root):
        found = copy.copy(load(name, split, root))
        if split == "train":
            found.labels = found.labels[
                torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
            ]
        return found

    monkeypatch.setattr(experiment, "load", shuffled)
    assert "loss" in smoke()
