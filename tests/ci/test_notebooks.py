"""The form of the chapters and templates, and what ci/experiments.yml says about them."""

from dataclasses import fields
from pathlib import Path

import nbformat
import pytest
import yaml

import plan

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = [
    path for path in sorted((ROOT / "book").glob("**/*.ipynb")) if ".ipynb_checkpoints" not in path.parts
]
SPEC = yaml.safe_load((ROOT / "ci/experiments.yml").read_text())
LINES_A_CELL = 30

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@each_notebook
def test_is_stored_without_outputs(path):
    for cell in code_cells(path):
        assert cell.outputs == [], f"clear the outputs of: {cell.source[:60]}"
        assert cell.execution_count is None, f"clear the execution count of: {cell.source[:60]}"
    assert "widgets" not in nbformat.read(path, as_version=4).metadata


@each_notebook
def test_is_valid_and_has_one_parameters_cell(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1


@each_notebook
def test_has_short_cells(path):
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= LINES_A_CELL, cell.source[:60]


def test_the_contents_name_pages_that_exist():
    pages = plan.pages(ROOT / "book/_toc.yml")
    assert len(pages) == len(set(pages)) > 1
    for page in pages:
        found = [(ROOT / "book" / f"{page}{suffix}").exists() for suffix in (".ipynb", ".md")]
        assert sum(found) == 1, page


def test_every_chapter_is_in_the_contents():
    chapters = {path.relative_to(ROOT / "book").with_suffix("").as_posix() for path in NOTEBOOKS}
    templates = {f"experiments/{run['template']}" for run in SPEC["runs"].values()}
    templates |= {f"experiments/{made['template']}" for made in SPEC["maps"].values()}
    templates |= {f"experiments/{job.source.stem}" for job in plan.all_jobs(ROOT, "full", {"cub": ""})}
    templates.add("experiments/ablation")  # of the matrix
    assert chapters == {page for page in plan.pages(ROOT / "book/_toc.yml") if page in chapters} | templates


@pytest.mark.parametrize("scale", SPEC["scales"])
def test_experiments_are_configs(scale):
    from mdrlib.experiment import Config

    known = {field.name for field in fields(Config)}
    optional = {run["needs"]: "" for run in SPEC["runs"].values() if "needs" in run}
    runs = [job for job in plan.all_jobs(ROOT, scale, optional) if "config" in job.parameters]
    assert len(runs) == len(SPEC["runs"])
    for job in runs:
        assert set(job.parameters["config"]) <= known, job.name
        Config(**job.parameters["config"])
        assert (job.cwd / job.parameters["out_dir"]).resolve() == job.folder
    for dataset in SPEC["scales"][scale]:
        assert dataset in {run["config"]["dataset"] for run in SPEC["runs"].values()}


def test_maps_are_of_runs():
    for name, made in SPEC["maps"].items():
        assert set(made["of"]) <= set(SPEC["runs"]), name


@each_notebook
def test_tables_are_read_as_myst(path):
    """Otherwise the page shows their bars and dashes."""
    for cell in code_cells(path):
        if any(line.startswith("table(") for line in cell.source.splitlines()):
            assert cell.metadata.get("mystnb", {}).get("markdown_format") == "myst", cell.source[-60:]
