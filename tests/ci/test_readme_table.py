"""README's table of chapters is what ci/readme_table.py writes; a row keeps what a chapter answers."""

from pathlib import Path

import nbformat
import pytest

import readme_table

ROOT = Path(__file__).resolve().parents[2]
TOC = """format: jb-book
root: index
parts:
- numbered: 1
  chapters: [{file: one.ipynb}]
- numbered: 1
  chapters: [{file: two}]
- numbered: 1
  style: alphaupper
  restart_numbering: true
  chapters: [{file: three}]
- chapters: [{file: last}]
"""
BEFORE = """# T

<!-- chapters -->
| 7 | [Gone](book/gone.md) | What? |
| A | [Old title](book/three.md) | Which \\1? |
| 1 | [Two](book/two.md) | How? |
<!-- end of chapters -->

After.
"""
AFTER = """# T

<!-- chapters -->
| | chapter | what it answers |
| --: | --- | --- |
| 1 | [The one](book/one.ipynb) |  |
| 2 | [Two](book/two.md) | How? |
| A | [A `new` title](book/three.md) | Which \\1? |
<!-- end of chapters -->

After.
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    title = nbformat.v4.new_markdown_cell("(ch-one)=\n# The one\n\nx")
    cells = [nbformat.v4.new_code_cell("# no title"), title]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "book/one.ipynb")
    for name, title in (("two", "Two"), ("three", "A `new` title"), ("last", "Last")):
        (tmp_path / f"book/{name}.md").write_text(f"(ch-{name})=\n# {title}\n\n## A part\n")
    (tmp_path / "book/_toc.yml").write_text(TOC)
    (tmp_path / "README.md").write_text(BEFORE)
    monkeypatch.setattr(readme_table, "ROOT", tmp_path)
    return tmp_path


def test_rewrites_numbers_titles_and_order(root, capsys):
    assert readme_table.main() == 1
    assert (root / "README.md").read_text() == AFTER
    assert capsys.readouterr().err == "README.md does not say what one answers: write it in the table\n"
    (root / "README.md").write_text(AFTER.replace("ipynb) |  |", "ipynb) | Why? |"))
    assert readme_table.main() == 0


def test_of_the_book():
    (written,) = readme_table.MARKS.findall((ROOT / "README.md").read_text("utf8"))
    assert written == readme_table.table(ROOT), "call .venv/bin/python ci/readme_table.py"
    assert all(readme_table.answers(ROOT / "README.md").values())
