"""ci/check_book.py finds each fault it is there to find, and none on a page without."""

import base64
import io
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageDraw

import check_book
from mdrbook import style

pytestmark = pytest.mark.usefixtures("chromium")

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
PIXEL_URL = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
SLIDER = (
    '<div role="group"><input type="range" min="0" max="2" value="1" aria-label="S" oninput="{}">{}</div>'
)


def figure(color: str, back: str = "white") -> str:
    """An <img> of a thick line and a paler area of its colour."""
    image = Image.new("RGB", (80, 60), back)
    draw = ImageDraw.Draw(image, "RGBA")
    draw.line([(5, 5), (75, 50)], color, 3)
    data = io.BytesIO()
    image.save(data, "PNG")
    return f'<img alt="a line" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def drawing(shape: str, style: str = "") -> str:
    """An inline SVG."""
    return f'<div style="{style}"><svg width="40" height="40">{shape}</svg></div>'


PAGES = {
    "good": (
        SLIDER.format("this.parentElement.lastChild.textContent = this.value", "<output>1</output>")
        + SLIDER.format(
            "this.parentElement.querySelectorAll('img').forEach((i, k) => i.hidden = k != this.value)",
            f'<img src="pixel.png" alt="grey"><img src="{PIXEL_URL}" alt="one" hidden>' + figure("#d55e00"),
        )
        + SLIDER.format(
            "document.querySelector('#dot').setAttribute('r', +this.value + 3)",
            '<svg><circle id="dot" r="4" cx="9" cy="9"/></svg>',
        )
        + figure("#0072b2")
        + drawing(
            '<path d="M0 0H40" stroke="#ddd" class="pg-border"/><circle r="9" fill="none"/>'
            '<rect width="9" height="9" fill="#ffe" stroke="#777"/>'
        )
        + '<img class="no-invert" src="pixel.png" alt="a photograph">'
        '<a href="good.html#here" id="here">here</a>'
        '<p>Text</p><img src="pixel.png" alt="one grey pixel"><div style="overflow-x: auto">'
        '<p style="width: 900px">scrolls in its box</p></div><p style="display: none; color: #fff">hidden</p>'
        '<div class="cell tag_raises-exception"><div class="output traceback">meant to fail</div></div>',
        [],
    ),
    "alt": ('<img src="pixel.png" alt=""><img src="pixel.png" alt="_images/pixel.png">', ["no alt text"] * 2),
    "no-alt": ('<img src="pixel.png">', ["no alt text", "light: image-alt: <img", "dark: image-alt: <img"]),
    "unnamed": (
        "<button></button>",
        ["light: button-name: <button></button>", "dark: button-name: <button></button>"],
    ),
    "lost": ('<img src="lost.png" alt="a picture">', ["404", "console", "picture does not load"]),
    "foreign": ('<script src="https://cdn.example/x.js"></script>', ["asks another host", "console"]),
    "console": ("<script>console.error('no good')</script>", ["console: no good"]),
    "script": ("<script>nothing()</script>", ["script: nothing is not defined"]),
    "math": ('<span class="math">x^2</span><script>MathJax = {startup: {promise: 1}}</script>', ["math not"]),
    "absolute": ('<a href="/good.html">x</a>', ["not relative: /good.html"]),
    "from-the-root": ('<img src="/pixel.png" alt="x">', ["404", "console", "picture does", "not relative"]),
    "old": ('<meta http-equiv="refresh" content="0; url=good.html"><a href="good.html">good</a>', []),
    "lost-page": ('<meta http-equiv="refresh" content="0; url=lost.html">', ["leads to no page: lost.html"]),
    "rows": ("<p>| birds | 1 |</p>", ["rows outside a table: | birds"]),
    "traceback": ('<div class="output traceback">ValueError: x</div>', ["error output: ValueError"]),
    "stderr": ('<div class="output stderr">a warning</div>', ["error output: a warning"]),
    "wide": ('<p style="width: 900px">wide</p>', ["phone: p.", "phone: page is 9"]),
    "pale": ('<p style="color: #999">pale</p>', ["light: color-contrast: <p", "dark: color-contrast: <p"]),
    "idle": (SLIDER.format("this.ariaValueText = 'x'", "<p>no change</p>"), ["slider 'S' changes nothing"]),
    "stuck": (SLIDER.format("", "").replace('min="0"', 'min="2"'), ["slider 'S' does not move by its keys"]),
    "partly": (
        SLIDER.format("this.parentElement.lastChild.textContent = this.value > 1", "<output>false</output>"),
        ["slider 'S' changes nothing"],
    ),
    "unseen": (f'<div style="display: none">{SLIDER.format("", "")}</div>', ["slider 'S' is hidden"]),
    "mark": (
        drawing('<circle r="9" fill="#bbb" class="dot"/><line x2="9" y2="9" stroke="#000" opacity="0.2"/>'),
        [
            "light: mark of contrast 1.9: circle.dot",
            "light: mark of contrast 1.6: line.",
            "dark: mark of contrast 1.9",
            "dark: mark of contrast 1.6",
        ],
    ),
    "pale-text": (  # 3 is enough for shapes and not for text
        drawing('<circle r="9" fill="#888"/><text y="20" fill="#888">text</text>'),
        ["light: mark of contrast 3.5: text.", "dark: mark of contrast 3.5: text."],
    ),
    "turned": (  # black is seen on white, and by a filter white on white
        drawing('<circle r="9" fill="#000"/>', "filter: invert(1)"),
        ["light: mark of contrast 1.0: circle.", "dark: mark of contrast 1.0: circle."],
    ),
    "figure": (
        figure("#e6c200"),
        ["light: figure with marks of contrast 1.7", "dark: figure with marks of contrast 1.7"],
    ),
    "night": (  # pale on white, and not through the filter of dark mode
        "<style>[data-theme=dark] img { filter: invert(0.93) hue-rotate(180deg) }</style>"
        + figure("#00c300"),
        ["light: figure with marks of contrast 2.4"],
    ),
    "dim": (
        "<style>[data-theme=dark] body { background: #111; color: #eee }</style><p>fine</p>"
        '<p style="color: #666">dim</p>',
        ["dark: color-contrast: <p"],
    ),
}


