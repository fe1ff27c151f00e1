"""One run of the matrix, on any machine: under a lock, in its own kernel.

These functions travel to the workers of a cluster, which have mdrlib and its data and need not have ci/.
"""

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock, Timeout

from notebooks import KEEP_MEMORY, execute_notebook


def make_run(
    template: str,
    config: dict[str, Any],
    folder: Path,
    wait: bool = False,
    variables: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run `config` in `folder`, or continue it; `template` is the text of its notebook.

    The lock of a run belongs to a process: the lock of a killed process is free at once. With `wait`, wait
    for another process that executes this run.

    Returns:
        An `outcome`. Its state is "done", "failed", "there" (done by another process) or "elsewhere"
        (another process executes it).
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock").acquire(timeout=-1 if wait else 0):
            if (folder / "result.json").exists():
                return found(folder)
            for left in folder.glob(".*.*"):  # half written by a process that was killed
                if left.is_file():  # and no .ipynb_checkpoints of a person
                    left.unlink()
            return execute_template(template, config, folder, variables or {})
    except Timeout:
        return outcome("elsewhere")


def outcome(
    state: str, failure: str | None = None, seconds: float = 0.0, peak_memory_gb: float = 0.0
) -> dict[str, Any]:
    """Return what became of a run, as JSON has it."""
    return {"state": state, "failure": failure, "seconds": seconds, "peak_memory_gb": peak_memory_gb}


def failed(error: BaseException) -> dict[str, Any]:
    """Return the outcome of a run that an error ended from outside: a full disk, a worker that died."""
    return outcome("failed", f"{type(error).__name__}: {error}")


def found(folder: Path) -> dict[str, Any]:
    """Return the outcome of a run that has a result.json: "there", or "failed" for a damaged one."""
    from mdrlib.results import load_run

    try:
        load_run(folder)
    except (OSError, ValueError) as error:
        return outcome("failed", f"{error}; delete that file to make the run again")
    return outcome("there")


def execute_template(
    template: str, config: dict[str, Any], folder: Path, variables: dict[str, str]
) -> dict[str, Any]:
    """Execute the template into folder/run.ipynb, or folder/failed.ipynb; what `make_run` returns of it."""
    # The kernel is to have the library that this process would import.
    paths = [str(library().parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    own = {
        "MDR_PROGRESS": "off",
        # One thread a run: those of several would wait for each other.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path)),
    }
    working, parameters = folder / "failed.ipynb", {"config": config, "out_dir": str(folder)}
    notebook = nbformat.reads(template, as_version=4)
    made = execute_notebook(notebook, working, parameters, variables=KEEP_MEMORY | own | variables)
    failure = made.failure
    if failure is None and not (folder / "result.json").exists():
        failure = "the template left no result.json"
    if failure is None:
        working.replace(folder / "run.ipynb")
    return outcome("failed" if failure else "done", failure, made.seconds, made.peak_memory_gb)


def library() -> Path:
    """Return the folder of mdrlib; ModuleNotFoundError says what to do if it is missing."""
    found = importlib.util.find_spec("mdrlib")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "mdrlib is not installed: `pip install .` in a clone, or set PYTHONPATH to it"
        )
    return Path(found.submodule_search_locations[0])


def sources() -> str:
    """Return 16 hex digits of the sha256 of mdrlib's files here."""
    digest = hashlib.sha256()
    for path in sorted(library().rglob("[!.]*.py")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        digest.update(f"{path.relative_to(library()).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def what_is_here(sources: Sequence[str]) -> dict[str, Any]:
    """Return {"data": source -> split -> fingerprint, "missing": source -> why it is not available}.

    A source is a data set, or what `studies.source_of` makes of a folder and a class split.
    """
    from mdrlib.datasets import load, split_names

    data, missing = {}, {}
    for source in sources:
        name, _, class_split = source.partition("/")
        name, _, folder = name.partition(":")
        of = folder or None, int(class_split or 0)
        try:
            data[source] = {part: load(name, part, *of).fingerprint for part in split_names(name, of[0])}
        except (OSError, ImportError) as error:
            missing[source] = str(error)
    return {"data": data, "missing": missing}


def on_worker(name: str, template: str, config: dict[str, Any], expected: str) -> dict[str, Any]:
    """Call `make_run` in the scratch folder of a Dask worker, and delete it: what counts travels back.

    The outcome has "notebook" too, and of a finished run "result" (result.json) and "history" (history.csv).
    A worker with other `sources` of mdrlib than expected fails it: it may have joined after all were asked.
    """
    from distributed import get_worker

    if sources() != expected:
        text = f"this worker has another mdrlib: its sources are {sources()}, expected {expected}"
        return outcome("failed", text) | {"notebook": ""}
    folder = Path(get_worker().local_directory) / name
    made = make_run(template, config, folder, wait=True)
    notebook = folder / ("failed.ipynb" if made["failure"] else "run.ipynb")
    made["notebook"] = notebook.read_text() if notebook.exists() else ""
    if made["failure"] is None:
        made["result"] = json.loads((folder / "result.json").read_text())
        made["history"] = (folder / "history.csv").read_text()
    shutil.rmtree(folder, ignore_errors=True)
    return made
