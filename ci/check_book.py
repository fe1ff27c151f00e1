"""Open every built page in headless Chromium and refuse what a reader would stumble over.

Checked: errors in the console, failed requests, requests to another host, pictures without a description,
mathematics that was not rendered, error output, sideways scrolling on a phone, text of low contrast.
"""

import argparse
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Route, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
CHROMIUM_WORDS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
LEAST_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3, for text of normal size

# A line for each fault. Sphinx gives a picture without alt text its file name instead.
FAULTS = """() => {
  const faults = [], article = document.querySelector("article") || document.body;
  for (const image of article.querySelectorAll("img")) {
    const alt = (image.getAttribute("alt") || "").trim();
    const name = (image.getAttribute("src") || "").slice(0, 100);
    if (!alt || /^\\S+\\.(png|svg|jpe?g|gif|webp)$/i.test(alt)) faults.push(`no alt text: ${name}`);
    if (image.complete && !image.naturalWidth) faults.push(`picture does not load: ${name}`);
  }
  for (const math of article.querySelectorAll(".math"))
    if (!math.querySelector("mjx-container"))
      faults.push(`math not rendered: ${math.textContent.slice(0, 80)}`);
  for (const error of article.querySelectorAll("[data-mjx-error]"))
    faults.push(`math with an error: ${error.getAttribute("data-mjx-error")}`);
  for (const output of article.querySelectorAll(".output.traceback, .output.stderr"))
    if (!output.closest(".tag_raises-exception"))
      faults.push(`error output: ${output.textContent.trim().slice(0, 120)}`);
  return faults;
}"""

# What is wider than the window though no box of its own scrolls or hides it.
WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const held = node => { for (let up = node.parentElement; up && up !== document.body; up = up.parentElement)
    if (getComputedStyle(up).overflowX !== "visible") return true; return false; };
  return [...document.querySelectorAll("body *")]
    .filter(node => node.getBoundingClientRect().right > width + 1 && !held(node))
    .slice(0, 3)
    .map(node => `${node.tagName.toLowerCase()}.${node.className}`.slice(0, 80))
    .concat(`page is ${document.documentElement.scrollWidth} px wide, the window ${width} px`);
}"""

# Relative luminance and contrast as WCAG defines them; colours are drawn to let the browser resolve them.
CONTRAST = """least => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = css => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255); };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = node => { const layers = [];
    for (let up = node; up; up = up.parentElement) layers.push(rgba(getComputedStyle(up).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [1, 1, 1, 1]); };
  const light = c => { const [r, g, b] = c.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const faults = new Map(), article = document.querySelector("article") || document.body;
  const texts = "p, li, dt, dd, td, th, h1, h2, h3, h4, figcaption, a, code, pre, span:not([class*=kbd])";
  for (const node of article.querySelectorAll(texts)) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const under = behind(node), text = over(rgba(getComputedStyle(node).color), under);
    const [low, high] = [light(under), light(text)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    const kind = `${node.tagName.toLowerCase()}.${node.className}`;
    if (ratio < least && !faults.has(kind))
      faults.set(kind, `contrast ${ratio.toFixed(1)}: ${kind} "${node.textContent.trim().slice(0, 40)}"`);
  }
  return [...faults.values()];
}"""


@contextmanager
def served(html: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine; gives the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def watch(page: Page, host: str, faults: list[str]) -> None:
    """Write to `faults` what goes wrong while pages load; nothing is fetched from another host."""

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
    page.on(
        "requestfailed",
        lambda lost: urlsplit(lost.url).netloc == host and faults.append(f"failed request: {lost.url[:120]}"),
    )


def set_theme(page: Page, theme: str) -> None:
    """Show the page as "light" or "dark", at once."""
    page.add_style_tag(content="*, *::before, *::after { transition: none !important; }")
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)


def check_page(browser: Browser, address: str, name: str, screenshots: Path | None = None) -> list[str]:
    """The faults of one page, empty if there are none; screenshots/<page>-{light,dark,phone}.png."""
    faults: list[str] = []
    page = browser.new_page(viewport=DESKTOP)
    watch(page, urlsplit(address).netloc, faults)

    def shoot(kind: str) -> None:
        if screenshots:
            file = name.removesuffix(".html").replace("/", "-")
            page.screenshot(path=screenshots / f"{file}-{kind}.png", full_page=True)

    page.goto(f"{address}/{name}", wait_until="load")
    if page.locator(".math").count():
        page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise", timeout=30_000)
        page.evaluate("MathJax.startup.promise")
    page.wait_for_load_state("networkidle")
    faults += page.evaluate(FAULTS)
    for theme in ("light", "dark"):
        set_theme(page, theme)
        faults += [f"{theme}: {fault}" for fault in page.evaluate(CONTRAST, LEAST_CONTRAST)]
        shoot(theme)
    set_theme(page, "light")
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(200)  # the theme rearranges its bars
    faults += [f"phone: {fault}" for fault in page.evaluate(WIDE)]
    shoot("phone")
    page.close()
    return faults


def check(html: Path, screenshots: Path | None = None) -> int:
    """Check all pages below `html`, a line each; returns how many have faults.

    Raises FileNotFoundError when there are no pages.
    """
    names = [path.relative_to(html).as_posix() for path in sorted(html.rglob("*.html"))]
    names = [name for name in names if not name.startswith(("_static/", "_sources/"))]
    if not names:
        raise FileNotFoundError(f"no pages in {html}: call `make book` first")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if screenshots:
        screenshots.mkdir(parents=True, exist_ok=True)
    failed = 0
    with served(html) as address, sync_playwright() as playwright:
        # None: the browser that `playwright install chromium` fetched
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_WORDS)
        for name in names:
            faults = check_page(browser, address, name, screenshots)
            print(f"{'FAILED' if faults else 'passed'}  {name}", *faults, sep="\n        ", flush=True)
            failed += bool(faults)
        browser.close()
    print(f"{len(names) - failed} passed, {failed} failed")
    return failed


def main() -> int:
    """Check from the command line; 1 if a page has a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("html", nargs="?", type=Path, default=ROOT / "_build/html")
    parser.add_argument("--screenshots", metavar="DIR", type=Path, help="write pictures of each page there")
    words = parser.parse_args()
    try:
        return 1 if check(words.html, words.screenshots) else 0
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
