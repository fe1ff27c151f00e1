"""The Makefile, as far as it can be tried without an install."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="no make here")


def make(folder: Path, *words: str, path: str | None = None) -> subprocess.CompletedProcess:
    """Call make in a folder that has the Makefile and nothing else of the project."""
    shutil.copy(ROOT / "Makefile", folder)
    # Without what a make around these tests hands down to the makes it starts.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    env["PATH"] = path or os.environ["PATH"]
    return subprocess.run([MAKE, *words], cwd=folder, env=env, capture_output=True, text=True)


def test_help_is_the_default_and_lists_every_target(tmp_path):
    said = make(tmp_path)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)) - {"venv"}
    assert said.returncode == 0
    assert set(re.findall(r"^  make ([a-z-]+) +\S", said.stdout, re.M)) == targets


def test_no_python_is_one_line(tmp_path):
    said = make(tmp_path, "book", path=str(tmp_path / "nothing"))
    assert said.returncode != 0
    assert said.stdout.startswith("No Python 3.11 or later was found.") and said.stdout.count("\n") == 1


def test_an_old_python_and_a_dead_shim_are_passed_over(tmp_path):
    for name, body in (("python3.11", "exit 127"), ("python3.12", "exit 1"), ("python3", "echo used $2 $1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    said = make(tmp_path, "venv", path=str(tmp_path))
    assert said.stdout.strip() == "used ci/install.py"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], "execute.py --scale quick --experiments"),
        (["SCALE=full", "SET=cub"], "execute.py --scale full --experiments --set cub"),
        (["SCALE=full", "ONLY=cub-triplet"], "execute.py --scale full --experiments --only cub-triplet"),
        (["SCALE=ablations"], "sweep.py"),
        (["SCALE=ablations", "STUDY=nu", "JOBS=3"], "sweep.py --study nu --jobs 3"),
        (["SCALE=smoke", "STUDY=nu"], "sweep.py --smoke --study nu"),
        (["DASK=tcp://10.0.0.1:8786"], "sweep.py --dask tcp://10.0.0.1:8786"),
    ],
)
def test_experiments_can_be_chosen(tmp_path, words, asked):
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    (tmp_path / "python3").symlink_to(python)
    said = make(tmp_path, "experiments", "PYTHON=python3", *words, path=f"{tmp_path}:{os.environ['PATH']}")
    assert said.stdout.splitlines()[-1].split() == f"ci/{asked}".split()


def test_clean_leaves_venv_and_data(tmp_path):
    for name in (
        "_build/html",
        ".venv/__pycache__",
        "data/omniglot",
        "mdrlib/__pycache__",
        "book/.ipynb_checkpoints",
    ):
        (tmp_path / name).mkdir(parents=True)
    assert make(tmp_path, "clean").returncode == 0
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()}
    assert left == {".venv", ".venv/__pycache__", "data", "data/omniglot", "mdrlib", "book"}
