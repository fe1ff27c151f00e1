"""A Sphinx extension: docstrings are plain text, and autodoc would read them as reStructuredText.

Names in backticks and quoted words become literals, every other mark is escaped, and paragraphs stay. So a
docstring says |P|, x_ or d * d and needs no care, and none can make a warning, which fails the build.
"""

import re
from typing import Any

LITERAL = re.compile(r"""`([^`]+)`|("[^\s"`]+")""")
MARKS = re.compile(r"[\\*|_`:@]")  # @ would make an address of recall@1
# "margin: at least 0." A sentence of these docstrings that starts with a small letter is about a parameter.
NAMES = r"[a-z_]\w*(?:, [a-z_]\w*)*: "
NEW_PARAGRAPH = re.compile(rf"(?<=[.:]) (?=Parameters: |Returns |Raises )|(?<=\.) (?={NAMES})")
ARROWS = {
    " -> ": " \N{RIGHTWARDS ARROW} ",
    " <- ": " \N{LEFTWARDS ARROW} ",
}  # else a line may end in their middle


def to_rst(docstring: str) -> str:
    """A docstring as reStructuredText: one line a paragraph, nothing but text and literals in it.

    A parameter, what is returned and what is raised start a paragraph each. Indentation is dropped.
    """
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", docstring.strip())]
    parts = [part for paragraph in paragraphs for part in NEW_PARAGRAPH.split(paragraph)]
    return "\n\n".join(_paragraph(part) for part in parts)


def _paragraph(text: str) -> str:
    if names := re.match(NAMES, text):
        text = re.sub(r"\w+", r"`\g<0>`", names[0]) + text[names.end() :]
    for ascii_arrow, arrow in ARROWS.items():
        text = text.replace(ascii_arrow, arrow)
    pieces, end = [], 0
    for found in LITERAL.finditer(text):
        # An escaped space is nothing in the page, and lets a literal stand right beside a letter.
        pieces += [MARKS.sub(r"\\\g<0>", text[end : found.start()]), rf"\ ``{found[1] or found[2]}``\ "]
        end = found.end()
    line = "".join([*pieces, MARKS.sub(r"\\\g<0>", text[end:])])
    # Whatever it starts with, "- ", "1." or "(a)", it is no list.
    return line if line.startswith("\\") else f"\\{line}"


def _process(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    lines[:] = [*to_rst("\n".join(lines)).split("\n"), ""]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
