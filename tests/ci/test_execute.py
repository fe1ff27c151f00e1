"""ci/execute.py on tiny throwaway notebooks: what runs, what does not, and what is said about failures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

import execute
import runs
from tests.ci.houses import HERE, have, save, save_template

ROOT = Path(__file__).resolve().parents[2]


def states(text: str) -> dict[str, str]:
    """Notebook -> "up", "done" or "FAILED", of what was printed."""
    lines = [line.split() for line in text.splitlines() if line.startswith("[") and not line.endswith("...")]
    return {words[1]: words[2] for words in lines}


def test_executes_all_then_nothing_then_what_changed(house, capfd):
    assert execute.execute(house, "smoke") == []
    said = capfd.readouterr().out
    assert states(said) == {"a": "done", "m": "done", "one": "done"}
    assert "omniglot is not available, its runs are left out: omniglot: no network" in said
    assert "\n  a: iteration 3/3\n" in said and "seconds of the run" not in said  # its progress, live
    run = house / "_build/runs/smoke/a"
    assert (run / "result.json").exists() and (run / "umap.npz").exists() and (run / "run.ipynb").exists()
    durations = json.loads((house / "_build/executed/smoke/durations.json").read_text())
    assert set(durations) == {"a", "m", "one"} and durations["a"]["peak_memory_gb"] > 0.01

    page = nbformat.read(house / "_build/executed/smoke/one.ipynb", as_version=4)
    outputs = [output for cell in page.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs] == ["smoke ['a']\n"]  # and no dead widget
    injected = [cell for cell in page.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert ["remove-cell" in cell.metadata.tags for cell in injected] == [True]
    assert "papermill" not in json.dumps(page) and str(house) not in json.dumps(page)

    assert execute.execute(house, "smoke") == []
    assert states(capfd.readouterr().out) == {"a": "up", "m": "up", "one": "up"}

    (house / "mdrlib/__init__.py").write_text("changed = 1\n")
    assert execute.execute(house, "smoke", experiments=True) == []
    assert states(capfd.readouterr().out) == {"a": "done", "m": "done"}
    assert [path.name for path in run.glob("begun-*")] == ["begun-0"]  # the old folder was emptied


def test_a_failing_cell_is_told_and_the_others_still_run(house, capfd, monkeypatch):
    save(house / "book/experiments/train.ipynb", "x = 1", "raise ValueError('levels is [nan]')")
    save(house / "book/one.ipynb", "import os\nos._exit(1)")
    monkeypatch.setattr(execute, "ROOT", house)
    monkeypatch.setattr("sys.argv", ["execute.py", "--scale", "smoke"])
    assert execute.main() == 1
    said = capfd.readouterr().out
    assert states(said) == {"a": "FAILED", "m": "done", "one": "FAILED"}
    told = said[said.index("\nFAILED a\n") :]
    assert "ValueError: levels is [nan]" in told and "\x1b" not in told
    notebook = house / "_build/working/smoke/a.ipynb"
    assert f"executed notebook: {notebook}" in told and "levels is [nan]" in notebook.read_text()
    assert "DeadKernelError" in told
    assert not (house / "_build/runs/smoke/a/run.ipynb").exists()
    assert not (house / "_build/executed/smoke/one.ipynb").exists()

    save_template(house, "train")
    assert execute.execute(house, "smoke", only="a") == []
    assert states(capfd.readouterr().out) == {"a": "done"}


MEET = """
import time
from pathlib import Path
Path("{mine}").touch()
while not Path("{other}").exists():
    time.sleep(0.05)
