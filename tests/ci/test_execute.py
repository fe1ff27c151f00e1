"""ci/execute.py on tiny throwaway notebooks: what runs, what does not, and what is said about failures."""

import json
import os
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import execute
import plan

TEMPLATE = """
import os
from pathlib import Path
folder = Path(out_dir)
count = len(list(folder.glob("begun-*")))
(folder / f"begun-{count}").touch()
(folder / "result.json").write_text(os.environ.get("MDR_DATA_ROOT", ""))
print("iteration", config["iterations"])
"""
MAP = 'from pathlib import Path\nfor run in runs:\n    (Path(run) / "umap.npz").touch()'
CHAPTER = (
    'from pathlib import Path\nprint(scale, sorted(p.parent.name for p in Path(runs).glob("*/result.json")))'
)
WIDGET = f"""
from IPython.display import display
display({{"{execute.WIDGET}": {{"model_id": "x"}}, "text/plain": "IntSlider()"}}, raw=True)
"""


def save(path: Path, *cells: str, parameters: str = "") -> None:
    """Write a notebook with a parameters cell and these code cells."""
    made = [new_markdown_cell("# A title"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=made + [new_code_cell(cell) for cell in cells]), path)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A root with two runs, a map of them, two chapters, and a library whose only set cannot be had."""
    monkeypatch.delenv("MDR_DATA_ROOT", raising=False)
    monkeypatch.setenv("MDR_PROGRESS", "bar")
    (tmp_path / "ci").mkdir()
    (tmp_path / "mdrlib/datasets").mkdir(parents=True)
    (tmp_path / "mdrlib/__init__.py").touch()
    write_loader(tmp_path, 'raise OSError("no network")')
    (tmp_path / "requirements.txt").write_text("numpy==1\n")
    run = {"template": "train", "config": {"dataset": "glyphs"}}
    optional = {"template": "train", "needs": "omniglot", "config": {"dataset": "omniglot"}}
    spec = {
        "runs": {"a": run, "b": optional},
        "maps": {"m": {"template": "map", "of": ["a", "b"]}},
        "scales": {"smoke": {"glyphs": {"iterations": 3}, "omniglot": {"iterations": 4}}},
    }
    (tmp_path / "ci/experiments.yml").write_text(yaml.safe_dump(spec))
    save(tmp_path / "book/experiments/train.ipynb", TEMPLATE, parameters="config, out_dir = {}, ''")
    save(tmp_path / "book/experiments/map.ipynb", MAP, parameters="runs = []")
    save(tmp_path / "book/one.ipynb", CHAPTER, WIDGET, parameters="scale, runs = '', ''")
    (tmp_path / "book/_toc.yml").write_text(
        "format: jb-book\nroot: index\nparts:\n- chapters:\n  - file: one.ipynb\n  - file: text\n"
    )
    return tmp_path


def write_loader(root: Path, body: str) -> None:
    """Give the house's library a `load` with this body."""
    loader = f"from types import SimpleNamespace\ndef load(name, split):\n    {body}\n"
    (root / "mdrlib/datasets/__init__.py").write_text(loader)


def states(text: str) -> dict[str, str]:
    """Notebook -> "up", "done" or "FAILED", of what was printed."""
    lines = [line.split() for line in text.splitlines() if line.startswith("[") and not line.endswith("...")]
    return {words[1]: words[2] for words in lines}


def test_executes_all_then_nothing_then_what_changed(house, capfd):
    assert execute.execute(house, "smoke") == []
    said = capfd.readouterr().out
    assert states(said) == {"a": "done", "m": "done", "one": "done"}
    assert "omniglot cannot be had here, its runs are left out: no network" in said
    assert "iteration 3" in said  # live, from inside the run
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

    save(house / "book/experiments/train.ipynb", TEMPLATE)
    assert execute.execute(house, "smoke", only="a") == []
    assert states(capfd.readouterr().out) == {"a": "done"}


def test_an_interrupted_run_is_resumed_only_under_the_same_key(house, capfd):
    job = plan.all_jobs(house, "smoke", {"omniglot": None})[0]
    key = plan.key_of(job, plan.digest_of([*plan.library(house), house / "requirements.txt"], house))
    for left, expected in ((key, ["begun-0", "begun-1"]), ("other", ["begun-0"])):
        for path in job.folder.glob("*"):
            path.unlink()
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "begun-0").touch()  # as a run leaves its checkpoint when it is killed
        (job.folder / "run.ipynb.key.running").write_text(left)
        assert execute.execute(house, "smoke", only="a") == []
        assert sorted(path.name for path in job.folder.glob("begun-*")) == expected
        assert not (job.folder / "run.ipynb.key.running").exists()


