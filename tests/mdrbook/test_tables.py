"""The tables of the chapters."""

import pytest

from mdrbook.tables import table


def test_a_table_as_markdown():
    assert table(("a", "b", "c"), [(1, 2.5, "x"), ("", None, "y z")]).data == (
        "| a | b | c |\n| :-- | --: | --: |\n| 1 | 2.5 | x |\n|  | None | y z |"
    )
    assert table("ab", iter(["cd"]), "l").data.splitlines() == ["| a | b |", "| :-- | :-- |", "| c | d |"]
    assert table("abcd", [], "lrl").data.splitlines()[1] == "| :-- | --: | :-- | :-- |"
    assert table("a", [], "rlllll").data == "| a |\n| --: |"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"The table has 2 columns and a row has 1 cells: \['x'\]"):
        table("ab", [("x", "y"), ("x",)])
