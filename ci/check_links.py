"""Follow the links of the built pages: within the book to a file and a place in it, outside by their form.

`ci/check_book.py` calls it; with `--external` it asks the other hosts, which needs a network and is no part
of CI.
"""

import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

SECONDS = 20.0  # to wait for an answer
# Hosts refuse what does not look like a reader.
HEADERS = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) check_links", "Accept": "*/*"}


class _Links(HTMLParser):
    """Collects where a page leads and the places in it that a link can name."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        has = dict(attributes)
        self.places |= {value for value in (has.get("id"), tag == "a" and has.get("name")) if value}
        target = has.get({"a": "href", "area": "href", "form": "action"}.get(tag, ""))
        if target is not None:
            self.links.append(target)


def book_pages(html: Path) -> list[str]:
    """The pages below `html` by name, without those that belong to the theme.

    Raises FileNotFoundError when there are none.
    """
    names = [path.relative_to(html).as_posix() for path in sorted(html.rglob("*.html"))]
    names = [name for name in names if not name.startswith(("_static/", "_sources/"))]
    if not names:
        raise FileNotFoundError(f"no pages in {html}: call `make book` first")
    return names


def read_links(html: Path) -> dict[str, _Links]:
    """The links and places of each page, by name."""
    found = {}
    for name in book_pages(html):
        found[name] = _Links()
        found[name].feed((html / name).read_text(encoding="utf8"))
    return found


def internal_faults(html: Path) -> dict[str, list[str]]:
    """Of each page the links that lead nowhere: no such file, no such place, or an address without form."""
    pages = read_links(html)
    return {
        name: [f for link in dict.fromkeys(page.links) if (f := _fault(html, pages, name, link))]
        for name, page in pages.items()
    }


def _fault(html: Path, pages: dict[str, _Links], name: str, link: str) -> str:
    try:
        parts = urlsplit(link)
    except ValueError as error:
        return f"link of no form, {error}: {link}"
    if parts.scheme in ("http", "https"):
        wrong = "." not in parts.netloc.strip(".") or any(sign in link for sign in ' <>"{}\\')
        return f"link of no form: {link}" if wrong else ""
    if parts.scheme or parts.netloc:
        return "" if parts.scheme == "mailto" and "@" in parts.path else f"link of no form: {link}"
    target = urljoin(name, unquote(parts.path)) if parts.path else name
    target = target if not target.endswith("/") else target + "index.html"
    if not (html / target).resolve().is_relative_to(html.resolve()) or not (html / target).is_file():
        return f"link to no file: {link}"
    place = unquote(parts.fragment)
    if place and target in pages and place not in pages[target].places:
        return f"link to no place: {link}"
    return ""


def external_links(html: Path) -> dict[str, list[str]]:
    """The addresses on other hosts, without what follows #, and the pages that link to each."""
    found: dict[str, list[str]] = {}
    for name, page in read_links(html).items():
        for link in dict.fromkeys(link.partition("#")[0] for link in page.links):
            if link.startswith(("http://", "https://")):
                found.setdefault(link, []).append(name)
    return found


def ask(url: str, seconds: float = SECONDS) -> str:
    """Ask for an address; what went wrong, or "" after an answer below 400."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=HEADERS), timeout=seconds):
            return ""
    except urllib.error.HTTPError as error:
        return f"answered {error.code}"
    except (OSError, ValueError, HTTPException) as error:  # no such host, no answer in time, no address
        return str(getattr(error, "reason", error)) or type(error).__name__


def check_external(html: Path, ask: Callable[[str], str] = ask) -> int:
    """Ask every link to another host, a line each; returns how many failed."""
    links = external_links(html)
    failed = 0
    with ThreadPoolExecutor(8) as pool:
        for (url, names), wrong in zip(links.items(), pool.map(ask, links), strict=True):
            said = f"  ({wrong}; linked from {', '.join(names)})" if wrong else ""
            print(f"{'FAILED' if wrong else 'passed'}  {url}{said}", flush=True)
            failed += bool(wrong)
    print(f"{len(links) - failed} passed, {failed} failed")
    return failed
