"""One run of the matrix, wherever it happens: under a lock, in a kernel of its own, on a GPU of its own.

These functions travel to the workers of a cluster, which have mdrlib and its data and need not have ci/.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock, Timeout

from notebooks import execute_notebook, peak_memory

POLL_SECONDS = 0.5  # between two looks for a free GPU


def make_run(
    template: str, config: dict[str, Any], folder: Path, wait: bool = False, gpus: Sequence[str] = ()
) -> dict[str, Any]:
    """Make the run of `config` in `folder`, or go on with it; `template` is the text of its notebook.

    Returns {"state": "done", "failed", "there" (made meanwhile by another) or "elsewhere" (another process
    holds its lock; with wait it is waited for), "seconds", "peak_memory_gb", "failure": text or None}.
    The lock belongs to the process: that of one that was killed is free at once.
    gpus: names for CUDA_VISIBLE_DEVICES, one process each.
    """
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    outcome: dict[str, Any] = {"state": "elsewhere", "seconds": 0.0, "peak_memory_gb": 0.0, "failure": None}
    try:
        with FileLock(folder / "lock").acquire(timeout=-1 if wait else 0), one_gpu(gpus, folder.parent):
            if (folder / "result.json").exists():
                return outcome | {"state": "there"}
            for left in folder.glob(".*"):  # half written by a process that was killed
                left.unlink()
            with peak_memory() as peak:
                failure = execute_template(template, config, folder)
    except Timeout:
        return outcome
    outcome |= {"state": "failed" if failure else "done", "failure": failure}
    return outcome | {"seconds": time.monotonic() - began, "peak_memory_gb": peak[0]}


def execute_template(template: str, config: dict[str, Any], folder: Path) -> str | None:
    """Execute the template into folder/run.ipynb; what went wrong, with folder/failed.ipynb, or None."""
    os.environ["MDR_PROGRESS"] = "off"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one a process: those of several would wait for each other
    # The kernel is to have the library that this process would import.
    paths = [str(library().parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
    working = folder / "failed.ipynb"
    notebook = nbformat.reads(template, as_version=4)
    made = execute_notebook(notebook, working, {"config": config, "out_dir": str(folder)})
    if isinstance(made, str):
        return made
    if not (folder / "result.json").exists():
        return "the template left no result.json"
    working.replace(folder / "run.ipynb")
    return None


@contextmanager
def one_gpu(gpus: Sequence[str], folder: Path) -> Iterator[None]:
    """Show the kernels of this process one GPU that no other process of a sweep in `folder` has."""
    if not gpus:
        yield
        return
    locks = [FileLock(folder / f".gpu-{gpu}-{gpus[:k].count(gpu)}") for k, gpu in enumerate(gpus)]
    while (free := next((k for k, lock in enumerate(locks) if try_lock(lock)), None)) is None:
        time.sleep(POLL_SECONDS)
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[free]
    try:
        yield
    finally:
        locks[free].release()


def try_lock(lock: FileLock) -> bool:
    """Take the lock if it is free; whether it was."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def library() -> Path:
    """The folder of mdrlib. Raises ModuleNotFoundError saying what to do."""
    found = importlib.util.find_spec("mdrlib")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "there is no mdrlib here: `pip install .` in a clone, or set PYTHONPATH to it"
        )
    return Path(found.submodule_search_locations[0])


def sources() -> str:
    """16 hex digits of the sha256 of mdrlib's files here."""
    digest = hashlib.sha256()
    for path in sorted(library().rglob("*.py")):
        digest.update(f"{path.relative_to(library()).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def what_is_here(datasets: Sequence[str]) -> dict[str, Any]:
    """{"data": data set -> fingerprint by split, "missing": data set -> why it cannot be had}"""
    from mdrlib.datasets import load

    data, missing = {}, {}
    for name in datasets:
        try:
            data[name] = {split: load(name, split).fingerprint for split in ("train", "test")}
        except (OSError, ImportError) as error:
            missing[name] = str(error)
    return {"data": data, "missing": missing}


def on_worker(name: str, template: str, config: dict[str, Any], expected: str) -> dict[str, Any]:
    """`make_run` in the scratch folder of a Dask worker, deleted afterwards: what counts travels back.

    Adds "result" (result.json), "history" (history.csv) and "notebook" to the outcome. A worker with other
    sources of mdrlib than `expected` fails it: it may have joined after the others were asked.
    """
    from distributed import get_worker

    if sources() != expected:
        text = f"this worker's mdrlib is another: its sources are {sources()}, {expected} are wanted"
        return {"state": "failed", "seconds": 0.0, "peak_memory_gb": 0.0, "failure": text, "notebook": ""}
    folder = Path(get_worker().local_directory) / name
    outcome = make_run(template, config, folder, wait=True)
    failed = outcome["state"] == "failed"
    notebook = folder / ("failed.ipynb" if failed else "run.ipynb")
    outcome["notebook"] = notebook.read_text() if notebook.exists() else ""
    if not failed:
        outcome["result"] = json.loads((folder / "result.json").read_text())
        outcome["history"] = (folder / "history.csv").read_text()
    shutil.rmtree(folder)
    return outcome
