"""Roots of small projects whose notebooks take no time."""

from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import execute
import runs

TEMPLATE = """
import json, os
from pathlib import Path
folder = Path(out_dir)
count = len(list(folder.glob("begun-*")))
(folder / f"begun-{count}").touch()
data = {"train": {"fingerprint": "1"}, "test": {"fingerprint": "2"}}
result = {"config": config, "metrics": {}, "selected_by": "last", "seconds": 1}
result["environment"] = dict(os.environ)
(folder / "result.json").write_text(json.dumps(result | {"git": None, "data": data, "history": []}))
total = config["iterations"]
print(f"iteration {total}/{total}")
print("seconds of the run")
"""
MAP = 'from pathlib import Path\nfor run in runs:\n    (Path(run) / "umap.npz").touch()'
CHAPTER = (
    'from pathlib import Path\nprint(scale, sorted(p.parent.name for p in Path(runs).glob("*/result.json")))'
)
WIDGET = f"""
from IPython.display import display
display({{"{execute.WIDGET}": {{"model_id": "x"}}, "text/plain": "IntSlider()"}}, raw=True)
"""
HERE = {"omniglot": {"train": "1", "test": "2"}}


def save(path: Path, *cells: str, parameters: str = "") -> None:
    """Write a notebook with a parameters cell and these code cells."""
    made = [new_markdown_cell("# A title"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=made + [new_code_cell(cell) for cell in cells]), path)


def save_template(house, name, *cells):
    save(house / f"book/experiments/{name}.ipynb", TEMPLATE, *cells, parameters="config, out_dir = {}, ''")


def have(monkeypatch, data, why="no network"):
    """Say which data sets there are; the others are missing."""
    monkeypatch.setattr(
        runs,
        "what_is_here",
        lambda names: {
            "data": {name: data[name] for name in names if name in data},
            "missing": {name: f"{name}: {why}" for name in names if name not in data},
        },
    )


def build_house(root):
    """Make a root with two runs, a map of them, a chapter that reads them, and one of two data sets."""
    for name in ("ci", "mdrlib", "book/mdrbook"):
        (root / name).mkdir(parents=True)
    (root / "mdrlib/__init__.py").touch()
    (root / "book/mdrbook/style.css").touch()
    (root / "requirements.txt").write_text("numpy==1\n")
    run = {"template": "train", "config": {"dataset": "glyphs"}}
    optional = {"template": "train", "needs": "omniglot", "config": {"dataset": "omniglot"}}
    spec = {
        "runs": {"a": run, "b": optional},
        "maps": {"m": {"template": "map", "of": ["a", "b"]}},
        "scales": {"smoke": {"glyphs": {"iterations": 3}, "omniglot": {"iterations": 4}}},
    }
    (root / "ci/experiments.yml").write_text(yaml.safe_dump(spec))
    save_template(root, "train")
    save(root / "book/experiments/map.ipynb", MAP, parameters="runs = []")
    save(root / "book/one.ipynb", CHAPTER, WIDGET, parameters="scale, runs = '', ''")
    (root / "book/_toc.yml").write_text(
        "format: jb-book\nroot: index\nparts:\n- chapters:\n  - file: one.ipynb\n  - file: text\n"
    )
