"""Tables of the chapters, in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from IPython.display import Markdown


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], align: str = "lr") -> Markdown:
    """Return a table that a notebook shows.

    Args:
        head: Names of the C columns.
        rows: C cells each, written by `str`.
        align: "l" or "r" per column; the last letter holds for the columns that follow.

    Raises:
        ValueError: A row has more or fewer than C cells.
    """
    marks = {"l": ":--", "r": "--:"}
    align = (align + align[-1] * len(head))[: len(head)]
    lines = [list(head), [marks[side] for side in align], *map(list, rows)]
    for line in lines:
        if len(line) != len(head):
            raise ValueError(f"The table has {len(head)} columns and a row has {len(line)} cells: {line}.")
    return Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))
