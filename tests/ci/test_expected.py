"""ci/expected.yml: its ranges are of these runs, and a network that does not learn lies outside."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import check_results
import runs
from mdrlib import experiment
from mdrlib.config import Config
from mdrlib.datasets import load
from mdrlib.evaluation import measure
from mdrlib.experiment import run
from mdrlib.results import load_committed

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = check_results.read(ROOT)


@pytest.mark.parametrize("scale", ["smoke", "quick"])
def test_each_run_has_an_entry_of_its_config(scale):
    known = runs.experiments(ROOT, scale)
    assert list(EXPECTED[scale]) == list(known)
    for name, (_, config) in known.items():
        wanted = check_results.without_seed(config)
        assert check_results.without_seed(EXPECTED[scale][name]["config"]) == wanted


def test_the_ranges_of_quick_are_those_of_the_stored_runs_of_the_book():
    files = [ROOT / f"data/results/{name}.json" for name in ("quick-seeds", "grocery-quick")]
    stored = [run for path in files for run in load_committed(path)]
    for name, (_, config) in runs.experiments(ROOT, "quick").items():
        wanted = check_results.without_seed(config)
        its = [run for run in stored if check_results.without_seed(run.config) == wanted]
        assert check_results.derive(config, its, above_untrained=True) == EXPECTED["quick"][name]


def brief():
    """A quick `measure`: no training images, and all test images only in the last of three evaluations."""
    calls = 0

    def measured(model, splits, ks, features):
        nonlocal calls
        calls += 1
        images, labels = splits["test"]
        step = 1 if calls == 3 else 10  # two images of each class
        return measure(model, {"test": (images[::step], labels[::step])}, ks)

    return measured


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    """Makes the run glyphs-triplet of scale smoke, with changes, and returns which values are outside."""
    monkeypatch.setenv("MDR_PROGRESS", "off")

    def made(**changes):
        monkeypatch.setattr(experiment, "measure", brief())
        config = runs.experiments(ROOT, "smoke")["glyphs-triplet"][1]
        entry = EXPECTED["smoke"]["glyphs-triplet"]
        found = run(Config.of(config | changes | {"device": "cpu"}), tmp_path / str(changes))
        lines = check_results.problems(replace(found, config=config), config, entry)
        return [line.split(":")[0] for line in lines]

    return made


@pytest.mark.slow
def test_a_network_that_does_not_learn_fails(smoke):
    assert smoke() == []
    assert "recall@1" in smoke(lr=0.0)


@pytest.mark.slow
def test_a_network_that_learns_shuffled_labels_fails(smoke, monkeypatch):
    def shuffled(name, split, root, class_split):
        found = copy.copy(load(name, split, root, class_split))
        if split == "train":
            order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
            found.labels = found.labels[order]
        return found

    monkeypatch.setattr(experiment, "load", shuffled)
    assert "loss" in smoke()
