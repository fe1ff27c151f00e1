"""Pictures of search results: a page of HTML that needs no other file, or a PNG."""

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from mdrlib import checks
from mdrlib.checkpoint import write_atomically
from mdrlib.datasets.preprocessing import open_image, optional
from mdrlib.gallery import Match

EDGE = 160  # pixels of a thumbnail's longer side
LINE = 15  # pixels of a line of text in a PNG
COLUMNS = 10  # matches in a row of a PNG

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
h1 {{ font-size: 1.4rem; }}
h2 {{ font-size: 1.1rem; overflow-wrap: anywhere; }}
ol {{ display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; margin: 1rem 0 2rem; padding: 0; }}
figure {{ margin: 0; width: {edge}px; overflow-wrap: anywhere; }}
figure img {{ display: block; max-width: 100%; }}
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


def write(path: str | Path, queries: Sequence[str | PathLike], results: Sequence[Sequence[Match]]) -> None:
    """Write the photographs of queries and of their matches to a page (.html) or a picture (.png).

    Raises:
        ValueError: The name of the file has another ending.
        OSError: A photograph cannot be read any more.
    """
    path = kind(path)
    content = _html(queries, results).encode() if path.suffix == ".html" else _png(queries, results)
    write_atomically(path, lambda file: file.write(content))


def kind(path: str | Path) -> Path:
    """Return the path of a file .html or .png; ValueError for another one."""
    path = checks.path(path)
    if path.suffix not in (".html", ".png"):
        raise ValueError(f"results are written as .html or .png, got {path}")
    return path


def _html(queries: Sequence[str | PathLike], results: Sequence[Sequence[Match]]) -> str:
    sections = []
    for query, matches in zip(queries, results, strict=True):
        items = [f"<li>{_figure(match.path, _words(match))}</li>" for match in matches]
        shown = _figure(query, ["query"])
        sections.append(f"<section><h2>{_text(query)}</h2>{shown}<ol>{''.join(items)}</ol></section>")
    return PAGE.format(edge=EDGE, sections="\n".join(sections))


def _figure(path: str | PathLike, words: Sequence[str]) -> str:
    stream = io.BytesIO()
    _thumbnail(path).save(stream, "JPEG", quality=85)
    source = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
    caption = "<br>".join(map(_text, [*words, path]))
    name = _text(os.path.basename(path))
    return f'<figure><img src="{source}" alt="{name}"><figcaption>{caption}</figcaption></figure>'


def _words(match: Match) -> list[str]:
    """What stands below a match, apart from its path."""
    words = [f"{match.rank}. distance {match.distance:.4f}"]
    return words if match.class_name is None else [*words, match.class_name]


def _text(value: Any) -> str:
    """Escape for HTML; bytes of a file name that are not UTF-8 become replacement characters."""
    return escape(os.fsencode(value).decode("utf8", "replace"))


def _thumbnail(path: str | PathLike) -> Any:
    image = open_image(path)
    image.thumbnail((EDGE, EDGE))
    return image


def _png(queries: Sequence[str | PathLike], results: Sequence[Sequence[Match]]) -> bytes:
    pillow, drawing = optional("PIL.Image", "data"), optional("PIL.ImageDraw", "data")
    cells = []  # (column, row, path, words)
    row = 0
    for query, matches in zip(queries, results, strict=True):
        cells.append((0, row, query, ["query"]))
        for number, match in enumerate(matches):
            cells.append((1 + number % COLUMNS, row + number // COLUMNS, match.path, _words(match)))
        row = cells[-1][1] + 1
    wide, high = EDGE + 10, EDGE + 10 + 3 * LINE
    sheet = pillow.new("RGB", (wide * (1 + max(cell[0] for cell in cells)), high * row), "white")
    for column, line, path, words in cells:
        # Drawn apart, so that long names end at the border of their cell.
        cell = pillow.new("RGB", (EDGE, high), "white")
        cell.paste(_thumbnail(path), (0, 0))
        text = "\n".join([*words, os.path.basename(path)])
        drawing.Draw(cell).multiline_text((0, EDGE + 2), text, fill="black", spacing=2)
        sheet.paste(cell, (column * wide + 5, line * high + 5))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()
