"""Open every built page in headless Chromium and report faults that a reader would notice.

axe-core checks accessibility, in light and dark. Our own checks find what it does not: errors in the
console, failed requests, requests to another host, mathematics that was not rendered, error output, sideways
scrolling on a phone, faint marks in drawings and figures, sliders that change nothing, a search that finds
nothing, old addresses that lead nowhere. The pages are served below a path, as hosts of projects do.
"""

import argparse
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Request, Route, sync_playwright
from playwright.sync_api import TimeoutError as TooLate

from mdrlib import checks

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = (ROOT / "ci/page_checks.js").read_text("utf8")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMIUM_WORDS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# WCAG 2.2: 1.4.11, for what a drawing cannot be read without, and 1.4.3, for its text.
LEAST = {"least": 3.0, "leastOfText": 4.5}
# What it can be read without: photographs, bands, borders and grids behind marks, halos and thumbnails.
ASIDE = ".no-invert, .pg-band, .pg-border, .pg-grid path, .pg-halo, .pg-axis"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]  # of axe-core
# Markup of Sphinx that axe-core refuses: references have roles that ARIA has withdrawn, the parameters of a
# long signature are a list of definitions without terms.
EXCLUDED = [".citation-list", "dt.sig > dl"]
PATIENCE, SEARCH_PATIENCE = 120_000, 30_000  # milliseconds: CI's machine is slow and shared
TERM = "triplet"  # the book's search has to find it
BELOW = "/owner/name"  # the path that the pages are served below
MOVED = re.compile(r'<meta http-equiv="refresh" content="0; url=([^"]*)">')


@contextmanager
def served(html: Path, below: str = "") -> Iterator[str]:
    """Serve a folder on a free port of this machine, below a path; gives the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def translate_path(self, path: str) -> str:
            inside = path.startswith(f"{below}/")
            return super().translate_path(path.removeprefix(below) if inside else "/no/such/file")

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{below}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium without a window, else the one that `playwright install chromium` fetched."""
    usual = os.environ.get("TMPDIR", "")
    if len(os.fsencode(usual)) > 60:  # its sockets would have longer paths than systems allow
        os.environ["TMPDIR"] = "/tmp"
    with sync_playwright() as playwright:
        if usual:
            os.environ["TMPDIR"] = usual  # playwright's own process has been started
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_WORDS)
        yield browser
        browser.close()


def watch(page: Page, host: str, faults: list[str]) -> None:
    """Append to `faults` what goes wrong while pages load; nothing is fetched from another host."""

    def route(request: Route) -> None:
        url = request.request.url
        if urlsplit(url).netloc == host or urlsplit(url).scheme in ("data", "blob"):
            request.continue_()
        else:
            faults.append(f"asks another host: {url[:120]}")
            request.abort()

    page.route("**/*", route)
    page.on("console", lambda said: said.type == "error" and faults.append(f"console: {said.text[:200]}"))
    page.on("pageerror", lambda error: faults.append(f"script: {str(error)[:200]}"))
    page.on("response", lambda got: got.status >= 400 and faults.append(f"{got.status}: {got.url[:120]}"))

    def failed(lost: Request) -> None:
        # Chromium gives up a picture that a change of the window's width has replaced before it came.
        if urlsplit(lost.url).netloc == host and lost.failure != "net::ERR_ABORTED":
            faults.append(f"failed request ({lost.failure}): {lost.url[:120]}")

    page.on("requestfailed", failed)


def set_theme(page: Page, theme: str) -> None:
    """Show the page as "light" or "dark", at once."""
    page.add_style_tag(content="*, *::before, *::after { transition: none !important; }")
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)


def look(page: Page, name: str, **options: Any) -> list[str]:
    """Call a check of ci/page_checks.js: "broken", "wide", "marks" or "figures"; returns faults."""
    page.evaluate(SCRIPT)
    return page.evaluate(f"options => pageChecks.{name}(options)", options)


def appearance_faults(page: Page, aside: str = ASIDE) -> list[str]:
    """Check the page in its present theme: axe-core, then contrast inside drawings and figures.

    Args:
        page: An open page.
        aside: A selector of what drawings can be read without.
    """
    marks = [fault for name in ("marks", "figures") for fault in look(page, name, aside=aside, **LEAST)]
    return axe_faults(page) + marks


def axe_faults(page: Page) -> list[str]:
    """Return a line for each element that violates a rule of WCAG 2.2 A or AA, as axe-core finds it."""
    # Its preloading would ask for stylesheets that others import, at wrong addresses.
    options = {"resultTypes": ["violations"], "runOnly": RULES, "preload": False}
    found = Axe().run(page, context={"exclude": EXCLUDED}, options=options).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:120]} ({' '.join(node['failureSummary'].split())[:160]})"
        for rule in found
        for node in rule["nodes"]
    ]


