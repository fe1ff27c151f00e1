"""Build the book: execute notebooks that are out of date, then build their folder with Jupyter Book.

Warnings are errors, among them references that lead nowhere and docstrings that do not parse. Pages may not
load anything from another host. When nothing has changed since the last build, the pages stay unchanged.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from environment_page import environment_page
from execute import ROOT, execute, exit_status
from foreign import foreign_addresses
from mdrlib.checkpoint import write_atomically
from readme_table import answers
from runs import FULL, digest_of, pages

# A line at the top of every page, for a scale whose numbers mean nothing.
ANNOUNCEMENTS = {"smoke": "Built at scale smoke: everything works, and the numbers mean nothing."}
REPOSITORY_BUTTONS = ("use_repository_button", "use_edit_page_button", "use_issues_button")
# What of book/ the pages are made of, besides the chapters.
SOURCES = ("_toc.yml", "*.bib", "*.md", "_static/**/*", "_templates/*", "extra/**/*", "images/**/*.png")
SOURCES += ("integrations/*.py",)  # shown by a chapter
NOT_PAGES = (".key", ".running", "durations.json")  # what ci/execute.py leaves in the executed folder
# Old addresses -> the pages that took their place.
MOVED = {"omniglot": "first_experiment"}
MOVED_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>This page has moved</title>
<meta name="robots" content="noindex"><meta http-equiv="refresh" content="0; url={page}.html"></head>
<body><p>This page has moved: <a href="{page}.html">{page}</a></p></body></html>
"""
SITEMAP = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
JUPYTER_BOOK = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"


def copy_sources(root: Path, scale: str) -> Path:
    """Copy pages, contents, bibliography and images, which are not executed, to the executed chapters.

    Returns:
        Their folder. Chapters and files that book/ no longer has are removed from it.
    """
    book, executed = root / "book", root / "_build/executed" / scale
    kept = {executed / f"{page}.ipynb" for page in pages(book / "_toc.yml")}
    for source in (path for pattern in SOURCES for path in book.glob(pattern) if path.is_file()):
        target = executed / source.relative_to(book)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        kept.add(target)
    for path in executed.rglob("*"):
        if path.is_file() and path not in kept and not path.name.endswith(NOT_PAGES):
            path.unlink()
    return executed


def configure(root: Path, scale: str) -> Path:
    """Write Jupyter Book's configuration: _config.yml and settings that depend on it and on the scale.

    These are the announcement of the scale, the question of each chapter, and all that needs the address of
    the repository or the pages. If _config.yml lacks these, the workflow that publishes them sets both.
    """
    config = yaml.safe_load((root / "_config.yml").read_text())
    if {"BOOK_ADDRESS", "GITHUB_SERVER_URL", "GITHUB_REPOSITORY"} <= os.environ.keys():
        repository = f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"
        config["repository"]["url"] = config["repository"]["url"] or repository
        config["html"]["baseurl"] = config["html"]["baseurl"] or os.environ["BOOK_ADDRESS"]
    address = config["html"]["baseurl"] = config["html"]["baseurl"].rstrip("/")
    known = {"book": config["title"], "author": config["author"], "address": address}
    known["answers"] = answers(root / "README.md")
    config["sphinx"]["config"]["html_context"] |= known
    if scale in ANNOUNCEMENTS:
        config["html"]["announcement"] = ANNOUNCEMENTS[scale]
    if config["repository"]["url"]:
        config["html"] |= dict.fromkeys(REPOSITORY_BUTTONS, True)
    else:
        del config["repository"], config["launch_buttons"]
    path = root / "_build/config.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def jupyter_book(root: Path, scale: str, builder: str) -> int:
    """Build the executed folder with a builder of Sphinx, into _build/<builder>; returns the exit status."""
    for old in (".doctrees", "jupyter_execute"):  # a page that was read before would not warn again
        shutil.rmtree(root / "_build" / old, ignore_errors=True)
    chosen = ["html"] if builder == "html" else ["custom", "--custom-builder", builder]
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(root / "_build/executed" / scale)]
    command += ["--config", str(root / "_build/config.yml"), "--path-output", str(root), "--builder", *chosen]
    # Its stdout is only worth reading when it fails; warnings come on stderr as they arise.
    built = subprocess.run([*command, "-W", "-n", "--keep-going", "-q"], cwd=root, stdout=-1, text=True)
    if built.returncode:
        print(built.stdout, file=sys.stderr)
    return built.returncode


def finish(root: Path, html: Path) -> None:
    """Write pages at old addresses that lead to the new ones, and a sitemap if the address is known."""
    names = pages(root / "book/_toc.yml")
    for old, page in MOVED.items():
        if old not in names:
            (html / f"{old}.html").write_text(MOVED_PAGE.format(page=page))
    if address := yaml.safe_load((root / "_build/config.yml").read_text())["html"]["baseurl"]:
        lines = "".join(f"<url><loc>{address}/{name}.html</loc></url>\n" for name in names)
        (html / "sitemap.xml").write_text(f"{SITEMAP}{lines}</urlset>\n")


def build(root: Path, scale: str) -> int:
    """Execute and build; 0 when _build/html is what the sources say.

    Raises:
        ValueError: The scale is "full".
    """
    if scale == FULL:
        raise ValueError(
            f"scale {FULL} has runs and no pages: `make experiments SCALE={FULL}` makes them, and "
            "`make book` shows their results"
        )
    root = root.resolve()
    if execute(root, scale):
        return 1
    executed, html, stamp = copy_sources(root, scale), root / "_build/html", root / "_build/html.built"
    if (records := executed / "environment.md").exists():
        records.write_text(environment_page(records.read_text(), root, scale))
    config = configure(root, scale)
    files = [path for path in executed.rglob("*") if path.is_file() and not path.name.endswith(NOT_PAGES)]
    docstrings = [*root.glob("mdrlib/**/*.py"), *root.glob("book/mdrbook/**/*.py")]
    wanted = digest_of(sorted([*files, *docstrings, config, root / "requirements.txt"]), root)
    if not (html / "index.html").exists() or not stamp.exists() or stamp.read_text() != wanted:
        print("Building the pages ...", flush=True)
        shutil.rmtree(html, ignore_errors=True)
        stamp.unlink(missing_ok=True)
        if jupyter_book(root, scale, "html"):
            print("The pages were not built: see the warnings above.", file=sys.stderr)
            return 1
        if foreign := foreign_addresses(html):
            print("These load something from another host:", *foreign, sep="\n  ", file=sys.stderr)
            return 1
        finish(root, html)
        write_atomically(stamp, lambda file: file.write(wanted.encode()))
    print(f"The book is at {(html / 'index.html').as_uri()}")
    print("`make serve` shows it at http://127.0.0.1:8000/")
    return 0


def main() -> int:
    """Build from the command line; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="quick")
    parser.add_argument("--linkcheck", action="store_true", help="then ask the links to other hosts")
    words = parser.parse_args()

    def work() -> int:
        failed = build(ROOT, words.scale)
        return failed or (jupyter_book(ROOT, words.scale, "linkcheck") if words.linkcheck else 0)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
