"""What there is to execute: the notebooks, their parameters, what each reads, and when it is up to date."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

FULL = "full"  # the scale of the benchmarks: its runs are the recipes, hours on a GPU each

# Asks for a data set in its own process, so that this one need not import torch. 3: it cannot be had here.
PROBE = """
import sys
from mdrlib.datasets import load
try:
    print(load(sys.argv[1], "train").fingerprint)
except OSError as error:
    print(error)
    sys.exit(3)
"""


@dataclass(frozen=True)
class Job:
    """One notebook to execute.

    output is the executed notebook. folder, if any, belongs to this job alone and is emptied before the job
    runs with another key, unless it is kept: it may hold hours of work. inputs are the outputs of the jobs it
    reads; extra is whatever else its key needs.
    """

    name: str
    source: Path
    cwd: Path
    parameters: dict[str, Any]
    output: Path
    folder: Path | None = None
    inputs: tuple[Path, ...] = ()
    extra: str = ""
    kept: bool = False


def all_jobs(root: Path, scale: str, fingerprints: dict[str, str | None]) -> list[Job]:
    """The runs, then their maps, then the chapters; at scale "full" a run for each recipe, and nothing else.

    fingerprints: optional data set -> None if not here. Recipes for a set that it does not name are left out.
    Raises ValueError for a scale that ci/experiments.yml does not have.
    """
    spec = yaml.safe_load((root / "ci/experiments.yml").read_text())
    if scale not in (*spec["scales"], FULL):
        raise ValueError(
            f"no scale {scale!r} in ci/experiments.yml; it has {sorted(spec['scales'])} and {FULL}"
        )
    runs_dir, templates = root / "_build/runs" / scale, root / "book/experiments"
    jobs: dict[str, Job] = {}

    def add(name: str, template: str, parameters: dict, reads: Sequence[str] = (), extra: str = "") -> None:
        source, folder = templates / f"{template}.ipynb", runs_dir / name
        output, inputs, kept = folder / "run.ipynb", tuple(jobs[read].output for read in reads), scale == FULL
        jobs[name] = Job(name, source, templates, parameters, output, folder, inputs, extra, kept)

    def seen_from(cwd: Path, folder: Path) -> str:
        return Path(os.path.relpath(folder, cwd)).as_posix()

    if scale == FULL:
        for name, config in recipes(root).items():
            if config["dataset"] in fingerprints:
                parameters = {"config": config, "out_dir": seen_from(templates, runs_dir / name)}
                add(name, "train_on_photographs", parameters, extra=fingerprints[config["dataset"]])
        return list(jobs.values())
    for name, run in spec["runs"].items():
        fingerprint = fingerprints[run["needs"]] if "needs" in run else ""
        if fingerprint is not None:
            config = run["config"] | spec["scales"][scale].get(run["config"]["dataset"], {})
            parameters = {"config": config, "out_dir": seen_from(templates, runs_dir / name)}
            add(name, run["template"], parameters, extra=fingerprint)
    for name, made in spec.get("maps", {}).items():
        reads = [run for run in made["of"] if run in jobs]
        if reads:
            folders = [seen_from(templates, runs_dir / run) for run in reads]
            add(name, made["template"], {"runs": folders}, reads)
    made = tuple(job.output for job in jobs.values())
    # Chapters also read what is committed, the recipes, and what has come of these so far.
    read = [(root / "data/results", "*.*"), (root / "book/experiments/recipes", "*.yml")]
    read += [(root / "_build/runs" / FULL, "*/result.json")]
    files = digest_of([path for folder, names in read for path in sorted(folder.glob(names))], root)
    for page in pages(root / "book/_toc.yml"):
        source = root / "book" / f"{page}.ipynb"
        if source.exists():
            parameters = {"scale": scale, "runs": seen_from(root / "book", runs_dir)}
            output = root / "_build/executed" / scale / f"{page}.ipynb"
            jobs[page] = Job(page, source, root / "book", parameters, output, None, made, files)
    return list(jobs.values())


def recipes(root: Path) -> dict[str, dict[str, Any]]:
    """The config of each recipe of the benchmarks by name."""
    found = sorted((root / "book/experiments/recipes").glob("*.yml"), key=lambda path: path.stem)
    return {path.stem: yaml.safe_load(path.read_text()) for path in found}


def pages(toc: Path) -> list[str]:
    """The pages of a _toc.yml in reading order, as paths without suffix relative to its folder."""
    return list(files_of(yaml.safe_load(toc.read_text())))


def files_of(node: Any) -> Iterator[str]:
    """The pages below a node of a _toc.yml, as `pages` gives them."""
    if isinstance(node, list):
        for item in node:
            yield from files_of(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("root", "file"):
                yield re.sub(r"\.(ipynb|md)$", "", value)
            elif isinstance(value, list | dict):
                yield from files_of(value)


def library(root: Path) -> list[Path]:
    """The sources of mdrlib, sorted: modules, and the scripts and styles of its live pictures."""
    return sorted(path for end in ("py", "js", "css") for path in (root / "mdrlib").glob(f"**/*.{end}"))


def digest_of(files: list[Path], root: Path) -> str:
    """sha256 of files, by name and content."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(job: Job, sources: str) -> str:
    """What the job's result depends on, as one hash. `sources`: the hash of library and requirements.

    Of a job whose folder is kept it is the parameters and the data alone: a better docstring or figure must
    not cost hours. Its result.json names the commit that made it.
    """
    if job.kept:
        return hashlib.sha256(json.dumps([job.parameters, job.extra], sort_keys=True).encode()).hexdigest()
    notebook = nbformat.read(job.source, as_version=4)
    cells = [
        [cell.cell_type, cell.source, {name: cell.metadata.get(name) for name in ("tags", "mystnb")}]
        for cell in notebook.cells
    ]

    def state(output: Path) -> str:  # with its time: an input made again may differ under the same key
        key = key_file(output)
        return f"{key.read_text()} {output.stat().st_mtime_ns}" if key.exists() else "missing"

    parts = [cells, job.parameters, sources, [state(path) for path in job.inputs], job.extra]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def key_file(output: Path) -> Path:
    """Where the key of a finished notebook is; with .running appended, that of one begun."""
    return output.with_name(output.name + ".key")


