"""Each notebook begins in a clone, and anywhere mdrlib is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each notebook's parameters and imports in names of its own, one notebook after the other: torch loads once.
BEGIN = """
import json, sys
import mdrlib
print(mdrlib.__file__)
for name, source in json.load(sys.stdin).items():
    try:
        exec(compile(source, name, "exec"), {"__name__": "__main__"})
    except BaseException as error:
        sys.exit(f"{name}: {type(error).__name__}: {error}")
"""
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


def first_cells(path):
    """The first two code cells."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"][:2]


def begin(cwd, library):
    """Run the first cells in the folder `cwd`, with `library` to import from; the mdrlib they got."""
    sources = {path.stem: "\n".join(cell.source for cell in first_cells(path)) for path in CHAPTERS}
    environment = os.environ | {"PYTHONPATH": str(library), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN], input=json.dumps(sources), cwd=cwd, env=environment, text=True,
        capture_output=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[0])


def test_in_a_clone():
    assert begin(ROOT / "book", ROOT) == ROOT / "mdrlib/__init__.py"


def test_with_an_installed_library_and_no_clone(tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    source = tmp_path / "source"  # pip builds beside the sources
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "mdrlib"):
        (source / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [*pip, "--target", str(tmp_path / "site"), str(source)], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "elsewhere").mkdir()
    assert begin(tmp_path / "elsewhere", tmp_path / "site") == tmp_path / "site/mdrlib/__init__.py"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_first_cells_are_parameters_and_imports(path):
    first, second = first_cells(path)
    assert "parameters" in first.metadata.get("tags", [])
    assert "import" in second.source
