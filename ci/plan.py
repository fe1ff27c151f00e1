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
    runs with another key. inputs are the outputs of the jobs it reads; extra is whatever else its key needs.
    """

    name: str
    source: Path
    cwd: Path
    parameters: dict[str, Any]
    output: Path
    folder: Path | None = None
    inputs: tuple[Path, ...] = ()
    extra: str = ""


def all_jobs(root: Path, scale: str, fingerprints: dict[str, str | None]) -> list[Job]:
    """The runs, then their maps, then the chapters. `fingerprints`: optional data set -> None if not here.

    Raises ValueError for a scale that ci/experiments.yml does not have.
    """
    spec = yaml.safe_load((root / "ci/experiments.yml").read_text())
    if scale not in spec["scales"]:
        raise ValueError(f"no scale {scale!r} in ci/experiments.yml; it has {sorted(spec['scales'])}")
    runs_dir, templates = root / "_build/runs" / scale, root / "book/experiments"
    jobs: dict[str, Job] = {}

    def add(name: str, template: str, parameters: dict, reads: Sequence[str] = (), extra: str = "") -> None:
        source, folder = templates / f"{template}.ipynb", runs_dir / name
        inputs = tuple(jobs[read].output for read in reads)
        jobs[name] = Job(name, source, templates, parameters, folder / "run.ipynb", folder, inputs, extra)

    def seen_from(cwd: Path, folder: Path) -> str:
        return Path(os.path.relpath(folder, cwd)).as_posix()

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
    committed = digest_of(sorted((root / "data/results").glob("**/*.json")), root)
    for page in pages(root / "book/_toc.yml"):
        source = root / "book" / f"{page}.ipynb"
        if source.exists():
            parameters = {"scale": scale, "runs": seen_from(root / "book", runs_dir)}
            output = root / "_build/executed" / scale / f"{page}.ipynb"
            jobs[page] = Job(page, source, root / "book", parameters, output, None, made, committed)
    return list(jobs.values())


def pages(toc: Path) -> list[str]:
    """The pages of a _toc.yml in reading order, as paths without suffix relative to its folder."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, list):
            for item in node:
                yield from walk(item)
        elif isinstance(node, dict):
            for key, value in node.items():
                if key in ("root", "file"):
                    yield re.sub(r"\.(ipynb|md)$", "", value)
                elif isinstance(value, list | dict):
                    yield from walk(value)

    return list(walk(yaml.safe_load(toc.read_text())))


def digest_of(files: list[Path], root: Path) -> str:
    """sha256 of files, by name and content."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(job: Job, sources: str) -> str:
    """What the job's result depends on, as one hash. `sources`: the hash of library and requirements."""
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


def fingerprint_of(root: Path, dataset: str) -> str | None:
    """The fingerprint of an optional data set, None (and a line that says why) if it cannot be had."""
    probe = subprocess.run([sys.executable, "-c", PROBE, dataset], cwd=root, capture_output=True, text=True)
    last = (probe.stdout.strip().splitlines() or [""])[-1]
    if probe.returncode == 3:
        print(f"{dataset} cannot be had here, its runs are left out: {last}", flush=True)
        return None
    if probe.returncode:
        raise RuntimeError(f"loading {dataset} failed: {(probe.stderr.strip().splitlines() or [''])[-1]}")
    return last
