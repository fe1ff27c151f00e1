"""Rewrite the table of chapters in README.md: numbers and order of book/_toc.yml, titles of the chapters.

What a chapter answers is written in that table and nowhere else; a row keeps it when the chapter moves.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import yaml

from prose import cells_of
from runs import files_of

ROOT = Path(__file__).resolve().parents[1]
MARKS = re.compile(r"(?<=<!-- chapters -->\n).*?(?=<!-- end of chapters -->)", re.DOTALL)
ROW = re.compile(r"^\|[^|]*\| \[[^|]*\]\(book/(\w+)\.\w+\) \|(.*)\|$", re.MULTILINE)


def numbers(toc: Path) -> dict[str, str]:
    """Return the number of each chapter and the letter of each appendix, in order, as Sphinx gives them."""
    content = yaml.safe_load(toc.read_text())
    found: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for part in content.get("parts", [content]):
        style = part.get("style", "numerical")
        if part.get("restart_numbering"):
            counts[style] = 0
        for page in files_of(part["chapters"]) if part.get("numbered") else ():
            counts[style] += 1
            found[page] = str(counts[style]) if style == "numerical" else chr(ord("@") + counts[style])
    return found


def title_of(page: Path) -> str:
    """Return the first heading of a page."""
    lines = (line for _, text in cells_of(page) for line in text.splitlines())
    return next(line.removeprefix("# ").strip() for line in lines if line.startswith("# "))


def answers(readme: Path) -> dict[str, str]:
    """Return what each chapter answers, as the table says."""
    return {page: text.strip() for page, text in ROW.findall(readme.read_text("utf8"))}


def table(root: Path) -> str:
    """Return the table; a chapter that is new to it has an empty cell."""
    said, rows = answers(root / "README.md"), ["| | chapter | what it answers |", "| --: | --- | --- |"]
    for page, number in numbers(root / "book/_toc.yml").items():
        path = next(path for path in (root / "book").glob(f"{page}.*") if path.suffix in (".md", ".ipynb"))
        rows.append(f"| {number} | [{title_of(path)}](book/{path.name}) | {said.get(page, '')} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Rewrite README.md; 1 if it does not say what some chapter answers."""
    readme = ROOT / "README.md"
    readme.write_text(MARKS.sub(lambda _: table(ROOT), readme.read_text("utf8")), "utf8")
    silent = [page for page in numbers(ROOT / "book/_toc.yml") if not answers(readme)[page]]
    for page in silent:
        print(f"README.md does not say what {page} answers: write it in the table", file=sys.stderr)
    return bool(silent)


if __name__ == "__main__":
    sys.exit(main())
