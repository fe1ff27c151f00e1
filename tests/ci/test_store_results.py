"""ci/store_results.py, and what is stored in data/results."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

import plan
import store_results
from mdrlib.experiment import Config
from mdrlib.results import Result, load_committed, write

ROOT = Path(__file__).resolve().parents[2]
STORED = [p for p in sorted((ROOT / "data/results").glob("*.json")) if not p.stem.startswith("bench-")]


def result(**changes):
    made = Result(
        config=asdict(Config(dataset="digits")),
        metrics={"recall@1": 0.5},
        selected_by="last",
        seconds=1.0,
        environment={},
        git={"commit": "c" * 40, "dirty": False},
        data={},
        history=[{"iteration": 0, "recall@1": 0.5}],
    )
    return replace(made, **changes)


def test_stores_the_runs_of_one_data_set(tmp_path):
    runs = tmp_path / "_build/runs/quick"
    for name, made in {
        "digits-a": result(),
        "digits-b": result(seconds=2.0),
        "glyphs-a": result(config=asdict(Config())),
    }.items():
        (runs / name).mkdir(parents=True)
        write(made, runs / name)
    path = store_results.store(tmp_path, "digits", "quick")
    assert path == tmp_path / "data/results/digits-quick.json"
    assert [run.seconds for run in load_committed(path)] == [1.0, 2.0]
    with pytest.raises(ValueError, match="no runs on omniglot at scale quick"):
        store_results.store(tmp_path, "omniglot", "quick")


@pytest.mark.parametrize("git", (None, {"commit": "c" * 40, "dirty": True}))
def test_refuses_runs_of_uncommitted_code(tmp_path, git):
    folder = tmp_path / "_build/runs/quick/digits-a"
    folder.mkdir(parents=True)
    write(result(git=git), folder)
    with pytest.raises(ValueError, match="uncommitted"):
        store_results.store(tmp_path, "digits", "quick")
    assert not (tmp_path / "data/results").exists()


def test_stores_a_benchmark_but_no_miniature_of_it(tmp_path):
    folder = tmp_path / "_build/runs/full/cub-triplet"
    folder.mkdir(parents=True)
    data = {"train": {"images": 5864}, "test": {"images": 8}}
    write(result(config={"dataset": "cub"}, data=data), folder)
    with pytest.raises(ValueError, match=r"saw \[8\] images of test, cub has 5924"):
        store_results.store(tmp_path, "cub", "full")
    data["test"]["images"] = 5924
    write(result(config={"dataset": "cub"}, data=data), folder)
    assert store_results.store(tmp_path, "cub", "full") == tmp_path / "data/results/cub-full.json"
    with pytest.raises(ValueError, match="make experiments SCALE=full SET=sop"):
        store_results.store(tmp_path, "sop", "full")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_what_is_stored_is_what_the_experiments_say(path):
    dataset, scale = path.stem.rsplit("-", 1)
    jobs = plan.all_jobs(ROOT, scale, {dataset: ""})
    wanted = [Config.of(job.parameters["config"]) for job in jobs if "config" in job.parameters]
    wanted = [config for config in wanted if config.dataset == dataset]
    found = load_committed(path)
    assert len(found) == len(wanted) or scale == "full"  # where recipes are run one by one
    for run in found:
        assert Config.of(run.config) in wanted
        assert run.git["dirty"] is False and len(run.git["commit"]) == 40
