"""Pictures that answer in a built page, without a kernel: data and a script of our own within the HTML.

A kind of picture has a module and a script of its name: `live_levels`, `live_training`, `hover_map`.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def live(kind: str, data: Any, still: str, label: str, caption: str = "") -> Any:
    """An IPython HTML object: `still` until the script of `kind`, mdrlib/<kind>.js, has built a live picture.

    data: what JSON can hold, finite numbers only; still: HTML shown where scripts do not run, such as
    `player.image`; label: read out for the whole; caption: below it. It asks no host for anything.
    Raises ValueError for NaN or infinity in data.
    """
    try:
        from IPython.display import HTML
    except ImportError as error:
        raise ImportError("live pictures need IPython: pip install mdrlib[notebooks]") from error
    # "<" could end the element that holds the data; in JSON it stands in strings alone
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    below = f"<p>{escape(caption)}</p>" if caption else ""
    return HTML(
        f'<div class="mdr-live" data-kind="{kind}" role="group" aria-label="{escape(label)}">'
        f"<style>{(FOLDER / 'live.css').read_text(encoding='utf8')}</style>"
        f'<div class="live-still">{still}</div><div class="live-box" hidden></div>{below}'
        f'<script type="application/json">{text}</script></div>'
        f"<script>(function () {{\n'use strict';\n{_script('live')}\n{_script(kind)}\n}})();</script>"
    )


def _script(name: str) -> str:
    return (FOLDER / f"{name}.js").read_text(encoding="utf8")
