"""Pictures that respond in a built page without a kernel: data and a script inside a cell's output.

Each kind of picture has a module and a script of its name: `levels`, `training`, `hover_map`.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from IPython.display import HTML

FOLDER = Path(__file__).parent


def live(kind: str, data: Any, still: str, label: str, caption: str = "", values: Sequence = ()) -> HTML:
    """Return a picture that shows `still` until the script of `kind` has built the live one.

    Args:
        kind: "levels", "training" or "hover_map".
        data: What JSON can hold, finite numbers only; each script's module describes it.
        still: HTML shown where scripts do not run, such as `style.image`.
        label: Read out for the whole picture.
        caption: Shown below it.
        values: Rows of a table below it, folded: the numbers in the picture. The first row is the head.
    """
    # "<" could end the element that holds the data; in JSON it occurs in strings alone
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    below = f"<p>{escape(caption)}</p>" if caption else ""
    if values:
        rows = "".join(f"<tr>{''.join(f'<td>{escape(str(v))}</td>' for v in row)}</tr>" for row in values[1:])
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in values[0])
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        below += f"<details><summary>The numbers</summary>{table}</details>"
    script = _source("live.js") + _source(f"{kind}.js")
    return HTML(
        f'<div class="mdr-live" data-kind="{kind}" role="group" aria-label="{escape(label)}">'
        f"<style>{_source('live.css')}</style>"
        f'<div class="live-still">{still}</div><div class="live-box" hidden></div>{below}'
        f'<script type="application/json">{text}</script></div>'
        f"<script>(function () {{\n'use strict';\n{script}}})();</script>"
    )


def _source(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf8")
