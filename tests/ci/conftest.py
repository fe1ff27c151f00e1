"""Roots whose runs take no training: what happens to them is what is tested."""

import json

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

import execute
from mdrlib.datasets import load
from tests.ci.houses import build_house, have

# A run that says it has begun, waits while the file `hold` is there, and leaves a result.
STUB = """
import json, os, sys, time
from pathlib import Path
log = Path(LOG)
name = f"{config['mdr_weight']}-{config['seed']}"
begun = log / f"{name}-{os.getppid()}-{os.getpid()}"
begun.touch()
while (log / "hold").exists():
    time.sleep(0.05)
if (log / "fail").exists():
    raise ValueError("the lights went out")
result = {
    "config": config, "metrics": {"recall@1": 0.5}, "selected_by": "last", "seconds": 1.0, "environment": {},
    "git": None, "data": DATA, "history": [{"iteration": 0, "loss": 1 / 3, "images_per_second": None}],
}
Path(out_dir, "history.csv").write_text("iteration\\n0\\n")
Path(out_dir, "result.json").write_text(json.dumps(result))
"""
SPEC = {
    "base": {"dataset": "glyphs", "iterations": 4},
    "seeds": 2,
    "file": "ablations",
    "studies": {
        "lambda": {"title": "one", "grid": {"mdr_weight": [0.1, 0.2, 0.3]}},
        "other": {"title": "two", "base": {"mdr_weight": 0.1}, "grid": [{"momentum": [0.9]}]},
    },
    "smoke": {"seeds": 1, "base": {"iterations": 2}},
}


@pytest.fixture(scope="session")
def glyphs_data():
    """What a result says of the images of glyphs."""
    splits = {name: load("glyphs", name) for name in ("train", "test")}
    return {name: {"images": len(s), "fingerprint": s.fingerprint} for name, s in splits.items()}


@pytest.fixture
def matrix_house(tmp_path, glyphs_data, monkeypatch):
    """The root; its folder `log` tells which runs began, by weight, seed, parent process and process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", "")
    for name in ("ci", "book/experiments", "log"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ci/ablations.yml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    stub = STUB.replace("LOG", json.dumps(str(tmp_path / "log"))).replace("DATA", repr(glyphs_data))
    parameters = new_code_cell("config = {}\nout_dir = ''", metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[parameters, new_code_cell(stub)])
    nbformat.write(notebook, tmp_path / "book/experiments/ablation.ipynb")
    return tmp_path


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A root with two runs, a map of them, a chapter that reads them, and one of two data sets."""
    monkeypatch.delenv("MDR_DATA_ROOT", raising=False)
    monkeypatch.setattr(execute, "IMPORTED", ())  # these notebooks import nothing that takes time
    have(monkeypatch, {})
    build_house(tmp_path)
    return tmp_path
