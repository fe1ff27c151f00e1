"""The tables of the chapters."""

import sys

import pytest

from mdrlib.tables import table


def test_a_table_as_markdown():
    pytest.importorskip("IPython")
    assert table(("a", "b", "c"), [(1, 2.5, "x"), ("", None, "y z")]).data == (
        "| a | b | c |\n| :-- | --: | --: |\n| 1 | 2.5 | x |\n|  | None | y z |"
    )
    assert table("ab", iter(["cd"]), "l").data.splitlines() == ["| a | b |", "| :-- | :-- |", "| c | d |"]
    assert table("abcd", [], "lrl").data.splitlines()[1] == "| :-- | --: | :-- | :-- |"
    assert table("a", [], "rlllll").data == "| a |\n| --: |"


@pytest.mark.parametrize(
    "rows, align, message",
    [([], "lc", "align must be letters l and r, got 'lc'"), ([], "", "align must be letters"),
     ([("x", "y"), ("x",)], "l", r"the table has 2 columns, and a row has 1: \['x'\]")],
)  # fmt: skip
def test_a_bad_table_is_refused(rows, align, message):
    pytest.importorskip("IPython")
    with pytest.raises(ValueError, match=message):
        table("ab", rows, align)


def test_without_ipython_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ImportError, match=r"needs IPython: pip install mdrlib\[notebooks\]"):
        table("ab", [])