"""


def test_notebooks_run_side_by_side_and_one_that_reads_waits(house, capfd, monkeypatch):
    """Each of two waits for a file of the other: one after the other they would wait for ever."""
    monkeypatch.setattr(execute.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    save_template(house, "train", MEET.format(mine=house / "1", other=house / "2"))
    save(house / "book/apart.ipynb", MEET.format(mine=house / "2", other=house / "1"))
    toc = house / "book/_toc.yml"
    toc.write_text(toc.read_text() + "  - file: apart\n")
    assert execute.execute(house, "smoke") == []
    assert list(states(capfd.readouterr().out))[2:] == ["m", "one"]
    result = json.loads((house / "_build/runs/smoke/a/result.json").read_text())
    assert result["environment"]["OMP_NUM_THREADS"] == "1"
    assert result["environment"]["MALLOC_MMAP_MAX_"] == "0"


def test_none_starts_while_another_has_the_memory(house, capfd, monkeypatch):
    monkeypatch.setattr(execute.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(execute, "free_gb", lambda: 1.5 * execute.USUAL_GB)
    save(house / "book/apart.ipynb", "1")
    toc = house / "book/_toc.yml"
    toc.write_text(toc.read_text() + "  - file: apart\n")
    assert execute.execute(house, "smoke") == []
    lines = [line.split()[2] for line in capfd.readouterr().out.splitlines() if line.startswith("[")]
    assert lines == ["...", "done"] * 4


@pytest.mark.parametrize("left", ["", '{\n "a": {', "[]", '{"a": 3}', '{"a": {"seconds": "x"}}', "\0\xff"])
def test_timings_that_cannot_be_read_are_no_timings(house, capfd, left):
    """As a kill or a full disk left them while they were written in place."""
    path = runs.durations_file(house, "smoke")
    path.parent.mkdir(parents=True)
    path.write_bytes(left.encode("latin-1"))
    assert runs.durations(house, "smoke") == {}
    if left == "":
        assert execute.execute(house, "smoke") == []
        assert set(runs.durations(house, "smoke")) == {"a", "m", "one"}


def test_what_is_left_of_a_kill_while_timings_are_written_is_whole(house, monkeypatch):
    """The disk is full at the second notebook: what the first took is kept."""
    assert execute.execute(house, "smoke", only="a") == []
    before = runs.durations(house, "smoke")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(full))
    failures = execute.execute(house, "smoke", only="m")
    assert [failure.name for failure in failures] == ["m"] and "No space left" in str(failures[0])
    monkeypatch.undo()
    assert runs.durations(house, "smoke") == before


def test_hidden_files_next_to_sources_execute_nothing_again(house, capfd):
    """JupyterLab leaves .ipynb_checkpoints next to what it opens, and macOS its .DS_Store."""
    (house / "data/results").mkdir(parents=True)
    assert execute.execute(house, "smoke") == []
    for folder in ("mdrlib", "book/mdrbook", "data/results", "_build/runs/smoke", "_build/runs/smoke/a"):
        (house / folder / ".ipynb_checkpoints").mkdir()
        (house / folder / ".ipynb_checkpoints/style-checkpoint.py").write_text("x = 1")
        (house / folder / ".DS_Store").write_bytes(b"\0")
    capfd.readouterr()
    assert execute.execute(house, "smoke") == []
    assert states(capfd.readouterr().out) == {"a": "up", "m": "up", "one": "up"}


def test_a_folder_in_the_way_fails_its_notebook_alone(house, capfd):
    (house / "_build/executed/smoke/one.ipynb").mkdir(parents=True)
    assert [failure.name for failure in execute.execute(house, "smoke")] == ["one"]
    said = capfd.readouterr().out
    assert states(said) == {"a": "done", "m": "done", "one": "FAILED"} and "IsADirectoryError" in said


def test_a_figure_that_a_page_would_not_show_fails_its_chapter(house):
    """Text in its place says why, such as absent data; a cell with the tag needs-data may be empty."""
    path = house / "book/one.ipynb"
    text = "from IPython.display import Markdown\nMarkdown('*no data*')"
    save(path, text, "None", "object()", parameters="x = 1")
    chapter = nbformat.read(path, as_version=4)
    for cell in chapter.cells[2:]:
        cell.metadata["mystnb"] = {"image": {"alt": "a line"}}
    chapter.cells[-2].metadata["tags"] = ["needs-data"]
    chapter.cells[-1].metadata["tags"] = ["needs-data"]  # it shows text, and that is no figure
    nbformat.write(chapter, path)
    failures = execute.execute(house, "smoke")
    assert [failure.name for failure in failures] == ["one"]
    assert "`object()`: it should show a figure and shows none" in str(failures[0])


def test_a_chapter_that_is_no_notebook_is_named(house):
    (house / "book/one.ipynb").write_text("{half a notebook")
    with pytest.raises(ValueError, match=r"book/one.ipynb is not a readable notebook"):
        execute.execute(house, "smoke")


def test_an_mdrlib_of_another_place_is_refused(tmp_path):
    """PYTHONPATH of another clone: its code would run under the names of this one."""
    shutil.copytree(ROOT / "mdrlib", tmp_path / "mdrlib", ignore=shutil.ignore_patterns("__pycache__"))
    words = [sys.executable, str(ROOT / "ci/execute.py"), "--scale", "none"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"Python finds mdrlib in {tmp_path / 'mdrlib'}, expected {ROOT / 'mdrlib'}" in done.stderr


COMMAND = (
    "import sys, execute; from pathlib import Path; execute.ROOT = Path(sys.argv.pop(1)); "
    "sys.exit(execute.main())"
)


def test_ctrl_c_ends_all_kernels(house):
    save(
        house / "book/experiments/train.ipynb",
        "from pathlib import Path\nPath('begun').touch()",
        "while True: pass",
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "ci")])}
    words = [sys.executable, "-c", COMMAND, str(house), "--scale", "smoke", "--only", "a"]
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (house / "book/experiments/begun").exists():
        assert process.poll() is None
        time.sleep(0.1)
    kernels = psutil.Process(process.pid).children(recursive=True)
    assert kernels
    os.killpg(process.pid, signal.SIGINT)
    assert "The same call continues from here." in process.communicate()[1] and process.returncode == 130
    assert not psutil.wait_procs(kernels, timeout=60)[1]


def test_an_interrupted_run_is_resumed_only_under_the_same_key(house, capfd):
    job = runs.jobs(house, "smoke", {})[0]
    for left, expected in ((runs.key_of(job), ["begun-0", "begun-1"]), ("other", ["begun-0"])):
        for path in job.folder.glob("*"):
            path.unlink()
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "begun-0").touch()  # as a run leaves its checkpoint when it is killed
        runs.key_file(job.output).write_text(left)
        assert execute.execute(house, "smoke", only="a") == []
        assert sorted(path.name for path in job.folder.glob("begun-*")) == expected


def test_an_optional_data_set_adds_its_runs_and_its_leaving_removes_them(house, capfd, monkeypatch):
    monkeypatch.chdir(house)
    monkeypatch.setenv("MDR_DATA_ROOT", "sets")  # relative to where make was called, not to the kernel
    have(monkeypatch, HERE)
    assert execute.execute(house, "smoke", experiments=True) == []
    assert states(capfd.readouterr().out) == {"a": "done", "b": "done", "m": "done"}
    run = house / "_build/runs/smoke/b"
    result = json.loads((run / "result.json").read_text())
    assert result["environment"]["MDR_DATA_ROOT"] == str(house / "sets") and (run / "umap.npz").exists()
    own = house / "_build/runs/smoke/made-by-hand"
    own.mkdir()

    have(monkeypatch, {})
    execute.execute(house, "smoke", experiments=True)
    assert not run.exists() and own.exists()


@pytest.fixture
def recipes(house, monkeypatch):
    """Three recipes in the house, of two sets, of which the first is available."""
    folder = house / "book/experiments/recipes"
    folder.mkdir()
    for name in ("cub-triplet", "cub-triplet-mdr", "sop-triplet"):
        settings = f"dataset: {name[:3]}\nbackbone: resnet18\nmethod: {name[4:].replace('-', '+')}\n"
        (folder / f"{name}.yml").write_text(f"{settings}iterations: 7\n")
    save_template(house, "train_on_photographs")
    have(monkeypatch, {"cub": HERE["omniglot"]}, "not in /sets")
    return folder


def test_the_recipes_of_a_set_run_at_scale_full_and_nothing_deletes_what_they_left(
    house, recipes, capfd, monkeypatch
):
    assert execute.execute(house, "full", dataset="cub") == []
    assert states(capfd.readouterr().out) == {"cub-triplet": "done", "cub-triplet-mdr": "done"}
    run = house / "_build/runs/full/cub-triplet"
    assert (run / "run.ipynb").exists() and "iteration 7/7" in (run / "run.ipynb").read_text()

    (house / "mdrlib/__init__.py").write_text("changed = 1\n")
    (house / "requirements.txt").write_text("numpy==2\n")
    save_template(house, "train_on_photographs", "1")
    assert execute.execute(house, "full", only="cub-triplet", dataset="cub", experiments=True) == []
    assert states(capfd.readouterr().out) == {"cub-triplet": "up"}

    recipe = recipes / "cub-triplet.yml"
    recipe.write_text(recipe.read_text().replace("7", "8"))
    (recipes / "cub-triplet-mdr.yml").unlink()
    assert execute.execute(house, "full", dataset="cub") == []  # the real run() would refuse this config
    assert states(capfd.readouterr().out) == {"cub-triplet": "done"}
    assert sorted(path.name for path in run.glob("begun-*")) == ["begun-0", "begun-1"]
    assert (house / "_build/runs/full/cub-triplet-mdr/result.json").exists()

    have(monkeypatch, {"cub": {"train": "1", "test": "other photographs"}})
    assert not runs.is_done(runs.jobs(house, "full", runs.data_here(house, "full", "cub"))[0])


def test_a_recipe_that_failed_is_tried_again_with_what_it_left(house, recipes, capfd):
    save_template(house, "train_on_photographs", "raise OSError('an image is damaged')")
    assert [failure.name for failure in execute.execute(house, "full", only="cub-triplet")] == ["cub-triplet"]
    (house / "mdrlib/__init__.py").write_text("mended = 1\n")
    save_template(house, "train_on_photographs")
    assert execute.execute(house, "full", only="cub-triplet") == []
    run = house / "_build/runs/full/cub-triplet"
    assert sorted(path.name for path in run.glob("begun-*")) == ["begun-0", "begun-1"]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({}, "sop: not in /sets"),
        ({"dataset": "sop"}, "sop: not in /sets"),
        ({"only": "sop-triplet"}, "sop: not in /sets"),
        ({"dataset": "birds"}, r"no recipe for a data set 'birds'; choose one of \['cub', 'sop'\]"),
        ({"only": "cub"}, r"no recipe named 'cub'; choose one of \['cub-triplet', 'cub-triplet-mdr', 'sop-t"),
        ({"only": "sop-triplet", "dataset": "cub"}, r"no recipe named 'sop-triplet'; choose one of \['cub-t"),
    ],
)
def test_what_cannot_run_at_scale_full_is_said_before_anything_starts(house, recipes, capfd, chosen, words):
    with pytest.raises(ValueError, match=words):
        execute.execute(house, "full", **chosen)
    assert states(capfd.readouterr().out) == {} and not (house / "_build").exists()


def test_refuses_names_it_does_not_know(house):
    with pytest.raises(ValueError, match="only at scale full, not at smoke: add SCALE=full"):
        execute.execute(house, "smoke", dataset="cub")
    with pytest.raises(ValueError, match=r"no scale 'huge'.*\['smoke'\]"):
        execute.execute(house, "huge")
    with pytest.raises(ValueError, match=r"no notebook named 'two'; choose one of \['a', 'm', 'one'\]"):
        execute.execute(house, "smoke", only="two")


@pytest.mark.parametrize(
    "outcome, status, words",
    [
        ([], 0, ""),
        (["a failure"], 1, ""),
        (ValueError("no scale 'huge'"), 1, "no scale 'huge'\n"),
        (RuntimeError("the scheduler has gone"), 1, "the scheduler has gone\n"),
        (OSError(30, "Read-only file system", "_build/runs"), 1, "Read-only file system: _build/runs\n"),
        (KeyboardInterrupt(), 130, "The same call continues from here."),
    ],
)
def test_exit_status(outcome, status, words, capsys, monkeypatch):
    monkeypatch.setattr(execute.signal, "signal", lambda *_: None)

    def work():
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert execute.exit_status(work) == status
    assert words in capsys.readouterr().err
