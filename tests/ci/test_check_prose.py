"""What a reader reads has no misspelt word, and no result that was typed."""

from pathlib import Path

import nbformat
import pytest

import check_prose
import prose

ROOT = Path(__file__).resolve().parents[2]
GOOD = (
    "# A page\n\nThe loss falls to {glue:text}`loss:.2f` of $0.35$, `0.35` and\n\n```python\nx = 0.35\n```\n"
)


@pytest.fixture
def small(tmp_path):
    """A project with one page and the README files."""
    for name in ("book/page.md", "README.md", "CONTRIBUTING.md", "data/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(GOOD)
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci/words.txt").write_text("")
    (tmp_path / "ci/typed_numbers.yml").write_text("")
    return tmp_path


def test_the_book():
    assert check_prose.misspelt(ROOT) == []
    assert check_prose.typed_numbers(ROOT) == []
    assert check_prose.clumsy(ROOT) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Recall@1 is 0.77 here.", "0.77"),
        ("Recall@1 is 77.5 here.", "77.5"),
        ("It gains 3.7 points.", "3.7"),
        ("It gains 4 points.", "4 points"),
        ("It is 12 % better.", "12 %"),
        ("It is 12% better.", "12%"),
        ("It is 12 times\nas fast.", "12 times"),
        ("It takes 1,200 s.", "1,200 s"),
        ("| time |\n| --- |\n| 45 MB |", "45 MB"),
        ("```{note}\nIt is 0.77.\n```", "0.77"),
        ("![It is 0.77.](picture.png)", "0.77"),
    ],
)
def test_a_typed_result_is_found(small, text, found):
    page = small / "book/page.md"
    page.write_text(GOOD + "\n" + text + "\n")
    (line,) = check_prose.typed_numbers(small)
    assert line.startswith(f"book/page.md: got {found!r}")
    page.write_text(GOOD)
    assert check_prose.typed_numbers(small) == []


@pytest.mark.parametrize("text", ["Exercise 2 has 10 points.", "Three of 128 classes.", "A distance of 2."])
def test_other_numbers_pass(small, text):
    (small / "book/page.md").write_text(text.replace("10 points", "10 dots"))
    assert check_prose.typed_numbers(small) == []


def test_an_allowance_holds_for_its_page_and_must_be_of_use(small):
    (small / "book/page.md").write_text("A margin of 0.2 is a choice. Another is 0.3.")
    allowed = "book/page.md: [{why: a choice, phrases: [margin of 0.2]}]"
    (small / "ci/typed_numbers.yml").write_text(allowed)
    (line,) = check_prose.typed_numbers(small)
    assert "'0.3'" in line
    (small / "book/page.md").write_text(GOOD)
    (line,) = check_prose.typed_numbers(small)
    assert "remove it" in line


def test_a_misspelt_word_is_found(small):
    (small / "README.md").write_text("The embeding of `embeding`, {doc}`embeding` and $embeding$.")
    assert check_prose.misspelt(small) == ["README.md: got 'embeding', expected a word of the dictionary"]
    (small / "ci/words.txt").write_text("Embeding\n")
    assert check_prose.misspelt(small) == []
    (small / "README.md").write_text(GOOD)
    assert check_prose.misspelt(small) == ["ci/words.txt: 'embeding' is on no page: remove it"]


