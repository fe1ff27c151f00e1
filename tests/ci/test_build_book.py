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


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A root whose one chapter is already executed."""
    monkeypatch.setattr(build_book, "execute", lambda root, scale: [])
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "requirements.txt").touch()
    book, executed = tmp_path / "book", tmp_path / "_build/executed/smoke"
    (book / "experiments").mkdir(parents=True)
    executed.mkdir(parents=True)
    for folder in ("_static", "extra"):
        shutil.copytree(ROOT / "book" / folder, book / folder)
    (book / "experiments/train.ipynb").touch()
    (book / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: one\n")
    (book / "references.bib").write_text("@misc{kim, title={Multi-level}, author={Kim}, year={2021}}\n")
    (book / "index.md").write_text("# Welcome\n\nSee {doc}`one` and $x^2$.\n\n" + API)
    (tmp_path / "mdrlib").mkdir()  # in place of the real one
    (tmp_path / "mdrlib/__init__.py").write_text('def f(x: str = "a"):\n    """The `name` of *|P|*."""\n')
    (book / "one.ipynb").write_text("{}")
    shown = new_output("stream", text="a result\n")
    cells = [new_markdown_cell("# One\n\nAfter {cite}`kim`."), new_code_cell("print(1)", outputs=[shown])]
    language = {"name": "python", "pygments_lexer": "ipython3"}  # as papermill leaves it
    nbformat.write(new_notebook(cells=cells, metadata={"language_info": language}), executed / "one.ipynb")
    (executed / "one.ipynb.key").write_text("a key")
    (executed / "gone.md").write_text("# No longer in the book")
    return tmp_path


def test_builds_pages_that_ask_no_other_host_once(house, capfd, monkeypatch):
    assert build_book.build(house, "smoke") == 0
    index = house / "_build/html/index.html"
    said = capfd.readouterr().out
    assert index.as_uri() in said and "make serve" in said
    assert "a result" in (house / "_build/html/one.html").read_text()
    assert (house / "_build/html/_static/mathjax/tex-chtml.js").exists()
    assert "_static/mathjax/tex-chtml.js" in index.read_text()
    assert build_book.ANNOUNCEMENTS["smoke"] in index.read_text()
    assert '<span class="pre">name</span></code> of *|P|*.' in index.read_text()  # by ci/docstrings.py
    assert build_book.foreign_addresses(house / "_build/html") == []
    executed = house / "_build/executed/smoke"
    assert not (executed / "gone.md").exists() and not (executed / "experiments").exists()
    assert (executed / "one.ipynb.key").exists()

    run = build_book.subprocess.run
    monkeypatch.setattr(build_book.subprocess, "run", None)  # a second build would call it
    assert build_book.build(house, "smoke") == 0
    (house / "mdrlib/__init__.py").write_text('def f():\n    """Another docstring."""\n')
    with pytest.raises(TypeError):  # calls it
        build_book.build(house, "smoke")
    monkeypatch.setattr(build_book.subprocess, "run", run)

    (house / "book/index.md").write_text("# Welcome\n\n{doc}`nowhere` {numref}`fig-none`\n")
    for _ in range(2):  # Jupyter Book alone would succeed the second time
        assert build_book.build(house, "smoke") == 1
        assert "nowhere" in capfd.readouterr().err


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


def test_buttons_to_hosted_notebooks_appear_with_the_address_of_the_repository(house):
    assert build_book.build(house, "smoke") == 0
    page = house / "_build/html/one.html"
    for host in ("mybinder.org", "colab.research", "github.com/owner"):
        assert host not in page.read_text()
    config = house / "_config.yml"
    config.write_text(config.read_text().replace('url: ""', "url: https://github.com/owner/name"))
    assert build_book.build(house, "smoke") == 0
    for address in (
        "https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/book/one.ipynb",
        "https://colab.research.google.com/github/owner/name/blob/main/book/one.ipynb",
        "https://github.com/owner/name/issues/new",
    ):
        assert address in page.read_text()


def test_finds_what_a_page_loads_from_elsewhere_but_not_what_it_links_to(tmp_path):
    (tmp_path / "page.html").write_text(
        '<a href="https://example.org">a link</a><script src="/local.js"></script><img src="data:,">'
        '<script src="https://one.example/x.js"></script><link href="//two.example/x.css" rel="stylesheet">'
        '<img src="http://three.example/x.png">'
    )
    found = build_book.foreign_addresses(tmp_path)
    assert [line.split("://")[-1].split("/x")[0].split("//")[-1] for line in found] == [
        "one.example",
        "two.example",
        "three.example",
    ]
    assert all(line.startswith("page.html: <") for line in found)
