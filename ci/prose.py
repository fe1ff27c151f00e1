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


def prose(path: Path) -> Iterator[str]:
    """Yield the prose of a page, one paragraph, heading or table cell at a time.

    Of a notebook (.ipynb) that is its Markdown, and the captions and alt texts of its figures. A blank stands
    for code, mathematics, addresses, comments, and roles without words of their own (glue, cite).
    """
    if path.suffix != ".ipynb":
        yield from spoken(path.read_text(encoding="utf8"))
        return
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            yield from spoken(cell.source)
        about = cell.metadata.get("mystnb", {})
        for text in (about.get("figure", {}).get("caption"), about.get("image", {}).get("alt")):
            if text:
                yield from spoken(text)


def spoken(text: str) -> Iterator[str]:
    """Yield the prose of MyST Markdown, as `prose` does."""
    for token in PARSER.parse(text):
        if token.type == "inline":
            yield "".join(said(child) for child in token.children or []).strip()
        elif token.type in ("fence", "colon_fence") and token.info.startswith(SPOKEN):
            kind, _, title = token.info.partition("}")
            if kind != "{figure":  # that has the name of a file there
                yield from spoken(title)
            lines = token.content.splitlines()
            for line in lines:
                if line.startswith(":alt:"):
                    yield from spoken(line.removeprefix(":alt:"))
            yield from spoken("\n".join(line for line in lines if not line.startswith(":")))


def said(token: Token) -> str:
    """Return what is read of one inline token; a picture is read as its alt text."""
    if token.type in ("text", "text_special"):
        return "" if token.content.startswith(("http://", "https://")) else token.content
    if token.type == "myst_role" and token.meta["name"] in ("term", "doc"):
        text, _, target = token.content.partition(" <")
        return text if target or token.meta["name"] == "term" else " "
    if token.type == "image":
        return "".join(said(child) for child in token.children or [])
    if token.type in ("code_inline", "math_inline", "myst_role", "softbreak", "hardbreak", "html_inline"):
        return " "
    return ""


def readable(root: Path) -> list[Path]:
    """Return the pages whose prose is checked: those of the book in English, and the README files."""
    pages = sorted([*(root / "book").glob("*.md"), *(root / "book").glob("*.ipynb")])
    return [page for page in pages if page.name != "ja.md"] + [
        root / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")
    ]
