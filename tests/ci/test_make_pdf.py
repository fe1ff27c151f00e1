"""ci/make_pdf.py prints pages made by hand: their number, text, links and outline, nothing folded or cut."""

import base64
import io
import re
import shutil

import pytest
from PIL import Image
from pypdf import PdfReader

import make_pdf
import one_page

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("chromium")]

TOC = """format: jb-book
root: index
parts:
  - caption: Ideas
    chapters:
      - file: first.ipynb
        sections: [{file: second}]
  - caption: Back
    chapters: [{file: last}]
"""
PAGE = """<!doctype html><html data-theme="dark"><head><link rel="stylesheet" href="_static/book.css">
</head><body><div class="bd-header-announcement__content">at scale smoke</div><header>Search</header>
<article><section id="top"><h1>{title}<a class="headerlink" href="#top">#</a></h1>{body}
</section></article><footer>next</footer></body></html>"""
FIRST = """<p>See <a href="second.html#where">there</a>, <a href="second.html">the second</a>,
<a href="genindex.html">the index</a>, <a href="https://example.org/a">outside</a>, <a href="#top">up</a>.</p>
<details class="hide"><summary>Show the imports</summary><pre>import folded</pre></details>
<details class="hide"><summary>Show the solution</summary><pre>answer = 42</pre></details>
<div class="admonition dropdown"><p>a note</p></div>
<div class="mdr-player"><div><input type="range"><span>one</span></div>
<img src="{picture}" data-label="one" style="display:none">
<img src="{picture}" data-label="two" style="display:block">
<img src="_images/lost.png" data-label="three" style="display:none"><p>Caption</p></div>
<h2 id="part">A part of it</h2><pre>{code}</pre>
<table><tr>{cells}</tr></table>"""
SECOND = """<p id="where">Here.</p>
<div class="playground-still"><p>needs JavaScript</p><img src="_images/a.png"></div>
<section class="mdr-playground" hidden><button>Play</button></section><button>Set it up</button>"""


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), "#cc0044").save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The built pages and the contents of a tiny book."""
    folder = tmp_path_factory.mktemp("book")
    html = folder / "html"
    for name in ("_static", "_images"):
        (html / name).mkdir(parents=True)
    (html / "_static/book.css").write_text("html[data-theme=dark] body { background: black }")
    (html / "_images/a.png").write_bytes(picture())
    url = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    cells = "".join(f"<td>column{k:02d}</td>" for k in range(24))
    first = FIRST.format(picture=url, code="wrapped_" * 40, cells=cells)
    last = "<p>many</p>" * 150
    for name, title, body in (
        ("index", "Welcome", "<p>Hello</p>"),
        ("first", "First & foremost", first),
        ("second", "Second", SECOND),
        ("last", "The end", last),
    ):
        (html / f"{name}.html").write_text(PAGE.format(title=title.replace("&", "&amp;"), body=body))
    (folder / "_toc.yml").write_text(TOC)
    return html, folder / "_toc.yml"


@pytest.fixture(scope="module")
def pdf(book, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "deep/book.pdf"
    count = make_pdf.make(*book, out, "A <tiny> book", "Somebody")
    reader = PdfReader(out)
    assert len(reader.pages) == count
    return reader


def test_parts(book, tmp_path):
    assert make_pdf.parts(book[1]) == [("", ["index"]), ("Ideas", ["first", "second"]), ("Back", ["last"])]
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nchapters: [{file: a}, {file: deep/b}]\n"
    )
    assert make_pdf.parts(tmp_path / "_toc.yml") == [("", ["intro"]), ("", ["a", "deep/b"])]


def test_pages_and_contents(pdf):
    texts = [page.extract_text() for page in pdf.pages]
    assert "A <tiny> book" in texts[0] and "Somebody" in texts[0] and "at scale smoke" in texts[0]
    assert not re.search(r"\d", texts[0])  # no number on the title page
    found = dict(re.findall(r"^(Welcome|First & foremost|Second|The end)\s*(\d+)$", texts[1], re.M))
    assert {"Contents", "Ideas", "Back"} <= set(texts[1].splitlines())
    for title, number in found.items():
        assert texts[int(number) - 1].splitlines()[:2] == [number, title]  # the number is at its foot
    assert list(found.values())[:3] == ["3", "4", "5"] and len(found) == 4
    assert len(texts) > 6 and all(
        len(text.split()) > 1 for text in texts
    )  # the last chapter is long; no empty page
    assert pdf.pages[0].mediabox.width == pytest.approx(595, abs=1)  # A4, in points


def test_outline(pdf):
    def flat(items):
        for item in items:
            yield from flat(item) if isinstance(item, list) else [item]

    found = {item.title: pdf.get_destination_page_number(item) + 1 for item in flat(pdf.outline)}
    assert list(found) == ["Contents", "Welcome", "First & foremost", "A part of it", "Second", "The end"]
    assert [found[key] for key in ("Contents", "Welcome", "First & foremost", "Second")] == [2, 3, 4, 5]


def test_nothing_is_folded_or_left_to_click(pdf):
    first, second = (pdf.pages[k].extract_text() for k in (3, 4))
    assert "import folded" in first and "Show the imports" not in first
    assert "Solution\nanswer = 42" in first and "a note" in first
    assert "a slider shows 3 pictures here, from “one” to “three”; this is “two”" in " ".join(first.split())
    assert first.count("wrapped_") + first.count("wrapped") >= 40 and "column23" in first  # neither is cut
    assert "On the web page you can play" in second and "JavaScript" not in second
    for word in ("Play\n", "Set it up", "Search", "next", "#"):
        assert word not in first + second
    assert len(pdf.pages[3].images) == 1 and len(pdf.pages[4].images) == 1


def test_links_lead_to_places_in_the_pdf(pdf):
    targets, outside = [], []
    for note in pdf.pages[3]["/Annots"]:
        note = note.get_object()
        if "/A" in note and "/URI" in note["/A"]:
            outside.append(note["/A"]["/URI"])
        else:
            targets.append(str(note.get("/Dest") or note["/A"]["/D"]).removeprefix("/"))
    assert outside == ["https://example.org/a"]
    assert targets == ["second--where", "second", "first--top"]
    places = {key.removeprefix("/"): place for key, place in pdf.named_destinations.items()}
    assert [pdf.get_destination_page_number(places[target]) for target in targets] == [4, 4, 3]


def test_the_page_is_light(book):
    html, toc = book
    text = one_page.assemble(html, make_pdf.parts(toc), "T", "A")
    assert (
        text.startswith('<!doctype html><html lang="en" data-theme="light"')
        and 'data-theme="dark"' not in text
    )
    assert text.count("_static/book.css") == 1


def test_errors(book, tmp_path, monkeypatch, capsys):
    html, toc = book
    with pytest.raises(FileNotFoundError, match="no page lost.html .* call `make book` first"):
        one_page.assemble(html, [("", ["lost"])], "T", "A")
    shutil.copytree(html, tmp_path / "html")
    (tmp_path / "html/_images/a.png").unlink()
    with pytest.raises(RuntimeError, match="not printed: .*404"):
        make_pdf.make(tmp_path / "html", toc, tmp_path / "book.pdf", "T", "A")
    assert not (tmp_path / "book.pdf").exists()
    monkeypatch.setattr("sys.argv", ["make_pdf.py", str(tmp_path / "nothing")])
    assert make_pdf.main() == 1 and "call `make book` first" in capsys.readouterr().err


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["make_pdf.py", "~/html", "--out=~/book.pdf"])
    given = []
    monkeypatch.setattr(make_pdf, "make", lambda html, toc, out, *_: given.extend((html, out)) or 1)
    assert make_pdf.main() == 0 and given == [tmp_path / "html", tmp_path / "book.pdf"]
