"""Tables of the chapters, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.display import Markdown


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], align: str = "lr") -> Markdown:
    """A table that a notebook shows.

    Parameters: head, the names of the columns; rows, as many cells each, shown as `str` writes them; align,
    "l" or "r" for each column, the last one going on for those that follow.
    Raises ValueError for another letter or a row of another length, ImportError without IPython.
    """
    try:
        from IPython.display import Markdown
    except ImportError as error:
        raise ImportError("mdrlib.tables needs IPython: pip install mdrlib[notebooks]") from error
    marks = {"l": ":--", "r": "--:"}
    if not align or not set(align) <= set(marks):
        raise ValueError(f"align must be letters l and r, got {align!r}")
    align = (align + align[-1] * len(head))[: len(head)]
    lines = [list(head), [marks[side] for side in align], *map(list, rows)]
    for line in lines:
        if len(line) != len(head):
            raise ValueError(f"the table has {len(head)} columns, and a row has {len(line)}: {line}")
    return Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))
