"""ci/store_results.py: what is stored, and what is refused."""

from dataclasses import asdict, replace

import pytest
import yaml

import store_results
import studies
from mdrlib.experiment import Config
from mdrlib.results import Result, load_committed, write


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
    folder = tmp_path / "_build/runs/quick"
    for name, made in {
        "digits-a": result(),
        "digits-b": result(seconds=2.0),
        "glyphs-a": result(config=asdict(Config())),
    }.items():
        (folder / name).mkdir(parents=True)
        write(made, folder / name)
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


def test_stores_a_study_a_line_per_run_with_what_is_stored(matrix_house):
    made, path = studies.matrix(matrix_house), matrix_house / "data/results/ablations.json"
    with pytest.raises(ValueError, match="call `make experiments SCALE=ablations STUDY=other`"):
        store_results.store_studies(matrix_house, "other")

    def leave(chosen, **changes):
        for cell in chosen:
            folder = matrix_house / f"_build/runs/sweep/{cell.config.mdr_weight}-{cell.config.seed}"
            folder.mkdir(parents=True, exist_ok=True)
            write(result(config=asdict(cell.config), **changes), folder)

    leave(made[:3], history=[{"iteration": 0, "loss": 1 / 3, "recall@1": 0.123456789, "lr": None}])
    assert store_results.store_studies(matrix_house, None) == [(path, 3)]
    assert len(path.read_text().splitlines()) == 3 + 2
    stored = load_committed(path)
    assert [run.config["mdr_weight"] for run in stored] == [0.1, 0.2, 0.3]
    assert stored[0].history == [{"iteration": 0, "loss": 0.33333, "recall@1": 0.12346, "lr": None}]

    leave(made[:1] + made[3:4], seconds=7.0)
    assert store_results.store_studies(matrix_house, "other") == [(path, 4)]
    assert [run.seconds for run in load_committed(path)] == [7.0, 1.0, 1.0, 7.0]

    spec = matrix_house / "ci/ablations.yml"
    spec.write_text(spec.read_text().replace("- 0.2", "- 0.7"))
    assert store_results.store_studies(matrix_house, "other") == [(path, 3)]  # the matrix has it no more
    leave(made[3:4], git={"commit": "c" * 40, "dirty": True})
    with pytest.raises(ValueError, match="uncommitted"):
        store_results.store_studies(matrix_house, "other")
    leave(made[3:4], data={"train": {"images": 1, "fingerprint": "x"}})
    with pytest.raises(ValueError, match="runs on glyphs saw different images"):
        store_results.store_studies(matrix_house, "other")
    assert len(load_committed(path)) == 3


def test_a_study_goes_to_the_file_it_names(matrix_house):
    spec = yaml.safe_load((matrix_house / "ci/ablations.yml").read_text())
    spec["studies"]["other"]["file"] = "glyphs-other"
    (matrix_house / "ci/ablations.yml").write_text(yaml.safe_dump(spec, sort_keys=False))
    for k, cell in enumerate(studies.matrix(matrix_house)):
        folder = matrix_house / "_build/runs/sweep" / str(k)
        folder.mkdir(parents=True)
        write(result(config=asdict(cell.config)), folder)
    folder = matrix_house / "data/results"
    wanted = [(folder / "ablations.json", 6), (folder / "glyphs-other.json", 2)]  # shared runs are in both
    assert store_results.store_studies(matrix_house, None) == wanted


@pytest.mark.parametrize(
    ("dataset", "split", "classes", "kept"),
    [
        ("omniglot", 0, True, ["class", "map@r"]),
        ("omniglot", 3, True, ["class", "history", "map@r"]),
        ("grocery", 0, True, ["class", "history", "map@r"]),
        ("grocery", 3, False, []),
    ],
)
def test_metrics_of_classes_along_a_run_stay_where_they_are_compared(dataset, split, classes, kept):
    seen = {"class": ["a"], "map@r": [1 / 3], "history": {"iteration": [0], "map@r": [[1 / 3]]}}
    run = result(config={"dataset": dataset, "class_split": split}, per_class=seen)
    assert sorted(store_results.compact(run, classes)["per_class"] or []) == kept
