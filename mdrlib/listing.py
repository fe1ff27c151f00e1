"""Source of the library, shown in the chapters as it is."""

from __future__ import annotations

import inspect
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.display import Markdown


def listing(thing: Any, first: str = "", last: str = "") -> Markdown:
    """The source of a function, class or module that a notebook shows: file, lines, and the lines themselves.

    Parameters: first, a text that is in the line to begin with; last, one that is in the line to end with,
    looked for from there on. Without them, from the beginning and to the end.
    Raises ValueError for a text that no line has, so that a page cannot show a piece that is there no more;
    TypeError for what has no source in Python; ImportError without IPython.
    """
    try:
        from IPython.display import Markdown
    except ImportError as error:
        raise ImportError("mdrlib.listing needs IPython: pip install mdrlib[notebooks]") from error
    lines, number = inspect.getsourcelines(thing)
    begin = _line_with(first, lines, 0, thing)
    end = _line_with(last, lines, begin, thing) if last else len(lines) - 1
    number = max(number, 1) + begin  # a module begins at 0
    # Behind a decorator such as no_grad the lines are the function's and the file would be the decorator's.
    parts = Path(inspect.getsourcefile(inspect.unwrap(thing))).parts
    name = "/".join(parts[-parts[::-1].index("mdrlib") - 1 :]) if "mdrlib" in parts else parts[-1]
    where = f"lines {number} to {number + end - begin}" if end > begin else f"line {number}"
    code = dedent("".join(lines[begin : end + 1])).rstrip()
    return Markdown(f"`{name}`, {where}\n\n```python\n{code}\n```")


def _line_with(text: str, lines: list[str], start: int, thing: Any) -> int:
    for number in range(start, len(lines)):
        if text in lines[number]:
            return number
    raise ValueError(
        f"no line of {getattr(thing, '__qualname__', thing)} from its line {start + 1} on has {text!r}; "
        "look at its source and choose a text that is there"
    )
