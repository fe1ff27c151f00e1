"""The prose of the book: the text of its pages without code, mathematics and glued results."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

# Directives whose content is prose; that of others is code or mathematics.
SPOKEN = (
    "{admonition}", "{attention}", "{caution}", "{danger}", "{dropdown}", "{figure}", "{glossary}", "{hint}",
    "{important}", "{margin}", "{note}", "{seealso}", "{sidebar}", "{tip}", "{warning}",
)  # fmt: skip

EXTENSIONS = {"amsmath", "colon_fence", "deflist", "dollarmath"}  # of _config.yml
PARSER = create_md_parser(MdParserConfig(enable_extensions=EXTENSIONS), RendererHTML)


class Passage(str):
    """A paragraph, heading or table cell, with the lines that it has on the page."""

    cell = ""  # of a notebook, such as "cell 3"; its lines are counted from 1
    line = 1  # where the passage begins

    def place(self, index: int) -> str:
        """Return where the character of this index is, such as "cell 3, line 7"."""
        return f"{self.cell}{', ' if self.cell else ''}line {self.line + self.count(chr(10), 0, index)}"


def prose(path: Path) -> Iterator[Passage]:
    """Yield the prose of a page.

    Of a notebook (.ipynb) that is its Markdown, and the captions and alt texts of its figures. A blank stands
    for code, mathematics, addresses, comments, and roles without words of their own (glue, cite).
    """
    for cell, text in cells_of(path):
        for passage in spoken(text):
            passage.cell = cell
            yield passage


def cells_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the Markdown of a page, with the cell of a notebook or of its caption or alt text."""
    if path.suffix != ".ipynb":
        yield "", path.read_text(encoding="utf8")
        return
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells, start=1):
        if cell.cell_type == "markdown":
            yield f"cell {number}", cell.source
        about = cell.metadata.get("mystnb", {})
        for kind, words in (("figure", "caption"), ("image", "alt")):
            if text := about.get(kind, {}).get(words):
                yield f"{words} of cell {number}", text


def spoken(text: str, above: int = 0) -> Iterator[Passage]:
    """Yield the prose of MyST Markdown that has `above` lines over it."""
    for token in PARSER.parse(text):
        line = above + (token.map or (0,))[0] + 1
        if token.type == "inline":
            said_here = "".join(said(child) for child in token.children or [])
            passage = Passage(said_here.strip())
            passage.line = line
            yield passage
        elif token.type in ("fence", "colon_fence") and token.info.startswith(SPOKEN):
            kind, _, title = token.info.partition("}")
            if kind != "{figure":  # that has the name of a file there
                yield from spoken(title, line - 1)
            lines = token.content.splitlines()
            for number, option in enumerate(lines):
                if option.startswith(":alt:"):
                    yield from spoken(option.removeprefix(":alt:"), line + number)
            yield from spoken("\n".join("" if option.startswith(":") else option for option in lines), line)


def said(token: Token) -> str:
    """Return what is read of one inline token; a picture is read as its alt text."""
    if token.type in ("text", "text_special"):
        return "" if token.content.startswith(("http://", "https://")) else token.content
    if token.type == "myst_role" and token.meta["name"] in ("term", "doc"):
        text, _, target = token.content.partition(" <")
        return text if target or token.meta["name"] == "term" else " "
    if token.type == "image":
        return "".join(said(child) for child in token.children or [])
    if token.type in ("softbreak", "hardbreak"):
        return "\n"
    if token.type in ("code_inline", "math_inline", "myst_role", "html_inline"):
        return " "
    return ""


def readable(root: Path) -> list[Path]:
    """Return the pages whose prose is checked: those of the book in English, and the README files."""
    pages = sorted([*(root / "book").glob("*.md"), *(root / "book").glob("*.ipynb")])
    return [page for page in pages if page.name != "ja.md"] + [
        root / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")
    ]
