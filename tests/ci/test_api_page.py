"""book/api.md names what is public, and every public docstring is one that napoleon parses."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from docutils.utils import SystemMessage
from sphinx.ext.napoleon import Config, GoogleDocstring

from mdrlib import config
from mdrlib.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book/api.md").read_text()
SHOWN = re.findall(r"^\.\. auto(?:class|function|module):: (\S+)$", PAGE, re.MULTILINE)
FIXED = {  # names that other programs count on
    "mdrlib": "Embedder Gallery MDR mdr_loss pairwise_distances normalize_by_mean_distance",
    "mdrlib.miners": "all_triplets random_negatives hard_negatives semihard_negatives distance_weighted",
    "mdrlib.losses": "TripletLoss MDRRegularizer",
    "mdrlib.datasets": "load PKBatchSampler",
    "mdrlib.models": "build_embedder",
    "mdrlib.retrieval": "search evaluate",
    "mdrlib.experiment": "Config run",
}
OLD_STYLE = re.compile(r"^Parameters: |(?:^|[.;] )Raises \w+Error|^Returns \S.*\. Raises ", re.MULTILINE)


def public(node, inside=""):
    """The docstrings of a module's public classes and functions, by name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            name = f"{inside}{child.name}"
            yield name, ast.get_docstring(child)
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{name}.")


def docstrings(folder):
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for name, text in [("", ast.get_docstring(tree)), *public(tree)]:
            if text:
                found[f"{path.relative_to(ROOT)}: {name}"] = text
    return found


def parsed(docstring):
    """The document that docutils makes of it, as the page does; SystemMessage for what it refuses."""
    text = str(GoogleDocstring(docstring, Config(napoleon_use_ivar=True, napoleon_use_rtype=False)))
    settings = {"halt_level": 2, "report_level": 5, "file_insertion_enabled": False}
    return publish_doctree(f".. default-role:: code\n\n{text}", settings_overrides=settings)


def fault(docstring):
    """What is wrong with a docstring, or nothing."""
    if OLD_STYLE.search(docstring):
        return "sections are Args:, Returns: and Raises: with indented lines"
    try:
        document = parsed(docstring)
    except SystemMessage as error:
        return str(error)
    links = document.findall(nodes.reference)  # recall@10 looks like a mail address
    addresses = [link.astext() for link in links if link.get("refuri", "").startswith("mailto:")]
    return f"put {addresses} in backticks" if addresses else ""


def test_every_fixed_name_is_on_the_page():
    wanted = {f"{module}.{name}" for module, names in FIXED.items() for name in names.split()}
    assert wanted - set(SHOWN) == set()
    assert len(SHOWN) == len(set(SHOWN))
    assert "   :members: forward, level_penalty, assign\n" in PAGE


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


@pytest.mark.parametrize("command", ["run", "data", "results", "search", "embed", "export"])
def test_the_page_names_every_option(command, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    lines = re.findall(rf"^(?:python -m )?mdrlib {command}\b.*", PAGE, re.MULTILINE)
    assert options and options <= set(re.findall(r"--[a-z-]+", " ".join(lines)))


@pytest.mark.parametrize("folder", ["mdrlib", "book/mdrbook"])
def test_every_public_docstring_parses(folder):
    faults = {place: fault(text) for place, text in docstrings(folder).items()}
    assert len(faults) > 20 and {place: said for place, said in faults.items() if said} == {}


def test_sections_and_names_are_what_a_page_shows():
    document = parsed(
        "Return the `name_*` of x.\n\n"
        "Args:\n    x: (N, D), `a` or *b*.\n        More of it.\n    y (M,): Labels.\n\n"
        "Returns:\n    Loss, scalar.\n\nRaises:\n    ValueError: x is empty.\n"
    )
    assert [node.astext() for node in document.findall() if node.tagname == "literal"] == ["name_*", "a"]
    fields = [node.astext() for node in document.findall() if node.tagname == "field_name"]
    assert fields == ["param x", "param y", "type y", "returns", "raises ValueError"]


@pytest.mark.parametrize(
    "docstring",
    [
        "The mean over |P| pairs.",
        "Return `x.",
        "Ends in x_.",
        "Return **x.",
        "Parameters: x (N, D), embeddings.",
        "Do it. Raises ValueError for a bad name.",
        "Recall@1 to recall@10.",
    ],
)
def test_what_would_not_be_shown_as_it_is_written_is_found(docstring):
    assert fault(docstring)
