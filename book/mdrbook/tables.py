"""Tables for the chapters, in Markdown."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from IPython.display import Markdown

CODE = re.compile(r"((?<![`\\])`[^`]+`(?!`))")


def as_text(value: Any) -> str:
    """Return a value as a cell: `code`, *emphasis*, $mathematics$ and roles are Markdown, the rest is text.

    Text from a stored result can therefore add no HTML, picture, link or column to a page.
    """
    parts = CODE.split(" ".join(str(value).splitlines()))
    for k in range(0, len(parts), 2):  # between code
        parts[k] = escape(parts[k], quote=False).replace("[", "&#91;")
    return "".join(parts).replace("|", "\\|")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], align: str = "lr") -> Markdown:
    """Return a table that a notebook shows.

    Args:
        head: Names of the C columns.
        rows: C cells each, written by `str`, then by `as_text`.
        align: "l" or "r" per column; the last letter applies to all further columns.

    Raises:
        ValueError: A row has more or fewer than C cells.
    """
    marks = {"l": ":--", "r": "--:"}
    align = (align + align[-1] * len(head))[: len(head)]
    lines = [list(head), [marks[side] for side in align], *map(list, rows)]
    for line in lines:
        if len(line) != len(head):
            raise ValueError(f"The table has {len(head)} columns and a row has {len(line)} cells: {line}.")
    return Markdown("\n".join(f"| {' | '.join(map(as_text, line))} |" for line in lines))
