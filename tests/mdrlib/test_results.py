"""What a run writes down: the form fixed by the design, nothing of the machine, and reading it again."""

import csv
import getpass
import json
import platform
import subprocess
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch

from mdrlib import results
from mdrlib.datasets import glyphs
from mdrlib.diagnostics import DIAGNOSTICS
from mdrlib.experiment import Config, run
from mdrlib.results import Result, load_committed, load_run, load_runs

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"config", "metrics", "selected_by", "seconds", "environment", "git", "data", "history"}
METRICS = {"recall@1", "recall@2", "recall@4", "recall@8", "r_precision", "map@r"}
ENVIRONMENT = {"python", "torch", "numpy", "system", "cpu_cores", "threads", "device"}
# Since schema 2.
NEW_KEYS = {"per_class", "schema"}
NEW_METRICS = {"train_recall@1", "train_map@r", *DIAGNOSTICS}
NEW_ENVIRONMENT = {"packages", "cpu", "instructions"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run on a few glyphs."""
    folder = tmp_path_factory.mktemp("runs") / "glyphs-mdr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MDR_PROGRESS", "off")
        for name in ("ALPHABETS", "CHARACTERS", "WRITERS"):
            patch.setattr(glyphs, name, 4)
        run(Config(dim=8, batch_size=16, iterations=3, evaluate_every=2, device="cpu"), folder)
    return folder


@pytest.fixture
def result():
    """One made by hand."""
    history = [
        {"iteration": 0, "loss": None, "recall@1": 0.25},
        {"iteration": 10, "loss": 0.1 + 0.2, "recall@1": 0.5, "occupancy_0": 1.0},
    ]
    data = {"train": {"images": 3, "fingerprint": "0f"}}
    return Result({"dim": 8}, {"recall@1": 0.5}, "last", 1.5, {"python": "3"}, None, data, history)


def check(entry):
    """The form of one result, as JSON has it."""
    new = entry.get("schema", 1) >= 2
    assert set(entry) - NEW_KEYS == KEYS
    # A stored list may lack newer fields, and none is unknown.
    assert Config.of(entry["config"]) and set(entry["config"]) <= {field.name for field in fields(Config)}
    assert set(entry["metrics"]) == METRICS | (NEW_METRICS if new else set())
    assert all(0 <= entry["metrics"][name] <= 1 for name in METRICS)
    held_out = entry["config"]["validation"] or entry["config"].get("held_out_group", -1) >= 0
    assert entry["selected_by"] == ("validation" if held_out else "last")
    assert entry["seconds"] > 0
    assert set(entry["environment"]) == ENVIRONMENT | (NEW_ENVIRONMENT if new else set())
    assert entry["git"] is None or set(entry["git"]) == {"commit", "dirty"}
    searched = {"query", "gallery"} if entry["config"]["dataset"] == "grocery" else {"test"}
    assert set(entry["data"]) == {"train"} | searched
    for split in entry["data"].values():
        assert split["images"] > 0 and len(split["fingerprint"]) == 16
    assert entry["history"][0]["iteration"] == 0
    assert entry["history"][-1]["iteration"] == entry["config"]["iterations"]


def test_result_json_has_the_form_of_the_design(finished):
    entry = json.loads((finished / "result.json").read_text())
    check(entry)
    assert set(entry["config"]) == {field.name for field in fields(Config)}, "a new one has them all"
    assert {field.name for field in fields(Result)} == KEYS | NEW_KEYS
    assert entry["environment"]["packages"]["torchvision"] and entry["environment"]["cpu"]
    classes = entry["per_class"]
    assert len(classes["class"]) == len(set(classes["class"])) == len(classes["queries"])
    for name in ("recall@1", "map@r"):
        counted = sum(n * value for n, value in zip(classes["queries"], classes[name], strict=True))
        assert counted / sum(classes["queries"]) == pytest.approx(entry["metrics"][name])


def test_nothing_names_the_machine_its_user_or_a_place_on_it(finished):
    text = (finished / "result.json").read_text() + (finished / "history.csv").read_text()
    environment = json.loads((finished / "result.json").read_text())["environment"]
    assert environment["device"] == "cpu" and environment["torch"] == torch.__version__
    private = {platform.node(), str(Path.home()), str(ROOT), str(finished), str(finished.parent)}
    if getpass.getuser() != "root":  # a word of its own
        private.add(getpass.getuser())
    for word in private:
        assert word not in text
    assert json.loads((finished / "result.json").read_text())["config"]["data_root"] is None


def test_history_csv_has_a_column_for_each_value(finished):
    with (finished / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = """
    iteration seconds images_per_second lr loss regularizer running_mean running_std level_0 level_1 level_2
    occupancy_0 occupancy_1 occupancy_2
    """
    assert set(rows[0]) == set(columns.split()) | METRICS | NEW_METRICS
    assert [row["iteration"] for row in rows] == ["0", "2", "3"]
    assert rows[0]["loss"] == rows[0]["occupancy_0"] == "" and float(rows[1]["loss"]) > 0


def test_what_is_written_is_read(tmp_path, result):
    results.write(result, tmp_path / "run")
    assert load_run(tmp_path / "run") == load_run(str(tmp_path / "run")) == result
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["history.csv", "result.json"]
    text = "iteration,loss,recall@1,occupancy_0\n0,,0.25,\n10,0.30000000000000004,0.5,1.0\n"
    assert (tmp_path / "run" / "history.csv").read_text() == text


def test_a_value_that_json_does_not_know_is_refused_before_the_file_changes(tmp_path):
    results.write_json(tmp_path / "a.json", {"x": 1})
    for value in (float("nan"), float("inf"), {1}):
        with pytest.raises((ValueError, TypeError)):
            results.write_json(tmp_path / "a.json", {"x": value})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_a_missing_result_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no result at .*elsewhere/result.json.*make experiments"):
        load_run(tmp_path / "elsewhere")


@pytest.mark.parametrize("text", ["", "{", '{"config": {}}', "[]", "3", '"text"', "\xff"])
def test_a_foreign_file_is_refused_by_name(tmp_path, text):
    (tmp_path / "result.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="result.json is not"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"config": "x"},
        {"metrics": [0.5]},
        {"metrics": {"recall@1": "0.5"}},
        {"metrics": {"recall@1": float("nan")}},
        {"history": {}},
        {"data": None},
        {"seconds": "1"},
    ],
)
def test_a_value_of_another_type_is_refused_by_name(tmp_path, result, change):
    (tmp_path / "result.json").write_text(json.dumps(asdict(result) | change))
    with pytest.raises(ValueError, match=f"result.json is not a result .*{'|'.join((*change, 'recall@1'))}"):
        load_run(tmp_path)
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="result.json is not a result"):
        load_run(tmp_path)


def test_an_unknown_key_is_refused_by_name(tmp_path, result):
    results.write_json(tmp_path / "result.json", asdict(result) | {"host": "x"})
    with pytest.raises(ValueError, match="result.json is not a result of this version.*host"):
        load_run(tmp_path)


def test_all_finished_runs_of_a_folder_are_read_in_order(tmp_path, result):
    for name in ("b", "a", "c"):
        results.write(result, tmp_path / name)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "result.json").write_text("no run")
    assert list(load_runs(tmp_path).items()) == [(name, result) for name in "abc"]
    assert load_runs(tmp_path / "nowhere") == {}


def test_a_committed_list_is_read(tmp_path, result):
    results.write_json(tmp_path / "list.json", [asdict(result), asdict(result)])
    assert load_committed(tmp_path / "list.json") == [result, result]
    for text in ("[{}]", "no"):
        (tmp_path / "list.json").write_text(text)
        with pytest.raises(ValueError, match="list.json is not"):
            load_committed(tmp_path / "list.json")


def test_the_committed_lists_can_be_read_and_have_the_form_of_the_design():
    lists = sorted((ROOT / "data" / "results").glob("*.json"))
    for path in [path for path in lists if not path.stem.startswith("bench-")]:  # those are of speed
        found = load_committed(path)
        assert found, path
        for result in found:
            check(asdict(result))
            root = result.config["data_root"]  # of a folder its name, never a path
            assert root is None or result.config["dataset"] == "folder" and "/" not in root


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_git_is_the_commit_of_the_clone_and_whether_it_differs(tmp_path, monkeypatch):
    package = tmp_path / "clone" / "mdrlib"
    package.mkdir(parents=True)
    for name in ("__init__.py", "results.py"):
        (package / name).touch()
    monkeypatch.setattr(results, "__file__", str(package / "results.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert results.git() is None, "no repository"
    git(tmp_path / "clone", "init", "-q")
    (tmp_path / "clone" / "other").touch()
    git(tmp_path / "clone", "add", "other")
    git(tmp_path / "clone", "commit", "-q", "-m", "one")
    assert results.git() is None, "a repository that mdrlib is installed in, not of"
    git(tmp_path / "clone", "add", ".")
    git(tmp_path / "clone", "commit", "-q", "-m", "two")
    clean = results.git()
    assert set(clean) == {"commit", "dirty"} and len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "clone" / "untracked").touch()
    assert results.git() == clean
    (package / "results.py").write_text("changed")
    assert results.git() == clean | {"dirty": True}
    monkeypatch.setenv("PATH", "")
    assert results.git() is None, "no git"
