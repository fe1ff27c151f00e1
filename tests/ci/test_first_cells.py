"""Each notebook begins in a clone, and anywhere mdrlib and mdrbook are installed."""

import json
import os
import shutil
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


def begin(cwd, *folders):
    """Run the first cells in the folder `cwd`, with folders to import from; the mdrlib they got."""
    sources = {path.stem: "\n".join(cell.source for cell in first_cells(path)) for path in CHAPTERS}
    path = os.pathsep.join(map(str, folders))
    environment = os.environ | {"PYTHONPATH": path, "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN], input=json.dumps(sources), cwd=cwd, env=environment, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[0])


def test_in_a_clone():
    assert begin(ROOT / "book", ROOT, ROOT / "book") == ROOT / "mdrlib/__init__.py"


@pytest.mark.slow
def test_with_installed_packages_and_no_clone(tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    # Of copies: pip writes a folder next to the sources that it builds.
    for folder, names in ((".", ("README.md", "LICENSE", "mdrlib")), ("book", ("mdrbook",))):
        source = tmp_path / "source" / folder
        source.mkdir(parents=True)
        for name in ("pyproject.toml", *names):
            path = ROOT / folder / name
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, source / name)
        words = [*pip, "--target", str(tmp_path / "site"), str(source)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (tmp_path / "elsewhere").mkdir()
    assert begin(tmp_path / "elsewhere", tmp_path / "site") == tmp_path / "site/mdrlib/__init__.py"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_first_cells_are_parameters_and_imports(path):
    first, second = first_cells(path)
    assert "parameters" in first.metadata.get("tags", [])
    assert "import" in second.source
