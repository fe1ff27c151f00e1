"""ci/build_book.py on a book of two pages, with the project's own _config.yml."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import build_book
import check_book
import make_pdf
import one_page
import readme_table

ROOT = Path(__file__).resolve().parents[2]


TOC = """format: jb-book
root: index
parts:
  - caption: Ideas
    numbered: 1
    chapters: [{file: one}]
  - caption: Use
    numbered: 1
    chapters: [{file: two}]
  - caption: Appendices
    numbered: 1
    style: alphaupper
    restart_numbering: true
    chapters: [{file: more}, {file: most}]
  - caption: Back
    chapters: [{file: last}]
"""
# A chapter with what has a number, and references to what others have.
CHAPTER = """(ch-{0})=
# Title of {0}

```{{math}}
:label: eq-{0}-first

x
```

```{{math}}
:label: eq-{0}
y
```

```{{figure}} images/a.png
:name: fig-{0}
:alt: A dot.

A caption.
```

{{numref}}`Chapter {{number}}, {{name}} <ch-{1}>`, {{numref}}`fig-{1}`, {{eq}}`eq-{1}`.
"""
README = """<!-- chapters -->
| | chapter | what it answers |
| --: | --- | --- |
| 9 | [An old title](book/two.md) | What is "two" & more? |
<!-- end of chapters -->
"""
API = "```{eval-rst}\n.. autofunction:: mdrlib.f\n```\n\n```{bibliography}\n```\n"
DOCSTRING = '''
def f(x, k: str = "a"):
    """Return the `name` of the weight.

    Args:
        x (N, D): Embeddings, `x_*` or ``d @ d``.
        k: One of "a", "b".

    Returns:
        (N,) int64: the labels.

    Raises:
        ValueError: x is empty.
    """
'''


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A root whose one chapter is already executed."""
    monkeypatch.setattr(build_book, "execute", lambda root, scale: [])
    monkeypatch.delenv("BOOK_ADDRESS", raising=False)
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "requirements.txt").touch()
    book, executed = tmp_path / "book", tmp_path / "_build/executed/smoke"
    (book / "experiments").mkdir(parents=True)
    executed.mkdir(parents=True)
    (book / "images").mkdir()
    for name in ("a", "card"):
        shutil.copy(ROOT / "book/images/card.png", book / f"images/{name}.png")
    for folder in ("_static", "_templates", "extra"):
        shutil.copytree(ROOT / "book" / folder, book / folder)
    for name in ("experiments/train.ipynb", "mdrbook/__init__.py", "pyproject.toml"):  # no pages
        (book / name).parent.mkdir(exist_ok=True)
        (book / name).touch()
    (book / "_toc.yml").write_text(TOC)
    for name, other in (("two", "most"), ("more", "two"), ("most", "more")):
        (book / f"{name}.md").write_text(CHAPTER.format(name, other))
    (book / "last.md").write_text("# Last")
    (book / "references.bib").write_text("@misc{kim, title={Multi-level}, author={Kim}, year={2021}}\n")
    (book / "index.md").write_text("# Welcome\n\nSee {doc}`one` and $x^2$.\n\n" + API)
    (tmp_path / "mdrlib").mkdir()  # in place of the real one
    (tmp_path / "mdrlib/__init__.py").write_text(DOCSTRING)
    (book / "one.ipynb").write_text("{}")
    shown = new_output("stream", text="a result\n")
    cells = [new_markdown_cell("# One\n\nAfter {cite}`kim`."), new_code_cell("print(1)", outputs=[shown])]
    language = {"name": "python", "pygments_lexer": "ipython3"}  # as papermill leaves it
    nbformat.write(new_notebook(cells=cells, metadata={"language_info": language}), executed / "one.ipynb")
    (executed / "one.ipynb.key").write_text("a key")
    (executed / "gone.md").write_text("# No longer in the book")
    return tmp_path


