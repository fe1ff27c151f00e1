"""The chapters take from mdrbook what it has; run templates need mdrlib alone."""

import ast
import importlib
from pathlib import Path

import nbformat
import pytest

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


@pytest.mark.parametrize(
    "path", sorted((ROOT / "book/experiments").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_run_template_needs_mdrlib_alone(path):
    assert "mdrbook" not in code_of(path) and "matplotlib" not in code_of(path)
