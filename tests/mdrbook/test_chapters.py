"""The chapters take from mdrbook what it has; run templates need mdrlib alone."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def code_of(path):
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_name_that_a_chapter_uses_is_there(path):
    nodes = list(ast.walk(ast.parse(code_of(path))))
    modules = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "mdrbook":
            for alias in node.names:
                found = importlib.import_module(node.module)
                if node.module == "mdrbook":
                    modules[alias.name] = importlib.import_module(f"mdrbook.{alias.name}")
                else:
                    assert hasattr(found, alias.name), f"{node.module} has no {alias.name}"
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id} has no {node.attr}"
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assert node.id not in modules, f"{node.id} is a module of mdrbook: choose another name"


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_line_of_text_is_taken_for_a_comment(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"^\s*%.*", cell.source, re.M), "MyST leaves out a line that begins with %"


def reads_runs(path):
    """Whether a notebook reads files of the folder, or of the folders, that its parameter `runs` names."""
    return re.search(r"\{runs\}|Path\(runs\) /|Path, runs", code_of(path)) is not None


# The cells one after the other, to the first error, of which the last line is printed.
OPENED = """
import json, sys
import matplotlib
matplotlib.use("agg")
space = {"__name__": "__main__"}
for number, source in enumerate(json.load(sys.stdin)):
    try:
        exec(compile(source, f"cell {number}", "exec"), space)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if number == 0:
        space["scale"] = "smoke"
"""
READING = [path for path in sorted((ROOT / "book").glob("**/*.ipynb")) if reads_runs(path)]


@pytest.mark.slow
@pytest.mark.parametrize("path", READING, ids=lambda path: path.stem)
def test_opened_before_anything_was_made_it_says_what_to_call(path, tmp_path):
    """In a clone without _build. One chapter has results that are stored with the book."""
    for folder in ("book/experiments/recipes", "data/results"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    sources = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "book")])}
    words = {
        "cwd": tmp_path / path.parent.relative_to(ROOT),
        "env": env,
        "text": True,
        "capture_output": True,
    }
    done = subprocess.run([sys.executable, "-c", OPENED], input=json.dumps(sources), **words)
    if path.stem == "your_own_photographs":  # it does without
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode and "`make experiments`" in done.stderr.splitlines()[-1], done.stderr


@pytest.mark.parametrize(
    "path", sorted((ROOT / "book/experiments").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_run_template_needs_mdrlib_alone(path):
    assert "mdrbook" not in code_of(path) and "matplotlib" not in code_of(path)


SNIPPETS = [ROOT / "README.md", *ROOT.glob("book/*.md"), *ROOT.glob("book/*.ipynb")]
SNIPPETS += ROOT.glob("book/integrations/*.py")


def test_the_weights_of_mdr_in_snippets_are_in_the_range_of_the_cheat_sheet():
    """The range of the authors' recipes, without L2 normalization."""
    recipes = [yaml.safe_load(p.read_text()) for p in ROOT.glob("book/experiments/recipes/*-triplet-mdr.yml")]
    range_of = sorted(recipe["mdr_weight"] for recipe in recipes)
    found = {
        (path.name, float(weight))
        for path in SNIPPETS
        if path.stem != "without_l2"  # it compares weights on the sphere
        for weight in re.findall(r"([0-9.]+) \* (?:self\.)?mdr\(", path.read_text(encoding="utf8"))
    }
    assert len(found) > 4
    assert not [(name, w) for name, w in found if not range_of[0] <= w <= range_of[-1]]
