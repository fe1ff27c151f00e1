"""The runs and chapters of the project: where they are, and which of them are done.

A run is its `Config`. Runs of scales smoke and quick (ci/experiments.yml) are executed again when code
changes. Benchmark recipes (scale full) and runs of the experiment matrix (ci/ablations.yml) cost hours: they
are done once there is a result of the same Config on the same images, whatever code made it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from mdrlib.config import Config
from mdrlib.results import Result, load_committed, load_run
from one_run import what_is_here

FULL = "full"  # the scale of the benchmarks: its runs are the recipes, hours on a GPU each
Data = dict[str, dict[str, str]]  # data set -> split -> fingerprint


@dataclass(frozen=True)
class Job:
    """One notebook to execute, of a run, of a map of runs, or of a chapter."""

    name: str
    source: Path  # its kernel starts in the same folder
    parameters: dict[str, Any]
    output: Path  # the executed notebook
    folder: Path | None = None  # of this job alone; emptied before another key runs in it, unless it is kept
    config: Config | None = None  # of a training run
    data: dict[str, str] | None = None  # fingerprint of each split of its images
    inputs: tuple[Path, ...] = ()  # outputs of the jobs that it reads
    code: str = ""  # digest of the code that it imports, and of the files that it reads
    kept: bool = False  # a result counts whatever code made it


# Which there are


def jobs(root: Path, scale: str, data: Data) -> list[Job]:
    """List the runs, their maps and the chapters of a scale; at scale full the recipes alone.

    Runs that need a data set that `data` does not have are left out.
    """
    templates, folder = root / "book/experiments", root / "_build/runs" / scale
    found: dict[str, Job] = {}

    def add(name: str, template: str, parameters: dict[str, Any], **about: Any) -> None:
        source, output = templates / f"{template}.ipynb", folder / name / "run.ipynb"
        code = code_of(root, source)
        found[name] = Job(name, source, parameters, output, output.parent, code=code, **about)

    def add_run(name: str, template: str, values: dict[str, Any], **about: Any) -> None:
        config = Config.of(values)
        parameters = {"config": config.to_dict(), "out_dir": relative(folder / name, templates)}
        add(name, template, parameters, config=config, data=data.get(config.dataset), **about)

    if scale == FULL:
        for name, values in recipes(root).items():
            if values["dataset"] in data:
                add_run(name, "train_on_photographs", values, kept=True)
        return list(found.values())
    for name, (needs, values) in experiments(root, scale).items():
        if needs is None or needs in data:
            add_run(name, read(root, "experiments")["runs"][name]["template"], values)
    for name, about in read(root, "experiments").get("maps", {}).items():
        of = [run for run in about["of"] if run in found]
        if of:
            inputs = tuple(found[run].output for run in of)
            parameters = {"runs": [relative(folder / run, templates) for run in of]}
            add(name, about["template"], parameters, inputs=inputs)
    made = tuple(job.output for job in found.values())
    for page in pages(root / "book/_toc.yml"):
        source = root / "book" / f"{page}.ipynb"
        if source.exists():
            parameters = {"scale": scale, "runs": relative(folder, root / "book")}
            output = root / "_build/executed" / scale / f"{page}.ipynb"
            inputs = made if reads_runs(source) else ()
            code = code_of(root, source, stored_results(root))
            found[page] = Job(page, source, parameters, output, inputs=inputs, code=code)
    return list(found.values())


def experiments(root: Path, scale: str) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """Read the runs of a scale: name -> the data set that may be missing, and the fields of its Config."""
    spec = read(root, "experiments")
    if scale not in spec["scales"]:
        raise ValueError(f"no scale {scale!r} in ci/experiments.yml; choose one of {sorted(spec['scales'])}")
    changes = spec["scales"][scale]
    return {
        name: (run.get("needs"), run["config"] | changes.get(run["config"]["dataset"], {}))
        for name, run in spec["runs"].items()
    }


def recipes(root: Path) -> dict[str, dict[str, Any]]:
    """Read the Config's fields of each benchmark recipe, by name."""
    found = sorted((root / "book/experiments/recipes").glob("*.yml"), key=lambda path: path.stem)
    return {path.stem: yaml.safe_load(path.read_text()) for path in found}


def data_here(root: Path, scale: str, dataset: str | None = None, only: str | None = None) -> Data:
    """Find the data sets that the runs of a scale may lack: {data set: {split: fingerprint}}.

    At scale full these are the sets of all recipes, of those of `dataset`, or of the recipe `only`. If one
    is not available, ValueError says how to get it. At other scales a line says what is left out.
    """
    if scale == FULL:
        known = {name: values["dataset"] for name, values in recipes(root).items()}
        if dataset not in (None, *known.values()):
            sets = sorted({*known.values()})
            raise ValueError(f"no recipe for a data set {dataset!r}; choose one of {sets}")
        chosen = {name: its for name, its in known.items() if dataset in (None, its)}
        if only not in (None, *chosen):
            raise ValueError(f"no recipe named {only!r}; choose one of {list(chosen)}")
        wanted = {its for name, its in chosen.items() if only in (None, name)}
    else:
        wanted = {needs for needs, _ in experiments(root, scale).values() if needs}
    here = what_is_here(sorted(wanted))
    if scale == FULL and here["missing"]:
        raise ValueError("\n".join(here["missing"].values()))
    for name, why in here["missing"].items():
        print(f"{name} is not available, its runs are left out: {why}", flush=True)
    return here["data"]


