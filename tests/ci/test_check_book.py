"""ci/check_book.py finds each fault it is there to find, and none on a page without."""

import base64
import shutil

import pytest

import check_book

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs it")

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
PAGES = {
    "good": (
        '<p>Text</p><img src="pixel.png" alt="one grey pixel"><div style="overflow-x: auto">'
        '<p style="width: 900px">scrolls in its box</p></div><p style="display: none; color: #fff">hidden</p>'
        '<div class="cell tag_raises-exception"><div class="output traceback">meant to fail</div></div>',
        [],
    ),
    "alt": ('<img src="pixel.png" alt=""><img src="pixel.png" alt="_images/pixel.png">', ["no alt text"] * 2),
    "lost": ('<img src="lost.png" alt="a picture">', ["404", "console", "picture does not load"]),
    "foreign": ('<script src="https://cdn.example/x.js"></script>', ["asks another host", "console"]),
    "console": ("<script>console.error('no good')</script>", ["console: no good"]),
    "script": ("<script>nothing()</script>", ["script: nothing is not defined"]),
    "math": ('<span class="math">x^2</span><script>MathJax = {startup: {promise: 1}}</script>', ["math not"]),
    "traceback": ('<div class="output traceback">ValueError: x</div>', ["error output: ValueError"]),
    "stderr": ('<div class="output stderr">a warning</div>', ["error output: a warning"]),
    "wide": ('<p style="width: 900px">wide</p>', ["phone: p.", "phone: page is 9"]),
    "pale": ('<p style="color: #999">pale</p>', ["light: contrast 2.8: p.", "dark: contrast 2.8: p."]),
    "dim": (
        "<style>[data-theme=dark] body { background: #111; color: #eee }</style><p>fine</p>"
        '<p style="color: #666">dim</p>',
        ["dark: contrast 3.3: p."],
    ),
}


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """A folder with a page for each fault."""
    folder = tmp_path_factory.mktemp("html")
    (folder / "pixel.png").write_bytes(PIXEL)
    for name, (body, _) in PAGES.items():
        head = '<!doctype html><html data-theme="light"><head><meta charset="utf8">'
        head += '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"></head>'
        (folder / f"{name}.html").write_text(f"{head}<body><article>{body}</article></body></html>")
    (folder / "_static").mkdir()
    (folder / "_static/part.html").write_text("no page of the book")
    return folder


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
    assert set(found) == set(PAGES)
    for name, (_, expected) in PAGES.items():
        rest = list(found[name])
        for start in expected:
            match = next((line for line in rest if line.startswith(start)), None)
            assert match, f"{name}: no {start!r} in {found[name]}"
            rest.remove(match)
        assert not rest, f"{name}: unexpected {rest}"
    assert failed == len(PAGES) - 1
    assert said.splitlines()[-1] == f"1 passed, {failed} failed"
    kinds = {path.name for path in (tmp_path / "pictures").glob("good-*")}
    assert kinds == {"good-light.png", "good-dark.png", "good-phone.png"}


def test_exit_codes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["check_book.py", str(tmp_path)])
    assert check_book.main() == 1 and "call `make book` first" in capsys.readouterr().err
    for failed, code in ((0, 0), (2, 1)):
        monkeypatch.setattr(check_book, "check", lambda html, pictures, failed=failed: failed)
        assert check_book.main() == code