def test_an_optional_data_set_adds_its_runs_and_its_leaving_removes_them(house, capfd, monkeypatch):
    monkeypatch.chdir(house)
    monkeypatch.setenv("MDR_DATA_ROOT", "sets")  # relative to where make was called, not to the kernel
    write_loader(house, 'return SimpleNamespace(fingerprint="1")')
    assert execute.execute(house, "smoke", experiments=True) == []
    assert states(capfd.readouterr().out) == {"a": "done", "b": "done", "m": "done"}
    run = house / "_build/runs/smoke/b"
    assert (run / "result.json").read_text() == str(house / "sets") and (run / "umap.npz").exists()
    own = house / "_build/runs/smoke/made-by-hand"
    own.mkdir()

    write_loader(house, 'raise OSError("gone")')
    jobs = [job.name for job in plan.all_jobs(house, "smoke", {"omniglot": None})]
    assert jobs == ["a", "m", "one"]
    execute.execute(house, "smoke", experiments=True)
    assert not run.exists() and own.exists()


def test_a_broken_data_set_is_an_error_not_an_absence(house):
    write_loader(house, 'raise ValueError("the file is damaged")')
    with pytest.raises(RuntimeError, match="omniglot failed: ValueError: the file is damaged"):
        execute.execute(house, "smoke")


@pytest.fixture
def recipes(house):
    """Three recipes in the house, of two sets, of which the library has the first."""
    folder = house / "book/experiments/recipes"
    folder.mkdir()
    for name in ("cub-triplet", "cub-triplet-mdr", "sop-triplet"):
        (folder / f"{name}.yml").write_text(f"dataset: {name[:3]}\niterations: 7\n")
    save(
        house / "book/experiments/train_on_photographs.ipynb", TEMPLATE, parameters="config, out_dir = {}, ''"
    )
    write_loader(house, FIRST_SET)
    return folder


FIRST_SET = """
    if name != "cub":
        raise OSError(f"{name} is not in /sets: `python -m mdrlib data {name}` gets it")
    return SimpleNamespace(fingerprint="1")
"""


def test_the_recipes_of_a_set_run_at_scale_full_and_nothing_deletes_what_they_left(house, recipes, capfd):
    assert execute.execute(house, "full", dataset="cub") == []
    assert states(capfd.readouterr().out) == {"cub-triplet": "done", "cub-triplet-mdr": "done"}
    run = house / "_build/runs/full/cub-triplet"
    assert (run / "run.ipynb").exists() and "iteration 7" in (run / "run.ipynb").read_text()

    (house / "mdrlib/__init__.py").write_text("changed = 1\n")
    (house / "requirements.txt").write_text("numpy==2\n")
    save(
        house / "book/experiments/train_on_photographs.ipynb",
        TEMPLATE,
        "1",
        parameters="config, out_dir = 1, 2",
    )
    assert execute.execute(house, "full", only="cub-triplet", dataset="cub", experiments=True) == []
    assert states(capfd.readouterr().out) == {"cub-triplet": "up"}

    (recipes / "cub-triplet.yml").write_text("dataset: cub\niterations: 8\n")
    (recipes / "cub-triplet-mdr.yml").unlink()
    assert execute.execute(house, "full", dataset="cub") == []  # the real run() would refuse this config
    assert states(capfd.readouterr().out) == {"cub-triplet": "done"}
    assert sorted(path.name for path in run.glob("begun-*")) == ["begun-0", "begun-1"]
    assert (house / "_build/runs/full/cub-triplet-mdr/result.json").exists()


def test_a_recipe_that_failed_is_tried_again_with_what_it_left(house, recipes, capfd):
    template = house / "book/experiments/train_on_photographs.ipynb"
    save(template, TEMPLATE, "raise OSError('an image is damaged')", parameters="config, out_dir = {}, ''")
    assert [failure.name for failure in execute.execute(house, "full", only="cub-triplet")] == ["cub-triplet"]
    (house / "mdrlib/__init__.py").write_text("mended = 1\n")
    save(template, TEMPLATE, parameters="config, out_dir = {}, ''")
    assert execute.execute(house, "full", only="cub-triplet") == []
    run = house / "_build/runs/full/cub-triplet"
    assert sorted(path.name for path in run.glob("begun-*")) == ["begun-0", "begun-1"]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({}, "sop is not in /sets: `python -m mdrlib data sop` gets it"),
        ({"dataset": "sop"}, "sop is not in /sets"),
        ({"only": "sop-triplet"}, "sop is not in /sets"),
        ({"dataset": "birds"}, r"no recipe for a data set 'birds'; there are recipes for \['cub', 'sop'\]"),
        (
            {"only": "cub"},
            r"no recipe named 'cub'; there are \['cub-triplet', 'cub-triplet-mdr', 'sop-triplet'\]",
        ),
        ({"only": "sop-triplet", "dataset": "cub"}, r"no recipe named 'sop-triplet'; there are \['cub-tr"),
    ],
)
def test_what_cannot_run_at_scale_full_is_said_before_anything_starts(house, recipes, capfd, chosen, words):
    with pytest.raises(ValueError, match=words):
        execute.execute(house, "full", **chosen)
    assert states(capfd.readouterr().out) == {} and not (house / "_build").exists()