def pages(toc: Path) -> list[str]:
    """List the pages of a _toc.yml in reading order, as paths without suffix relative to its folder."""
    return list(files_of(yaml.safe_load(toc.read_text())))


def files_of(node: Any) -> Iterator[str]:
    """Yield the pages below a node of a _toc.yml, as `pages` does."""
    if isinstance(node, list):
        for item in node:
            yield from files_of(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("root", "file"):
                yield re.sub(r"\.(ipynb|md)$", "", value)
            elif isinstance(value, list | dict):
                yield from files_of(value)


# Which are done


def is_done(job: Job, results: dict[str, Result] | None = None) -> bool:
    """Return whether a job is up to date; for a run of the matrix, given the results that count."""
    if job.kept and results is not None:
        return saw(results.get(job.config.identity()), job.data)
    if job.kept:
        found = []
        with suppress(OSError, ValueError):  # none yet, or a damaged one, of which the run itself will tell
            found.append(load_run(job.folder))
        return job.output.exists() and is_done(job, by_identity(found))
    return job.output.exists() and left_key(job.output) == key_of(job)


def saw(result: Result | None, data: dict[str, str]) -> bool:
    """Return whether there is a result of images with these fingerprints."""
    return result is not None and data == {
        split: result.data[split]["fingerprint"] for split in data.keys() & result.data.keys()
    }


def by_identity(results: Iterable[Result]) -> dict[str, Result]:
    """Index results by `Config.identity`; a field that one lacks has its default."""
    found = {}
    for result in results:
        try:
            found[Config.of(result.config).identity()] = result
        except (TypeError, ValueError):  # of a field or value that no longer exists
            continue
    return found


def swept(root: Path) -> dict[str, Result]:
    """Read the results in the folders of the sweep, by identity; a damaged one counts as missing."""
    found = []
    for path in sorted((root / "_build/runs/sweep").glob("*/result.json")):
        with suppress(OSError, ValueError):
            found.append(load_run(path.parent))
    return by_identity(found)


def committed(root: Path) -> dict[str, Result]:
    """Read the results in the committed lists of runs, by identity."""
    lists = [p for p in sorted((root / "data/results").glob("*.json")) if not p.stem.startswith("bench-")]
    return by_identity(result for path in lists for result in load_committed(path))


def key_of(job: Job) -> str:
    """Return what the result of a job depends on, as one hash."""
    notebook = read_notebook(job.source)
    cells = [
        [cell.cell_type, cell.source, {name: cell.metadata.get(name) for name in ("tags", "mystnb")}]
        for cell in notebook.cells
    ]
    parts = [cells, job.parameters, job.code, job.data, [state(path) for path in job.inputs]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook; ValueError with its name if it cannot be read."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises several kinds
        raise ValueError(f"{path} is not a readable notebook: {str(error)[:200]}") from error


def key_file(output: Path) -> Path:
    """Return where the key of a notebook is that was begun; without its output it is not finished."""
    return output.with_name(output.name + ".key")


def left_key(output: Path) -> str | None:
    """Return the key that a notebook was begun with, or None."""
    return key_file(output).read_text() if key_file(output).exists() else None


def durations_file(root: Path, scale: str) -> Path:
    """Return where times and memory of the notebooks of a scale are kept."""
    return root / "_build/executed" / scale / "durations.json"


def durations(root: Path, scale: str) -> dict[str, dict[str, float]]:
    """Read seconds and peak_memory_gb of each notebook; a file that is none of these counts as missing."""
    try:
        kept = json.loads(durations_file(root, scale).read_text())
        names = ("seconds", "peak_memory_gb")
        return {notebook: {name: float(cost[name]) for name in names} for notebook, cost in kept.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def state(output: Path) -> list[Any]:
    """Return the key of an output with its time: a new one may differ under the same key."""
    return [left_key(output), output.stat().st_mtime_ns] if output.exists() else []


def reads_runs(chapter: Path) -> bool:
    """Return whether the code of a chapter, apart from its parameters, names `runs`."""
    cells = read_notebook(chapter).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    return re.search(r"\bruns\b", "\n".join(code[1:])) is not None  # the first has the parameters


def code_of(root: Path, source: Path, reads: Iterable[Path] = ()) -> str:
    """Digest the code that a notebook imports (mdrlib, and mdrbook if it names it) and the files it reads."""
    files = [*sorted((root / "mdrlib").rglob("*.py")), root / "requirements.txt", *reads]
    if "mdrbook" in source.read_text():
        files += sorted(p for p in (root / "book/mdrbook").rglob("*") if p.suffix in (".py", ".js", ".css"))
    return digest_of(files, root)


def stored_results(root: Path) -> list[Path]:
    """List what every chapter may read: committed results, recipes, and what has come of these so far."""
    read = [(root / "data/results", "*.*"), (root / "book/experiments/recipes", "*.yml")]
    read += [(root / "_build/runs" / FULL, "*/result.json")]
    return [path for folder, names in read for path in sorted(folder.glob(names))]


def digest_of(files: Iterable[Path], root: Path) -> str:
    """Return the sha256 of files, by name and content; hidden ones are left out."""
    digest = hashlib.sha256()
    for path in files:
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(root).parts):
            continue  # .ipynb_checkpoints, .DS_Store: what editors and systems leave behind
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read(root: Path, name: str) -> dict[str, Any]:
    """Read ci/<name>.yml."""
    return yaml.safe_load((root / "ci" / f"{name}.yml").read_text()) or {}


def relative(path: Path, folder: Path) -> str:
    """Return the path relative to a folder."""
    return Path(os.path.relpath(path, folder)).as_posix()
