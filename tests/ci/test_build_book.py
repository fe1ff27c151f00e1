"""ci/build_book.py on a book of two pages, with the project's own _config.yml."""

import shutil
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import build_book

ROOT = Path(__file__).resolve().parents[2]


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
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "requirements.txt").touch()
    book, executed = tmp_path / "book", tmp_path / "_build/executed/smoke"
    (book / "experiments").mkdir(parents=True)
    executed.mkdir(parents=True)
    (book / "images").mkdir()
    (book / "images/a.png").write_bytes(b"")
    for folder in ("_static", "extra"):
        shutil.copytree(ROOT / "book" / folder, book / folder)
    for name in ("experiments/train.ipynb", "mdrbook/__init__.py", "pyproject.toml"):  # no pages
        (book / name).parent.mkdir(exist_ok=True)
        (book / name).touch()
    (book / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: one\n")
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
def test_builds_pages_that_ask_no_other_host(house, capfd):
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
    config = house / "_config.yml"
    config.write_text(config.read_text().replace('url: ""', "url: https://github.com/owner/name"))
    assert build_book.build(house, "smoke") == 0
    for address in (
        "https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/book/one.ipynb",
        "https://colab.research.google.com/github/owner/name/blob/main/book/one.ipynb",
        "https://github.com/owner/name/issues/new",
    ):
        assert address in one.read_text()


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
