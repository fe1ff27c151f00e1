"""The tables of the chapters."""

import pytest
from bs4 import BeautifulSoup

from mdrbook.tables import table
from prose import PARSER


def test_a_table_as_markdown():
    assert table(("a", "b", "c"), [(1, 2.5, "x"), ("", None, "y z")]).data == (
        "| a | b | c |\n| :-- | --: | --: |\n| 1 | 2.5 | x |\n|  | None | y z |"
    )
    assert table("ab", iter(["cd"]), "l").data.splitlines() == ["| a | b |", "| :-- | :-- |", "| c | d |"]
    assert table("abcd", [], "lrl").data.splitlines()[1] == "| :-- | --: | :-- | :-- |"
    assert table("a", [], "rlllll").data == "| a |\n| --: |"


@pytest.mark.parametrize(
    "cell",
    [
        "<script>alert(1)</script>",
        "` <script>alert(1)</script> ``",
        "\\` <script>alert(1)</script> `",
        "`` <img src=x onerror=alert(1)> `",
        "[a](https://cdn.example) ![b](https://cdn.example/x.png) [c]: https://cdn.example",
        "<https://cdn.example>",
        "a | b",
        "a `|` b \\| c",
        "two\nlines\r\n\r\n# three",
        "&lt;b&gt; &amp;",
        "a<b and c>d",
    ],
)
def test_what_a_cell_holds_is_text_of_one_cell(cell):
    """By the parser of the pages: the text comes out as it went in, and nothing of it is markup."""
    page = BeautifulSoup(PARSER.render(table("ab", [(cell, "end")]).data), "html.parser")
    first, second = page.select("tbody td")
    assert second.text == "end"
    assert not first.select("script, img, a, h1, b")
    if "`" not in cell:
        assert first.text.split() == cell.split()


def test_code_emphasis_and_roles_stay_markdown():
    rows = [("`a|b <c>`", "*not run yet*, **not met**", "$\\lambda$ of {cite}`kim`", "[-3.0, 0.0]")]
    page = BeautifulSoup(PARSER.render(table("abcd", rows).data), "html.parser")
    first, second, third, fourth = page.select("tbody td")
    assert first.code.text == "a|b <c>" and second.em and second.strong and fourth.text == "[-3.0, 0.0]"
    assert "lambda" in third.text and "kim" in third.text


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"The table has 2 columns and a row has 1 cells: \['x'\]"):
        table("ab", [("x", "y"), ("x",)])
