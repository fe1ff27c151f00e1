"""Build the book: execute what is out of date, then hand the executed folder to Jupyter Book.

A page may ask no other host for anything; the build fails if one does, or on any warning.
"""

import argparse
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import yaml

from environment_page import environment_page
from execute import ROOT, execute, exit_status
from plan import FULL, digest_of, pages

# A line over every page of a scale whose numbers are not to be read.
ANNOUNCEMENTS = {"smoke": "Built at scale smoke: everything works, and the numbers mean nothing."}
CI = Path(__file__).resolve().parent
REPOSITORY_BUTTONS = ("use_repository_button", "use_edit_page_button", "use_issues_button")
NOT_PAGES = (".key", ".running", "durations.json")  # in the executed folder, but no part of the book


class _Foreign(HTMLParser):
    """Collects the addresses on other hosts that a page loads by itself: a link to follow is no such."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            loads = name == "src" or (name == "href" and tag in ("link", "image", "use"))
            if loads and (value or "").startswith(("http://", "https://", "//")):
                self.found.append(f"<{tag} {name}={value}>")


def foreign_addresses(html: Path) -> list[str]:
    """A line for each thing that pages below `html` would load from another host."""
    lines = []
    for page in sorted(html.rglob("*.html")):
        parser = _Foreign()
        parser.feed(page.read_text(encoding="utf8"))
        lines += [f"{page.relative_to(html)}: {found}" for found in parser.found]
    return lines


def copy_sources(root: Path, scale: str) -> Path:
    """Put what is not executed (pages, contents, bibliography, images) beside the executed chapters.

    Returns the folder. Chapters and files that book/ no longer has are removed from it.
    """
    book, executed = root / "book", root / "_build/executed" / scale
    kept = {
        executed / f"{page}.ipynb" for page in pages(book / "_toc.yml") if (book / f"{page}.ipynb").exists()
    }
    for source in sorted(book.rglob("*")):
        inside = source.relative_to(book)
        if source.is_dir() or source.suffix == ".ipynb" or inside.parts[0] == "experiments":
            continue
        target = executed / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target)
        kept.add(target)
    for path in sorted(executed.rglob("*")):
        if path.is_file() and path not in kept and not path.name.endswith(NOT_PAGES):
            path.unlink()
    return executed


def configure(root: Path, scale: str) -> Path:
    """Write the configuration of Jupyter Book: _config.yml with what follows from it and from the scale.

    That is the announcement of the scale, and the buttons that need the repository's address.
    """
    config = yaml.safe_load((root / "_config.yml").read_text())
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


def build(root: Path, scale: str) -> int:
    """Execute and build; 0 when _build/html is what the sources say. ValueError at scale full."""
    if scale == FULL:
        raise ValueError(
            f"scale {FULL} has runs and no pages: `make experiments SCALE={FULL}` makes them, and "
            "`make book` shows their results"
        )
    root = root.resolve()
    if execute(root, scale):
        return 1
    executed, html = copy_sources(root, scale), root / "_build/html"
    if (records := executed / "environment.md").exists():
        records.write_text(environment_page(records.read_text(), root, scale))
    config = configure(root, scale)
    files = [path for path in executed.rglob("*") if path.is_file() and not path.name.endswith(NOT_PAGES)]
    # Docstrings are in the pages too.
    code = [*root.glob("mdrlib/**/*.py"), *root.glob("ci/docstrings.py")]
    wanted = digest_of(sorted([*files, *code, config, root / "requirements.txt"]), root)
    stamp = root / "_build/html.built"
    if not (html / "index.html").exists() or not stamp.exists() or stamp.read_text() != wanted:
        # A second build over the first forgets its warnings: it would succeed where the first failed.
        for old in (html, root / "_build/.doctrees", root / "_build/jupyter_execute"):
            shutil.rmtree(old, ignore_errors=True)
        stamp.unlink(missing_ok=True)
        print("Building the pages ...", flush=True)
        words = ["build", str(executed), "--config", str(config), "--path-output", str(root)]
        # The extension `docstrings` is in ci/; mdrlib is in the folder that this is called in.
        main = "from jupyter_book.cli.main import main; sys.exit(main())"
        main = f"import sys; sys.path.append({str(CI)!r}); {main}"
        command = [sys.executable, "-c", main, *words, "-W", "-n", "--keep-going", "-q"]
        # Its stdout is only worth reading when it fails; warnings come on stderr as they arise.
        built = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True)
        if built.returncode:
            print(
                built.stdout, "The pages were not built: see the warnings above.", sep="\n", file=sys.stderr
            )
            return 1
        foreign = foreign_addresses(html)
        if foreign:
            print(
                "These pages would load something from another host:", *foreign, sep="\n  ", file=sys.stderr
            )
            return 1
        stamp.write_text(wanted)
    print(f"The book is at {(html / 'index.html').as_uri()}")
    print("`make serve` shows it at http://127.0.0.1:8000/")
    return 0


def main() -> int:
    """Build from the command line; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="quick")
    words = parser.parse_args()
    return exit_status(lambda: build(ROOT, words.scale))


if __name__ == "__main__":
    sys.exit(main())
