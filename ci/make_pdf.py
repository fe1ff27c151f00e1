"""Print the built book to one PDF with headless Chromium: _build/book.pdf.

The pages become one long page (one_page.py), so that links lead to places in the PDF and its outline is that
of the headings. It is printed twice: the first print tells on which page each chapter begins.
"""

import argparse
import sys
from io import BytesIO
from pathlib import Path

import yaml
from playwright.sync_api import Page
from pypdf import PdfReader

from check_book import chromium, served, watch
from mdrlib import checks
from mdrlib.checkpoint import write_atomically
from one_page import assemble
from runs import files_of, pages

ROOT = Path(__file__).resolve().parents[1]
PAGE = "print-the-book.html"  # its address; there is no such file
PATIENCE = 600_000  # milliseconds for all chapters at once

# What is wider than the text is made smaller: tables, equations.
FIT = """() => {
  for (const node of document.querySelectorAll("article table, article mjx-container[display=true]")) {
    const box = node.parentElement.getBoundingClientRect().width, width = node.scrollWidth;
    if (width > box + 1) node.style.zoom = Math.max(0.4, box / width);
  }
}"""
NUMBERS = """numbers => {
  for (const node of document.querySelectorAll(".print-number"))
    node.textContent = numbers[node.dataset.place] ?? "";
}"""


def parts(toc: Path) -> list[tuple[str, list[str]]]:
    """Return the captions of a _toc.yml, each with its pages in order; the root page has none."""
    content = yaml.safe_load(toc.read_text())
    listed = content.get("parts") or [content]
    return [
        ("", pages(toc)[:1]),
        *((part.get("caption", ""), list(files_of(part["chapters"]))) for part in listed),
    ]


def print_page(page: Page) -> bytes:
    """Return the open page as a PDF, tagged for screen readers, with an outline."""
    return page.pdf(prefer_css_page_size=True, print_background=True, outline=True, tagged=True)


def chapter_numbers(pdf: bytes, names: list[str]) -> dict[str, int]:
    """Return the page on which each chapter begins, from 1."""
    reader = PdfReader(BytesIO(pdf))
    places = reader.named_destinations
    return {
        name: reader.get_destination_page_number(places[key]) + 1
        for name in names
        for key in (name, f"/{name}")
        if key in places
    }


def make(html: Path, toc: Path, out: Path, title: str, author: str) -> int:
    """Print the pages below `html`, in the order of `toc`, to the file `out`.

    Returns:
        The number of pages of the PDF.

    Raises:
        FileNotFoundError: A page is missing.
        RuntimeError: The long page has a fault, such as a picture that is not there.
    """
    contents = parts(toc)
    names = [name for _, part in contents for name in part]
    text = assemble(html, contents, title, author)
    faults: list[str] = []
    with served(html) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 660, "height": 900})  # the width of the text on A4
        page.set_default_timeout(PATIENCE)
        watch(page, address.removeprefix("http://"), faults)
        page.route(f"**/{PAGE}", lambda route: route.fulfill(body=text, content_type="text/html"))
        page.goto(f"{address}/{PAGE}", wait_until="commit")
        # On a busy machine the event "load" does not always arrive.
        page.wait_for_function("document.readyState === 'complete'")
        if page.locator(".math").count():
            page.evaluate("MathJax.startup.promise")
        page.evaluate("document.fonts.ready")
        page.emulate_media(media="print", color_scheme="light")
        page.evaluate(FIT)
        numbers = chapter_numbers(print_page(page), names)
        page.evaluate(NUMBERS, numbers)
        pdf = print_page(page)
    missing = set(names) - set(numbers)
    faults += [f"no place in the PDF for {name}" for name in sorted(missing)]
    if chapter_numbers(pdf, names) != numbers:
        faults.append("page numbers moved between the first and the second print")
    if faults:
        raise RuntimeError("the book was not printed: " + "; ".join(faults))
    write_atomically(out, lambda file: file.write(pdf))
    return len(PdfReader(BytesIO(pdf)).pages)


def main() -> int:
    """Print from the command line; 1 if that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("html", nargs="?", type=checks.path, default=ROOT / "_build/html")
    parser.add_argument("--out", type=checks.path, default=ROOT / "_build/book.pdf")
    words = parser.parse_args()
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    try:
        count = make(words.html, ROOT / "book/_toc.yml", words.out, config["title"], config["author"])
    except (FileNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count} pages: {words.out.resolve().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
