"""What built pages would load from another host by themselves: read in HTML, SVG, stylesheets and scripts.

Links that a reader follows are left out. What a script composes is not seen here: ci/check_book.py watches
what a browser asks for.
"""

import base64
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

# How an address of another host begins, once browsers have dropped what they ignore in it.
ANOTHER = re.compile(r"(?:https?|wss?|ftp):|[/\\]{2}", re.IGNORECASE)
IGNORED = re.compile(r"^[\x00-\x20]+|[\t\r\n]")
LOADING = {
    "archive", "attributionsrc", "background", "codebase", "data", "href", "lowsrc", "manifest", "poster",
    "src", "xlink:href",
}  # fmt: skip
CANDIDATES = {"srcset", "imagesrcset"}
FOLLOWED = {"a", "area"}  # by a reader, whatever their href
ANIMATED = {"animate": ("from", "to", "by", "values"), "set": ("to",)}  # in SVG they may set an href
REFRESH = re.compile(r"[^;,]*[;,]\s*(?:url\s*=\s*)?[\"']?([^\"']*)", re.IGNORECASE)
SCRIPTS = {"", "module", "text/javascript", "application/javascript", "text/ecmascript", "text/babel"}
MAPS = {"importmap", "speculationrules"}  # JSON whose addresses are loaded
NOTHING = re.compile(r"/\*.*?\*/|@namespace[^;]*;", re.DOTALL | re.IGNORECASE)  # of what a stylesheet loads
ESCAPED = re.compile(r"\\([0-9a-f]{1,6})\s?", re.IGNORECASE)  # as \68 ttps: in a stylesheet
IN_STYLES = re.compile(
    r"""(?:\burl\(\s*["']?|\b(?:src|image)\(\s*["']|@import\s*["'])([^"')]+)""", re.IGNORECASE
)
IMAGE_SET = re.compile(r"image-set\(([^;}]*)", re.IGNORECASE)
QUOTED = re.compile(r"""["']([^"']*)["']""")
DOCUMENT = re.compile(r"\s*data:(text/html|image/svg\+xml|text/css)([^,]*),(.*)", re.DOTALL | re.IGNORECASE)
IN_SCRIPTS = re.compile(
    r"""(?:\b(?:import|importScripts|require|fetch|Worker|WebSocket|EventSource|sendBeacon|Request|Audio)\s*\(\s*\[?
    |\b(?:from|import)\s*|\.open\s*\(\s*["'][A-Za-z]+["']\s*,\s*|\.(?:src|srcset|poster|data|background)\s*=\s*
    |\bsetAttribute\(\s*["'](?:src|srcset|poster|data|xlink:href)["']\s*,\s*)["'`]([^"'`]+)""",
    re.VERBOSE,
)
IN_WRITTEN_TAGS = re.compile(
    r"""<(?!a\b|area\b)[a-z]\w*\s[^<>]{0,300}?\b(?:src|href|poster)=\\?["']?([^"'\\\s>]+)""", re.IGNORECASE
)


def foreign_addresses(html: Path) -> list[str]:
    """Return a line for each thing that the files below `html` would load from another host."""
    readers = {".html": in_markup, ".htm": in_markup, ".xhtml": in_markup, ".svg": in_markup}
    readers |= {".css": in_style, ".js": in_script, ".mjs": in_script}
    return [
        f"{path.relative_to(html)}: {found}"
        for path in sorted(html.rglob("*"))
        if path.suffix.lower() in readers and path.is_file()
        for found in readers[path.suffix.lower()](path.read_text("utf8", errors="replace"))
    ]


def is_foreign(address: str) -> bool:
    """Return whether a browser would ask another host for an address."""
    return ANOTHER.match(IGNORED.sub("", address)) is not None


def in_markup(text: str) -> list[str]:
    """List what HTML or SVG loads from another host: the tag and the address."""
    reader = Markup()
    reader.feed(text)
    reader.close()
    return reader.found


def in_style(text: str) -> list[str]:
    """List what a stylesheet, or an attribute `style`, loads from another host."""
    plain = ESCAPED.sub(lambda code: chr(min(int(code[1], 16), 0x10FFFF)), NOTHING.sub("", text))
    written = IN_STYLES.findall(plain)
    written += [address for inside in IMAGE_SET.findall(plain) for address in QUOTED.findall(inside)]
    return [found for address in dict.fromkeys(written) for found in loaded(address)]


def in_script(text: str) -> list[str]:
    """List the addresses of another host that a script asks for, as far as they are written in it."""
    written = [*IN_SCRIPTS.findall(text), *IN_WRITTEN_TAGS.findall(text)]
    return [address[:120] for address in written if is_foreign(address)] + in_style(text)


def loaded(address: str) -> Iterator[str]:
    """Yield an address if it is of another host; of a data: address what the document in it loads."""
    if is_foreign(address):
        yield address.strip()[:120]
    elif document := DOCUMENT.match(address):
        content = unquote_to_bytes(document[3])
        if document[2].lower().endswith("base64"):
            content = base64.b64decode(content + b"===")
        reader = in_style if document[1].lower() == "text/css" else in_markup
        yield from reader(content.decode("utf8", errors="replace"))


def candidates(srcset: str) -> Iterator[str]:
    """Yield the addresses of a srcset; each ends with a comma, or has a size up to one."""
    while srcset := srcset.lstrip(" \t\n\r\f,"):
        address, *rest = srcset.split(maxsplit=1)
        srcset = rest[0] if rest else ""
        if not address.endswith(","):
            _, _, srcset = srcset.partition(",")
        yield address.rstrip(",")


class Markup(HTMLParser):
    """Collects in `found` what tags, their styles and their scripts load from another host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.reader = None  # of the text that follows

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Look at the attributes of a tag."""
        has = {name: value or "" for name, value in attributes}
        for name, value in has.items():
            self.found += [f"<{tag} {name}> {found}" for found in of_attribute(tag, name, value, has)]
        kind = has.get("type", "").lower().strip()
        self.reader = None
        if tag == "style":
            self.reader = in_style
        elif tag == "script" and kind in (*SCRIPTS, *MAPS):
            self.reader = in_map if kind in MAPS else in_script

    def handle_data(self, data: str) -> None:
        """Look at a stylesheet or a script."""
        if self.reader:
            self.found += [f"<{self.lasttag}> {found}" for found in self.reader(data)]

    def handle_endtag(self, tag: str) -> None:
        """Leave a stylesheet or a script."""
        self.reader = None


def of_attribute(tag: str, name: str, value: str, others: dict[str, str]) -> Iterator[str]:
    """Yield what an attribute loads from another host; some mean something with others of the tag alone."""
    if tag == "link" and others.get("rel", "").lower() == "canonical":
        return  # the page's own address
    if name in LOADING and tag not in FOLLOWED or name in ANIMATED.get(tag, ()):
        for address in value.split(";") if tag in ANIMATED else [value]:
            yield from loaded(address)
    elif name in CANDIDATES:
        for address in candidates(value):
            yield from loaded(address)
    elif name == "srcdoc":
        yield from in_markup(value)
    elif name.startswith("on"):
        yield from in_script(value)
    elif tag == "meta" and name == "content" and others.get("http-equiv", "").lower() == "refresh":
        yield from loaded(REFRESH.sub(r"\1", value))
    elif name == "style" or "url(" in value.lower():
        yield from in_style(value)


def in_map(text: str) -> list[str]:
    """List the addresses of another host in an import map, or in rules of what to load ahead."""
    return [address for address in QUOTED.findall(text) if is_foreign(address)]
