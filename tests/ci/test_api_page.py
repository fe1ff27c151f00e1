"""book/api.md names what is public, and ci/docstrings.py makes plain text of every docstring."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from docutils.core import publish_doctree

from docstrings import to_rst
from mdrlib import config
from mdrlib.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book/api.md").read_text()
SHOWN = re.findall(r"^\.\. auto(?:class|function|module):: (\S+)$", PAGE, re.MULTILINE)
FIXED = {  # names that other programs count on
    "mdrlib": "MDR mdr_loss pairwise_distances normalize_by_mean_distance",
    "mdrlib.miners": "all_triplets random_negatives hard_negatives semihard_negatives distance_weighted",
    "mdrlib.losses": "TripletLoss",
    "mdrlib.datasets": "load PKBatchSampler",
    "mdrlib.models": "build_embedder",
    "mdrlib.retrieval": "search evaluate",
    "mdrlib.experiment": "Config run",
}
KINDS = (ast.Module, ast.ClassDef, ast.FunctionDef)
DOCSTRINGS = {
    f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}": ast.get_docstring(node)
    for path in sorted((ROOT / "mdrlib").rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, KINDS) and ast.get_docstring(node)
}


def parsed(docstring):
    """The document that docutils makes of it; it raises SystemMessage for whatever it would remark on."""
    settings = {"halt_level": 1, "report_level": 5, "file_insertion_enabled": False}
    return publish_doctree(to_rst(docstring), settings_overrides=settings)


def words(text):
    arrows = text.replace(" -> ", " \N{RIGHTWARDS ARROW} ").replace(" <- ", " \N{LEFTWARDS ARROW} ")
    return arrows.replace("`", "").split()


def test_every_fixed_name_is_on_the_page():
    wanted = {f"{module}.{name}" for module, names in FIXED.items() for name in names.split()}
    assert wanted - set(SHOWN) == set()
    assert len(SHOWN) == len(set(SHOWN))
    assert "   :members: level_penalty, assign\n" in PAGE


@pytest.mark.parametrize("name", SHOWN)
def test_what_the_page_names_is_there_and_has_a_docstring(name):
    try:
        shown = importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, last = name.rpartition(".")
        shown = getattr(importlib.import_module(module), last)
    assert vars(shown)["__doc__"] if isinstance(shown, type) else shown.__doc__


def test_the_page_names_every_loss():
    assert set(config.LOSSES) - set(re.findall(r"``([a-z-]+)``", PAGE)) == set()


@pytest.mark.parametrize("command", ["run", "data", "results", "results compare"])
def test_the_page_names_every_option(command, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    lines = [line for line in PAGE.splitlines() if line.startswith(f"python -m mdrlib {command}")]
    assert options and options <= set(re.findall(r"--[a-z-]+", " ".join(lines)))


def test_every_docstring_is_text_and_literals():
    assert len(DOCSTRINGS) > 200
    for place, docstring in DOCSTRINGS.items():
        document = parsed(docstring)
        assert {type(node).__name__ for node in document.children} == {"paragraph"}, place
        inside = {type(node).__name__ for node in document.findall()} - {"document", "paragraph"}
        assert inside <= {"Text", "literal"}, f"{place}: {inside}"
        assert words(document.astext()) == words(docstring), place


@pytest.mark.parametrize(
    "docstring",
    [
        "- no list", "1. no list", "(a) no list", "-o  no option", "--out  no option", ">>> no prompt",
        "====", "| no | table |", ".. no:: directive",
        "|P| is no substitution and *d* no emphasis, **e** neither",
        "x_ and x__ and _x_ are no references", "recall@1 and map@r are no addresses", ":field: none",
        "A::", "back\\slash", "`a`b, 2`c`, (`d_`), `e*`: beside text", "a\n    b\nc", "d[i, j] [1]_ <x>",
    ],
)  # fmt: skip
def test_marks_are_text(docstring):
    document = parsed(docstring)
    assert {type(node).__name__ for node in document.findall()} <= {
        "document",
        "paragraph",
        "Text",
        "literal",
    }
    assert words(document.astext()) == words(docstring)


def test_names_and_quoted_words_are_literals_and_parameters_paragraphs():
    document = parsed(
        'Of `x_*`,\nsee "A Title".\n\nmargin: at least 0. a, b: "l2" or "none". Raises ValueError for\n|P|.'
    )
    assert [node.astext() for node in document.findall() if node.tagname == "literal"] == [
        "x_*", "margin", "a", "b", '"l2"', '"none"',
    ]  # fmt: skip
    assert [node.astext() for node in document.children] == [
        'Of x_*, see "A Title".', "margin: at least 0.", 'a, b: "l2" or "none".',
        "Raises ValueError for |P|.",
    ]  # fmt: skip