QUICK = ("good", "absolute", "foreign", "lost-page", "old", "mark", "no-alt", "pale", "wide")
OTHERS = tuple(name for name in PAGES if name not in QUICK)


@pytest.fixture
def html(tmp_path, request):
    """A folder with some of PAGES."""
    folder = tmp_path / "html"
    (folder / "_static").mkdir(parents=True)
    (folder / "pixel.png").write_bytes(PIXEL)
    for name in request.param:
        head = '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf8"><title>t</title>'
        head += '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"></head>'
        (folder / f"{name}.html").write_text(f"{head}<body><article>{PAGES[name][0]}</article></body></html>")
    (folder / "_static/part.html").write_text("no page of the book")
    return folder


@pytest.mark.parametrize(
    "html", [QUICK, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["quick", "others"], indirect=True
)
def test_finds_each_fault(html, capsys, tmp_path):
    failed = check_book.check(html, tmp_path / "pictures")
    said = capsys.readouterr().out
    found = {}
    for line in said.splitlines()[:-1]:
        if not line.startswith(" "):
            name = line.split()[1].removesuffix(".html")
            found[name] = []
        else:
            found[name].append(line.strip())
    assert set(found) == {path.stem for path in html.glob("*.html")}
    for name, rest in found.items():
        for start in PAGES[name][1]:
            match = next((line for line in rest if line.startswith(start)), None)
            assert match, f"{name}: no {start!r} in {rest}"
            rest.remove(match)
        assert not rest, f"{name}: unexpected {rest}"
    passed = sum(not PAGES[name][1] for name in found)
    assert failed == len(found) - passed
    assert said.splitlines()[-1] == f"{passed} passed, {failed} failed"
    kinds = {path.name for path in (tmp_path / "pictures").glob(f"{name}-*")}
    assert kinds == {f"{name}-{kind}.png" for kind in ("light", "dark", "phone")}


def test_palette_stands_out_in_the_themes_pages(tmp_path, browser):
    """Every colour of figures, drawn in a page with the theme's real stylesheets and those of the book."""
    colors = {style.POSITIVE, style.NEGATIVE, *style.LEVELS, *style.GROUPS}
    colors |= {method[1] for method in style.METHODS.values()}
    dots = "".join(
        f'<circle class="{color}" r="9" cx="9" cy="9" fill="{color}"/>' for color in sorted(colors)
    )
    sheets = []
    for package, names in {
        "pydata_sphinx_theme": ("theme.css", "bootstrap.css", "pydata-sphinx-theme.css"),
        "sphinx_book_theme": ("sphinx-book-theme.css",),
    }.items():
        folder = Path(find_spec(package).origin).parent / "theme" / package / "static/styles"
        sheets += [(folder / name).read_text("utf8") for name in names]
    sheets.append((Path(check_book.ROOT) / "book/_static/custom.css").read_text("utf8"))
    (tmp_path / "page.html").write_text(
        '<!doctype html><html data-theme="light"><meta charset="utf8"><link rel="icon" href="data:,">'
        f'{"".join(f"<style>{sheet}</style>" for sheet in sheets)}<body><div class="bd-content"><article>'
        f'<div class="cell_output"><svg>{dots}</svg></div><svg class="plain">{dots}</svg></article></div>'
    )
    with check_book.served(tmp_path) as address:
        page = browser.new_page()
        page.goto(f"{address}/page.html")
        for theme, back, filtered in (
            ("light", style.LIGHT, "none"),
            ("dark", style.DARK, "invert(0.93) hue"),
        ):
            check_book.set_theme(page, theme)
            shown = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert shown == f"rgb({', '.join(str(int(back[i : i + 2], 16)) for i in (1, 3, 5))})"
            found = page.evaluate("getComputedStyle(document.querySelector('.cell_output svg')).filter")
            assert found.startswith(filtered)
            assert check_book.look(page, "marks", **check_book.LEAST) == []
            assert check_book.look(page, "marks", least=6) != []  # it sees them


HIT = '<div id="search-results"><ul class="search"><li><a href="{}">a hit</a></li></ul></div>'


@pytest.mark.parametrize(
    ("results", "faults"),
    [
        (HIT.format("search.html#x"), []),
        (HIT.format("lost.html"), ["search hit leads to no page: /lost.html"]),
        (f"<script>if (location.search == '?q=triplet') document.body.innerHTML = `{HIT}`</script>"
         .format("search.html"), []),
        ('<div id="search-results"><p>nothing</p></div>', ["search finds nothing for 'triplet'"]),
    ],
    ids=["a page", "no page", "by the term", "nothing"],
)  # fmt: skip
def test_search(tmp_path, browser, results, faults, monkeypatch):
    if "nothing" in results:
        monkeypatch.setattr(check_book, "SEARCH_PATIENCE", 3000)
    (tmp_path / "search.html").write_text(f"<!doctype html><body>{results}</body>")
    with check_book.served(tmp_path, check_book.BELOW) as address:
        assert check_book.search_faults(browser.new_page(), address, tmp_path) == faults


def test_a_long_folder_of_temporary_files(tmp_path):
    """As job schedulers hand them out: a socket's path may have 104 to 108 bytes."""
    folder = tmp_path / ("job-" * 30)
    folder.mkdir()
    code = "import check_book, os\nwith check_book.chromium(): print(os.environ['TMPDIR'])"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{folder}\n", done.stderr


def test_exit_codes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["check_book.py", str(tmp_path)])
    assert check_book.main() == 1 and "call `make book` first" in capsys.readouterr().err
    for failed, code in ((0, 0), (2, 1)):
        monkeypatch.setattr(check_book, "check", lambda html, pictures, failed=failed: failed)
        assert check_book.main() == code


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["check_book.py", "~/html", "--screenshots=~/pictures"])
    given = []
    monkeypatch.setattr(check_book, "check", lambda *paths: given.extend(paths))
    assert check_book.main() == 0 and given == [tmp_path / "html", tmp_path / "pictures"]


@pytest.mark.parametrize("failure, said", [("net::ERR_ABORTED", 0), ("net::ERR_EMPTY_RESPONSE", 1)])
def test_a_picture_that_the_browser_gave_up_is_no_fault(failure, said):
    handlers, faults = {}, []
    page = SimpleNamespace(route=lambda *words: None, on=handlers.__setitem__)
    check_book.watch(page, "host", faults)
    handlers["requestfailed"](SimpleNamespace(url="http://host/narrow.png", failure=failure))
    assert len(faults) == said
