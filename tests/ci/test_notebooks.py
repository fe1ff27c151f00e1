"""The form of the chapters and templates, and what ci/experiments.yml says about them."""

from pathlib import Path

import nbformat
import pytest

import runs

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = [
    path for path in sorted((ROOT / "book").glob("**/*.ipynb")) if ".ipynb_checkpoints" not in path.parts
]
LINES_A_CELL = 30

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_is_valid_stored_without_outputs_and_has_short_cells_one_of_them_parameters(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    for cell in cells:
        about = cell.source[:60]
        assert cell.outputs == [] and cell.execution_count is None, f"clear the outputs of: {about}"
        assert len(cell.source.splitlines()) <= LINES_A_CELL, about
        if any(line.startswith("table(") for line in cell.source.splitlines()):
            # Otherwise the page shows the bars and dashes of the table.
            assert cell.metadata.get("mystnb", {}).get("markdown_format") == "myst", about


def test_the_contents_name_pages_that_exist():
    pages = runs.pages(ROOT / "book/_toc.yml")
    assert len(pages) == len(set(pages)) > 1
    for page in pages:
        found = [(ROOT / "book" / f"{page}{suffix}").exists() for suffix in (".ipynb", ".md")]
        assert sum(found) == 1, page


def test_every_notebook_is_a_chapter_in_the_contents_or_a_template_in_use():
    data = {name: {} for name in ("omniglot", "cub", "cars", "sop", "inshop")}
    used = {job.source for scale in ("quick", "full") for job in runs.jobs(ROOT, scale, data)}
    assert set(NOTEBOOKS) == used | {ROOT / "book/experiments/ablation.ipynb"}