@pytest.mark.slow
def test_builds_pages_that_ask_no_other_host(house, capfd, monkeypatch):
    assert build_book.build(house, "smoke") == 0
    index, one = house / "_build/html/index.html", house / "_build/html/one.html"
    said = capfd.readouterr().out
    assert index.as_uri() in said and "make serve" in said
    assert "a result" in one.read_text()
    assert (house / "_build/html/_static/mathjax/tex-chtml.js").exists()
    assert "_static/mathjax/tex-chtml.js" in index.read_text()
    assert build_book.ANNOUNCEMENTS["smoke"] in index.read_text()
    for words in (
        ">name</span></code> of the weight",
        ">x_*</span></code> or",
        ">(N,) int64<",
        ">ValueError<",
    ):
        assert words in index.read_text()  # by napoleon
    assert build_book.foreign_addresses(house / "_build/html") == []
    for host in ("mybinder.org", "colab.research", "github.com/owner"):
        assert host not in one.read_text()
    assert "og:" not in index.read_text() and not (house / "_build/html/sitemap.xml").exists()
    same_numbers(house)
    monkeypatch.setenv("BOOK_ADDRESS", "https://owner.github.io/name/")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    assert build_book.build(house, "smoke") == 0
    for address in (
        "https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/book/one.ipynb",
        "https://colab.research.google.com/github/owner/name/blob/main/book/one.ipynb",
        "https://github.com/owner/name/issues/new",
    ):
        assert address in one.read_text()
    head = BeautifulSoup((house / "_build/html/two.html").read_text(), "html.parser").head
    told = {tag.get("property", tag.get("name")): tag["content"] for tag in head.select("meta[content]")}
    assert told["og:title"] == "2. Title of two" and told["og:url"] == "https://owner.github.io/name/two.html"
    assert told["description"] == told["og:description"] == 'What is "two" & more?'
    assert told["og:image"] == "https://owner.github.io/name/card.png"
    assert (house / "_build/html/card.png").exists()
    assert 'name="citation_title" content="Multi-level Distance' in index.read_text()
    assert re.findall("name/([a-z]+).html", (house / "_build/html/sitemap.xml").read_text()) == [
        "index", "one", "two", "more", "most", "last",
    ]  # fmt: skip


def same_numbers(house):
    """Chapters, figures and equations have the same numbers in pages, in README's table and in the PDF."""
    pages = {p.stem: BeautifulSoup(p.read_text(), "html.parser") for p in house.glob("_build/html/*.html")}
    expected = {"one": "1", "two": "2", "more": "A", "most": "B"}
    assert readme_table.numbers(house / "book/_toc.yml") == expected
    printed = one_page.assemble(house / "_build/html", make_pdf.parts(house / "book/_toc.yml"), "T", "A")
    printed = BeautifulSoup(printed, "html.parser")
    contents = [line.text for line in printed.select(".print-contents a")]
    assert contents[1:-1] == ["1. One", "2. Title of two", "A. Title of more", "B. Title of most"]
    for name, other in (("two", "most"), ("more", "two"), ("most", "more")):
        for article in (pages[name].article, printed.find(id=name)):
            assert article.h1.text.startswith(f"{expected[name]}. Title of {name}")
            assert article.select_one(".caption-number").text.strip() == f"Fig. {expected[name]}.1"
            assert [number.text[:5] for number in article.select(".eqno")] == [
                f"({expected[name]}.{k})" for k in (1, 2)
            ]
            number = expected[other]
            references = f"Chapter {number}, Title of {other}, Fig. {number}.1, ({number}.2)."
            assert article.find_all("p")[-1].text == references


def test_an_old_address_leads_to_the_page_that_took_its_place(house, monkeypatch):
    html = house / "_build/html"
    html.mkdir(parents=True)
    build_book.configure(house, "smoke")
    monkeypatch.setattr(build_book, "MOVED", {"old": "one", "two": "one"})
    (html / "one.html").touch()
    build_book.finish(house, html)
    assert not (html / "two.html").exists()  # that is a page of the book
    (target,) = check_book.MOVED.findall((html / "old.html").read_text())
    assert check_book.moved_faults(html, "old.html", target) == []


def test_old_addresses_of_the_book():
    assert set(build_book.MOVED.values()) <= set(build_book.pages(ROOT / "book/_toc.yml"))


def test_the_executed_folder_has_the_sources_and_nothing_else(house):
    executed = build_book.copy_sources(house, "smoke")
    found = {path.relative_to(executed).as_posix() for path in executed.rglob("*") if path.is_file()}
    assert {"_toc.yml", "index.md", "references.bib", "one.ipynb", "one.ipynb.key"} <= found
    assert {"_static/custom.css", "images/a.png"} <= found
    assert not {name for name in found if name.startswith(("gone", "experiments", "mdrbook", "pyproject"))}