def slider_faults(page: Page) -> list[str]:
    """Move every slider of the page by its keys; a line for each that shows nothing new."""
    page.evaluate(SCRIPT)
    return [fault for slider in page.locator("input[type=range]").all() if (fault := _slider_fault(slider))]


def _slider_fault(slider: Locator) -> str:
    name = slider.evaluate(
        "s => s.ariaLabel || s.dataset.setting || s.name || s.id || s.closest('label')?.innerText"
    )
    name = f"slider {(name or 'without a name')[:60]!r}"
    if not slider.is_visible():
        return f"{name} is hidden"
    shown, values = [], []
    for key in ("Home", "ArrowRight", "End"):
        slider.press(key)
        values.append(slider.input_value())
        shown.append(slider.evaluate("slider => pageChecks.shown(slider)"))
    if len(set(values)) == 1:
        return f"{name} does not move by its keys"
    if shown[0] in shown[1:]:
        return f"{name} changes nothing"
    return ""


def search_faults(page: Page, address: str, html: Path, term: str = TERM) -> list[str]:
    """Search the book for a term, as a reader would; faults if no hit leads to a page of `html`."""
    page.goto(f"{address}/search.html?q={term}", wait_until="load")
    try:
        page.wait_for_selector("#search-results li a", timeout=SEARCH_PATIENCE)
    except TooLate:
        return [f"search finds nothing for {term!r}"]
    hits = page.eval_on_selector_all("#search-results li a", "hits => hits.map(hit => hit.pathname)")
    hits = [hit.removeprefix(urlsplit(address).path) for hit in hits]
    return [f"search hit leads to no page: {hit}" for hit in hits if not (html / hit.lstrip("/")).is_file()]


def moved_faults(html: Path, name: str, target: str) -> list[str]:
    """Return a fault if a page that has moved does not lead to a page of `html` by a relative link."""
    page = (html / name).parent / target
    return [] if page.is_file() and not target.startswith("/") else [f"leads to no page: {target}"]


def check_page(browser: Browser, address: str, name: str, screenshots: Path | None = None) -> list[str]:
    """Return the faults of one page; writes screenshots/<page>-{light,dark,phone}.png if asked to."""
    faults: list[str] = []
    page = browser.new_page(viewport=DESKTOP)
    page.set_default_timeout(PATIENCE)
    watch(page, urlsplit(address).netloc, faults)

    def shoot(kind: str) -> None:
        if screenshots:
            file = name.removesuffix(".html").replace("/", "-")
            page.screenshot(path=screenshots / f"{file}-{kind}.png", full_page=True)

    page.goto(f"{address}/{name}", wait_until="load")
    if page.locator(".math").count():
        page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
        page.evaluate("MathJax.startup.promise")
    page.evaluate("document.fonts.ready")
    with suppress(TooLate):  # the browser does not always say that the network is idle
        page.wait_for_load_state("networkidle", timeout=5_000)
    faults += look(page, "broken")
    for theme in ("light", "dark"):
        set_theme(page, theme)
        faults += [f"{theme}: {fault}" for fault in appearance_faults(page)]
        shoot(theme)
    set_theme(page, "light")
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(200)  # the theme rearranges its bars
    faults += [f"phone: {fault}" for fault in look(page, "wide")]
    shoot("phone")
    faults += slider_faults(page)
    page.close()
    return faults


def check(html: Path, screenshots: Path | None = None) -> int:
    """Check all pages below `html`, one line each; returns how many have faults.

    Raises:
        FileNotFoundError: There are no pages.
    """
    names = [path.relative_to(html).as_posix() for path in sorted(html.rglob("*.html"))]
    names = [name for name in names if not name.startswith(("_static/", "_sources/"))]
    if not names:
        raise FileNotFoundError(f"no pages in {html}: call `make book` first")
    if screenshots:
        screenshots.mkdir(parents=True, exist_ok=True)
    failed = 0
    with served(html, BELOW) as address, chromium() as browser:
        for name in names:
            if moved := MOVED.search((html / name).read_text("utf8")):
                faults = moved_faults(html, name, moved[1])
            else:
                faults = check_page(browser, address, name, screenshots)
            if name == "search.html":
                page = browser.new_page()
                watch(page, urlsplit(address).netloc, faults)
                faults += search_faults(page, address, html)
                page.close()
            print(f"{'FAILED' if faults else 'passed'}  {name}", *faults, sep="\n        ", flush=True)
            failed += bool(faults)
    print(f"{len(names) - failed} passed, {failed} failed")
    return failed


def main() -> int:
    """Check from the command line; 1 if a page has a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("html", nargs="?", type=checks.path, default=ROOT / "_build/html")
    parser.add_argument(
        "--screenshots", metavar="DIR", type=checks.path, help="write pictures of each page there"
    )
    words = parser.parse_args()
    try:
        return 1 if check(words.html, words.screenshots) else 0
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
