"""Source code of the library, shown unchanged in the chapters."""

import inspect
from pathlib import Path
from textwrap import dedent
from typing import Any

from IPython.display import Markdown


def listing(thing: Any, first: str = "", last: str = "") -> Markdown:
    """Return the source of a function, class or module: its file, its line numbers and the lines.

    Args:
        first: Text in the first line to show; without it, the beginning.
        last: Text in the last line to show, searched from the first on; without it, the end.

    Raises:
        ValueError: No line contains the text. So a page cannot show code that has changed.
    """
    lines, number = inspect.getsourcelines(thing)
    begin = _line_with(first, lines, 0, thing)
    end = _line_with(last, lines, begin, thing) if last else len(lines) - 1
    number = max(number, 1) + begin  # a module begins at 0
    # With a decorator such as no_grad the lines are the function's and the file would be the decorator's.
    parts = Path(inspect.getsourcefile(inspect.unwrap(thing))).parts
    name = "/".join(parts[-parts[::-1].index("mdrlib") - 1 :]) if "mdrlib" in parts else parts[-1]
    where = f"lines {number} to {number + end - begin}" if end > begin else f"line {number}"
    code = dedent("".join(lines[begin : end + 1])).rstrip()
    return Markdown(f"`{name}`, {where}\n\n```python\n{code}\n```")


def _line_with(text: str, lines: list[str], start: int, thing: Any) -> int:
    for number in range(start, len(lines)):
        if text in lines[number]:
            return number
    name = getattr(thing, "__qualname__", thing)
    raise ValueError(
        f"No line of {name} from line {start + 1} on contains {text!r}: choose text that it has."
    )