def test_pages_are_built_when_something_changed_and_after_a_failure(house, monkeypatch, capfd):
    built = []

    def jupyter_book(root, scale, builder):
        built.append(builder)
        (root / "_build/html").mkdir(exist_ok=True)
        (root / "_build/html/index.html").write_text(page)
        return status

    monkeypatch.setattr(build_book, "jupyter_book", jupyter_book)
    page, status = "<p>a page</p>", 1
    assert [build_book.build(house, "smoke") for _ in range(2)] == [1, 1] and len(built) == 2
    status = 0
    assert [build_book.build(house, "smoke") for _ in range(2)] == [0, 0] and len(built) == 3
    (house / "mdrlib/__init__.py").write_text('def f():\n    """Another docstring."""\n')
    assert [build_book.build(house, "smoke") for _ in range(2)] == [0, 0] and len(built) == 4
    (house / "book/index.md").write_text("# Another page")
    assert [build_book.build(house, "smoke") for _ in range(2)] == [0, 0] and len(built) == 5
    (house / "_build/html/index.html").unlink()
    page = '<script src="https://cdn.example/x.js"></script>'
    capfd.readouterr()
    assert [build_book.build(house, "smoke") for _ in range(2)] == [1, 1] and len(built) == 7
    assert 'index.html: <script src> https://cdn.example/x.js' in capfd.readouterr().err


@pytest.mark.slow
def test_what_leads_nowhere_or_does_not_parse_fails_each_build(house, capfd):
    lost = "{doc}`nowhere` {numref}`fig-none` [a](lost.md) [b](one.ipynb#place) [c](#own-place)"
    (house / "book/index.md").write_text(f"# Welcome\n\n{lost}\n\n{API}")
    (house / "mdrlib/__init__.py").write_text('def f():\n    """Return |P|."""\n')
    for _ in range(2):  # Jupyter Book alone would succeed the second time
        assert build_book.build(house, "smoke") == 1
        said = capfd.readouterr().err
        assert all(name in said for name in ("nowhere", "fig-none", "lost.md", "place", "own-place"))
        assert "docstring of mdrlib.f" in said


@pytest.mark.slow
def test_linkcheck_asks_other_hosts(house):
    build_book.copy_sources(house, "smoke")
    build_book.configure(house, "smoke")
    link = "[a link](http://127.0.0.1:9/lost)\n\n"
    (house / "_build/executed/smoke/index.md").write_text("# Welcome\n\n" + link + API)
    assert build_book.jupyter_book(house, "smoke", "linkcheck") != 0
    assert "127.0.0.1:9/lost" in (house / "_build/linkcheck/output.txt").read_text()


def test_a_failed_notebook_fails_the_build(house, monkeypatch):
    monkeypatch.setattr(build_book, "execute", lambda root, scale: ["a failure"])
    assert build_book.build(house, "smoke") == 1
    assert not (house / "_build/html").exists()


def test_the_scale_full_has_no_pages(house):
    with pytest.raises(ValueError, match="make experiments SCALE=full"):
        build_book.build(house, "full")


def test_only_the_smoke_scale_has_an_announcement(house):
    assert "announcement" not in yaml.safe_load(build_book.configure(house, "quick").read_text())["html"]
    assert "announcement" in yaml.safe_load(build_book.configure(house, "smoke").read_text())["html"]


def test_finds_what_a_page_loads_from_elsewhere_but_not_what_it_links_to(tmp_path):
    (tmp_path / "page.html").write_text(
        '<a class="b" href="https://example.org">a link</a><abbr title="x">y</abbr>'
        '<script src="/local.js"></script><img src="data:,">'
        '<script src="https://one.example/x.js"></script><link href="//two.example/x.css" rel="stylesheet">'
        '<img src="http://three.example/x.png">'
    )
    found = build_book.foreign_addresses(tmp_path)
    assert [line.split("//")[1] for line in found] == [
        "one.example/x.js",
        "two.example/x.css",
        "three.example/x.png",
    ]
    assert all(line.startswith("page.html: <") for line in found)
