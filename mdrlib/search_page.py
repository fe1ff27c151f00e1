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

# Canvas and CanvasText are the browser's own colours, of light and of dark pages.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Search results</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ background: Canvas; color: CanvasText; font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; }}
section {{ display: flex; flex-wrap: wrap; gap: 1rem; margin-bottom: 2rem; }}
figure {{ margin: 0; width: {edge}px; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<main>
<h1>Search results</h1>
{sections}
</main>
</body>
</html>
"""


def write(path: str | Path, queries: Sequence[str | Path], results: Sequence[Sequence[Match]]) -> None:
    """Write the photographs of queries and of their matches to a page (.html) or a picture (.png).

    Raises:
        ValueError: The name of the file has another ending.
        OSError: A photograph cannot be read any more.
    """
    path = checked(path)
    rows = [
        [_cell(query, "query"), *(_cell(m.path, f"{m.rank}. distance {m.distance:.4f}", m) for m in matches)]
        for query, matches in zip(queries, results, strict=True)
    ]
    content = _page(rows) if path.suffix == ".html" else _picture(rows)
    write_atomically(path, lambda file: file.write(content))


def checked(path: str | Path) -> Path:
    """Return the path of a file .html or .png; ValueError for another one."""
    path = checks.path(path)
    if path.suffix not in (".html", ".png"):
        raise ValueError(f"results are written as .html or .png, got {path}")
    return path


def _cell(path: str | Path, title: str, match: Match | None = None) -> Cell:
    image = open_image(path)
    image.thumbnail((EDGE, EDGE))
    words = [title, match.class_name if match else None, os.path.basename(path)]
    # Bytes of a file's name that are not UTF-8 become replacement characters.
    return image, [os.fsencode(word).decode("utf8", "replace") for word in words if word]


def _page(rows: Sequence[Sequence[Cell]]) -> bytes:
    sections = []
    for row in rows:
        figures = []
        for image, words in row:
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=85)
            source = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
            caption = "<br>".join(map(escape, words))
            picture = f'<img src="{source}" alt="{escape(words[-1])}">'
            figures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
        sections.append(f"<section>{''.join(figures)}</section>")
    return PAGE.format(edge=EDGE, sections="\n".join(sections)).encode()


def _picture(rows: Sequence[Sequence[Cell]]) -> bytes:
    pillow, drawing = optional("PIL.Image", "data"), optional("PIL.ImageDraw", "data")
    sheet = pillow.new("RGB", (WIDE * max(map(len, rows)), HIGH * len(rows)), "white")
    for top, row in enumerate(rows):
        for left, (image, words) in enumerate(row):
            cell = pillow.new("RGB", (EDGE, HIGH), "white")  # where long words end
            cell.paste(image)
            drawing.Draw(cell).multiline_text((0, EDGE + 2), "\n".join(words), fill="black", spacing=2)
            sheet.paste(cell, (left * WIDE, top * HIGH))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()