def optional_sets(root: Path) -> dict[str, str | None]:
    """The fingerprint of each optional data set, None (and a line that says why) if it cannot be had."""
    spec = yaml.safe_load((root / "ci/experiments.yml").read_text())
    found = {}
    for name in sorted({run["needs"] for run in spec["runs"].values() if "needs" in run}):
        there, said = probe(root, name)
        found[name] = said if there else None
        if not there:
            print(f"{name} cannot be had here, its runs are left out: {said}", flush=True)
    return found


def benchmark_sets(root: Path, dataset: str | None, only: str | None) -> dict[str, str | None]:
    """The fingerprint of each data set of the recipes: of one set, of the one recipe `only`, or of all.

    Raises ValueError for a set or a recipe that is none, and for sets that are not here, with what gets them.
    """
    known = recipes(root)
    of_set = {name: config for name, config in known.items() if dataset in (None, config["dataset"])}
    if not of_set:
        sets = sorted({config["dataset"] for config in known.values()})
        raise ValueError(f"no recipe for a data set {dataset!r}; there are recipes for {sets}")
    if only is not None and only not in of_set:
        raise ValueError(f"no recipe named {only!r}; there are {list(of_set)}")
    wanted = sorted({config["dataset"] for name, config in of_set.items() if only in (None, name)})
    probed = {name: probe(root, name) for name in wanted}
    missing = [said for there, said in probed.values() if not there]
    if missing:
        raise ValueError("\n".join(missing))
    return {name: said for name, (_, said) in probed.items()}


def probe(root: Path, dataset: str) -> tuple[bool, str]:
    """Whether a data set is here, and its fingerprint, or else what `mdrlib.datasets.load` says.

    Raises RuntimeError if it is here and damaged.
    """
    done = subprocess.run([sys.executable, "-c", PROBE, dataset], cwd=root, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"loading {dataset} failed: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return done.returncode == 0, (done.stdout.strip().splitlines() or [""])[-1]
