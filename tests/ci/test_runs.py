"""ci/runs.py: what a run or a chapter depends on, so when it is up to date."""

import os
from pathlib import Path

import nbformat
import pytest

import runs
from tests.ci.houses import HERE, save

ROOT = Path(__file__).resolve().parents[2]


def key(house, name):
    return next(runs.key_of(job) for job in runs.jobs(house, "smoke", HERE) if job.name == name)


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
        (lambda house: (house / "requirements.txt").write_text("numpy==2\n"), True),
        (lambda house: save(house / "book/experiments/train.ipynb", "1"), True),
        (change_parameters, True),
        (change_tags, True),
        (change_outputs, False),
        (lambda house: (house / "book/new.md").touch(), False),
        (lambda house: (house / "book/mdrbook/style.css").write_text("color: red"), False),
    ],
)
def test_what_the_key_of_a_run_depends_on(house, change, matters):
    before = key(house, "a")
    assert key(house, "a") == before
    change(house)
    assert (key(house, "a") != before) == matters


def test_a_changed_colour_makes_the_chapters_that_draw_again_and_retrains_nothing(house):
    save(house / "book/one.ipynb", "from mdrbook import plots")
    before = {job.name: runs.key_of(job) for job in runs.jobs(house, "smoke", HERE)}
    (house / "book/mdrbook/style.css").write_text("color: red")
    after = {job.name: runs.key_of(job) for job in runs.jobs(house, "smoke", HERE)}
    assert [name for name in before if before[name] != after[name]] == ["one"]


def test_templates_that_train_draw_nothing():
    """What they draw would be in their keys; and the workers of a cluster have mdrlib alone."""
    jobs = runs.jobs(ROOT, "smoke", HERE)
    sources = {job.source for job in jobs if job.config} | {ROOT / "book/experiments/ablation.ipynb"}
    for source in sources:
        assert "mdrbook" not in source.read_text() and "matplotlib" not in source.read_text()


def test_a_chapter_depends_on_the_runs_it_reads_the_sets_and_the_committed_results(house):
    keys = [key(house, "one"), runs.key_of(runs.jobs(house, "smoke", {})[-1])]
    output = house / "_build/runs/smoke/a/run.ipynb"
    output.parent.mkdir(parents=True)
    output.touch()
    for text, time in (("1", 1), ("2", 1), ("2", 2)):
        output.with_name("run.ipynb.key").write_text(text)
        os.utime(output, ns=(time, time))
        keys.append(key(house, "one"))
    for path in (
        "data/results/omniglot-quick.json",
        "data/results/peers.yml",
        "book/experiments/recipes/a.yml",
        "_build/runs/full/a/result.json",
    ):
        (house / path).parent.mkdir(parents=True, exist_ok=True)
        (house / path).write_text("{}")
        keys.append(key(house, "one"))
    assert len(set(keys)) == len(keys)

    save(house / "book/one.ipynb", "1", parameters="runs = ''")
    job = runs.jobs(house, "smoke", HERE)[-1]
    assert job.name == "one" and job.inputs == (), "it reads no run, and need not wait for any"


def test_pages_are_read_in_order_at_any_depth(tmp_path):
    toc = tmp_path / "_toc.yml"
    toc.write_text(
        "format: jb-book\nroot: index.md\nparts:\n- caption: file\n  chapters:\n  - file: a\n"
        "    sections:\n    - file: deep/b.ipynb\n  - url: https://example.org\n- chapters:\n  - file: c\n"
    )
    assert runs.pages(toc) == ["index", "a", "deep/b", "c"]