def test_prose_of_a_notebook_has_captions_and_alt_texts_and_no_code(tmp_path):
    notebook = nbformat.v4.new_notebook()
    figure = nbformat.v4.new_code_cell("plot('code')")
    figure.metadata["mystnb"] = {"figure": {"caption": "A caption."}, "image": {"alt": "An alt text."}}
    glossary = "```{glossary}\nterm\n  Its meaning.\n```"
    picture = "```{figure} a.png\n:alt: What is to be seen.\n\nBelow it.\n```"
    for text in ("Words and `code`.", glossary, picture, "$$hidden$$"):
        notebook.cells.append(nbformat.v4.new_markdown_cell(text))
    notebook.cells.append(figure)
    nbformat.write(notebook, tmp_path / "page.ipynb")
    text = " ".join(" ".join(prose.prose(tmp_path / "page.ipynb")).split())
    assert text == "Words and . term Its meaning. What is to be seen. Below it. A caption. An alt text."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("MDR makes +3.7 points.", "MDR makes +3.7"),
        ("MDR makes {glue:text}`gain:+.1f` points.", "MDR makes points"),
        ("A second loss, beside the first.", "beside"),
        ("In a loop of ours.", "of ours"),
        ("It is not to be had.", "to be had"),
        ("Data are at\nhand.", "at hand"),
        ("It is drawn anew.", "anew"),
        ("It stays for good.", "for good"),
        ("In a loop of one's own.", "one's"),
        ("It moves. Nor does the mean.", "Nor does"),
        ("The mean stays, nor is it used.", ", nor is"),
        ("Were it 1, all is lost.", "Were it"),
        ("Only then does it fall.", "Only then does it"),
        ("What hardly matters is momentum.", "What hardly matters is"),
        ("```{note}\nThe loss wants more.\n```", "loss wants"),
        ("![A line beside a dot.](a.png)", "beside"),
        ("| a |\n| --- |\n| beside |", "beside"),
        ("One " * 36 + "word.", "37 words"),
        ("A word. " + "One " * 20 + "`code`, " + "one " * 17 + "word.", "38 words"),
    ],
)
def test_a_clumsy_phrase_is_found_where_it_is(small, text, found):
    (small / "book/page.md").write_text(GOOD + "\n" + text + "\n")
    (line,) = check_prose.clumsy(small, ())
    place, _, about = line.partition(": ")
    assert place.startswith("book/page.md, line ") and found in about
    number = int(place.split()[-1]) - 1
    assert found.split()[0] in " ".join((GOOD + "\n" + text).splitlines()[number:]) or "words" in found
    assert number >= len(GOOD.splitlines())


@pytest.mark.parametrize(
    "text",
    [
        "What is a level?",
        "What does MDR do, and what is it? It is a term.",
        "# What this book is not",
        "So far it was one. For good reasons, we stop. A good run makes a point. Besides, it is small.",
        "Not all of them are equal. Were they equal? The boreal forest.",
        "One " * 20 + "end. " + "One " * 20 + "end.",
        "One " * 20 + "end. `code` " + "goes " * 20 + "on.",
        "```python\n# drawn anew, beside of ours\n```",
    ],
)
def test_plain_english_passes(small, text):
    (small / "book/page.md").write_text(text)
    assert check_prose.clumsy(small, ()) == []


def test_pages_to_be_rewritten_are_listed_as_long_as_they_have_a_fault(small):
    (small / "book/page.md").write_text("It is drawn anew.")
    assert check_prose.clumsy(small, ["book/page.md"]) == []
    (small / "book/page.md").write_text("It is drawn again.")
    (line,) = check_prose.clumsy(small, ["book/page.md"])
    assert "book/page.md" in line and "remove it from LATER" in line


def test_places_in_a_notebook(tmp_path):
    notebook = nbformat.v4.new_notebook()
    figure = nbformat.v4.new_code_cell("1")
    figure.metadata["mystnb"] = {"figure": {"caption": "Drawn anew."}}
    text = "# T\n\n```{note}\n:class: tip\nOne line,\ndrawn anew.\n```\n\n- a list\n- drawn anew"
    notebook.cells = [nbformat.v4.new_code_cell("0"), nbformat.v4.new_markdown_cell(text), figure]
    nbformat.write(notebook, tmp_path / "page.ipynb")
    places = [fault.split(":")[0] for fault in check_prose.style_faults(tmp_path / "page.ipynb")]
    assert places == ["cell 2, line 6", "cell 2, line 10", "caption of cell 3, line 1"]