def test_a_set_is_chosen_at_scale_full_alone(house):
    with pytest.raises(ValueError, match="at scale full alone, not at smoke: add SCALE=full"):
        execute.execute(house, "smoke", dataset="cub")


def change_parameters(house):
    path = house / "ci/experiments.yml"
    path.write_text(path.read_text().replace("iterations: 3", "iterations: 5"))


def change_tags(house):
    path = house / "book/experiments/train.ipynb"
    path.write_text(path.read_text().replace('"parameters"', '"parameters",\n "hide-input"'))


def change_outputs(house):
    path = house / "book/experiments/train.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].update(execution_count=7, outputs=[nbformat.v4.new_output("stream", text="left")])
    nbformat.write(notebook, path)


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        (lambda house: (house / "mdrlib/new.py").touch(), True),
        (lambda house: (house / "mdrlib/new.js").touch(), True),
        (lambda house: (house / "requirements.txt").write_text("numpy==2\n"), True),
        (lambda house: save(house / "book/experiments/train.ipynb", "1"), True),
        (change_parameters, True),
        (change_tags, True),
        (change_outputs, False),
        (lambda house: (house / "book/new.md").touch(), False),
    ],
)
def test_what_a_key_depends_on(house, change, matters):
    def key():
        job = plan.all_jobs(house, "smoke", {"omniglot": "1"})[0]
        return plan.key_of(job, plan.digest_of([*plan.library(house), house / "requirements.txt"], house))

    before = key()
    assert key() == before
    change(house)
    assert (key() != before) == matters


def test_a_chapter_depends_on_the_runs_the_sets_and_the_committed_results(house):
    def key(fingerprint="1"):
        return plan.key_of(plan.all_jobs(house, "smoke", {"omniglot": fingerprint})[-1], "")

    keys = [key(), key(None)]
    output = house / "_build/runs/smoke/a/run.ipynb"
    output.parent.mkdir(parents=True)
    output.touch()
    for text, time in (("1", 1), ("2", 1), ("2", 2)):
        plan.key_file(output).write_text(text)
        os.utime(output, ns=(time, time))
        keys.append(key())
    (house / "data/results").mkdir(parents=True)
    (house / "data/results/omniglot-quick.json").write_text("[]")
    keys.append(key())
    for path in (
        "data/results/peers.yml",
        "book/experiments/recipes/a.yml",
        "_build/runs/full/a/result.json",
    ):
        (house / path).parent.mkdir(parents=True, exist_ok=True)
        (house / path).write_text("{}")
        keys.append(key())
    assert len(set(keys)) == len(keys)


def test_refuses_names_it_does_not_know(house):
    with pytest.raises(ValueError, match=r"no scale 'huge'.*\['smoke'\] and full"):
        execute.execute(house, "huge")
    with pytest.raises(ValueError, match=r"no notebook named 'two'; there are \['a', 'm', 'one'\]"):
        execute.execute(house, "smoke", only="two")


def test_pages_are_read_in_order_at_any_depth(tmp_path):
    toc = tmp_path / "_toc.yml"
    toc.write_text(
        "format: jb-book\nroot: index.md\nparts:\n- caption: file\n  chapters:\n  - file: a\n"
        "    sections:\n    - file: deep/b.ipynb\n  - url: https://example.org\n- chapters:\n  - file: c\n"
    )
    assert plan.pages(toc) == ["index", "a", "deep/b", "c"]


@pytest.mark.parametrize(
    "outcome, status, words",
    [
        ([], 0, ""),
        (["a failure"], 1, ""),
        (ValueError("no scale 'huge'"), 1, "no scale 'huge'\n"),
        (RuntimeError("loading omniglot failed"), 1, "loading omniglot failed\n"),
        (KeyboardInterrupt(), 130, "The same call goes on from here."),
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
