"""Hosted notebooks get the environment of the book, by extras that there are."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_hosted_notebooks_have_the_versions_of_the_book():
    pinned = (ROOT / "requirements.txt").read_text().splitlines()
    hosted = re.findall(r"^(\S+==\S+)\+cpu$", (ROOT / ".binder/requirements.txt").read_text(), re.MULTILINE)
    assert [line.split("==")[0] for line in hosted] == ["torch", "torchvision"]
    assert set(hosted) <= set(pinned)


def test_the_readme_names_extras_that_there_are():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"^%pip install .*\[(.*)\]", (ROOT / "README.md").read_text("utf8"), re.MULTILINE)
    assert set(named.split(",")) <= set(extras)
