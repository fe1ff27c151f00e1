"""Pictures of search results: a page of HTML that needs no other file, or a PNG."""

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from mdrlib import checks
from mdrlib.checkpoint import write_atomically
from mdrlib.datasets.preprocessing import open_image, optional
from mdrlib.gallery import Match

EDGE = 160  # pixels of a thumbnail's longer side
WIDE, HIGH = EDGE + 10, EDGE + 60  # pixels of a cell in a PNG
Cell = tuple[Any, list[str]]  # a thumbnail and the lines below it

PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Search results</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }}
section {{ display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem; }}
figure {{ margin: 0; width: {EDGE}px; overflow-wrap: anywhere; }}
</style>
<h1>Search results</h1>
"""


def write(path: str | Path, queries: Sequence[str | Path], results: Sequence[Sequence[Match]]) -> None:
    """Write the photographs of queries and of their matches to a page (.html) or a picture (.png)."""
    path = checked(path)
    rows = []
    for query, matches in zip(queries, results, strict=True):
        cells = [_cell(query, "query")]
        for match in matches:
            cells.append(_cell(match.path, f"{match.rank}. distance {match.distance:.4f}", match.class_name))
        rows.append(cells)
    content = _page(rows) if path.suffix == ".html" else _picture(rows)
    write_atomically(path, lambda file: file.write(content))


def checked(path: str | Path) -> Path:
    """Return the path if it ends in .html or .png, else raise ValueError."""
    path = checks.path(path)
    if path.suffix not in (".html", ".png"):
        raise ValueError(f"the path of a page must end in .html or .png, got {path}")
    return path


def _cell(path: str | Path, title: str, class_name: str | None = None) -> Cell:
    image = open_image(checks.path(path))
    image.thumbnail((EDGE, EDGE))
    words = [title, class_name, os.path.basename(path)]
    # Bytes of a file's name that are not UTF-8 become replacement characters.
    return image, [os.fsencode(word).decode("utf8", "replace") for word in words if word]


def _page(rows: Sequence[Sequence[Cell]]) -> bytes:
    lines = [PAGE]
    for row in rows:
        lines.append("<section>")
        for image, words in row:
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=85)
            source = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
            caption = "<br>".join(map(escape, words))
            picture = f'<img src="{source}" alt="{escape(words[-1])}">'
            lines.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
        lines.append("</section>")
    return "\n".join(lines).encode()


def _picture(rows: Sequence[Sequence[Cell]]) -> bytes:
    sheet = optional("PIL.Image", "data").new("RGB", (WIDE * max(map(len, rows)), HIGH * len(rows)), "white")
    draw = optional("PIL.ImageDraw", "data").Draw(sheet)
    for top, row in enumerate(rows):
        for left, (image, words) in enumerate(row):
            sheet.paste(image, (left * WIDE, top * HIGH))
            text = "\n".join(word[:26] for word in words)  # what fits
            draw.multiline_text((left * WIDE, top * HIGH + EDGE + 2), text, fill="black", spacing=2)
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()
