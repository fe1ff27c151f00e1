"""Execute the experiment templates and the chapters with papermill, as many at a time as there are cores.

A chapter starts when the runs that it reads are done. If nothing has changed, nothing runs (see runs.py).
Failures are printed at the end. At scale full, whose runs are the benchmark recipes, runs follow each other,
and the files of a run are never deleted: an interrupted or failed run continues.
"""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import nbformat
import psutil

from kernel_server import KernelServer
from mdrlib.checkpoint import write_atomically
from mdrlib.datasets.download import data_root
from mdrlib.results import write_json
from notebooks import KEEP_MEMORY, Execution, Failure, execute_notebook, named, threads
from one_run import library
from runs import FULL, Job, data_here, durations, durations_file, is_done, jobs, key_file, key_of, left_key

ROOT = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
# What most notebooks import, once for all of them.
IMPORTED = ("mdrlib.experiment", "mdrbook.plots", "mdrbook.pictures", "mdrbook.tables", "myst_nb")
USUAL_GB = 1.5  # memory of a notebook of which nothing is known yet


def clean_page(notebook: nbformat.NotebookNode) -> None:
    """Remove from an executed chapter what its page must not show: machine paths, times, dead widgets."""
    for name in ("widgets", "papermill"):
        notebook.metadata.pop(name, None)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
        if "outputs" in cell:  # a widget needs a kernel: a page without one would show an empty box
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]


def lost_figure(notebook: nbformat.NotebookNode) -> str | None:
    """Name the first cell that should show a figure but shows only text.

    One with the tag needs-data may show nothing at all: then its caption is not shown either.
    """
    for cell in notebook.cells:
        if "needs-data" in cell.metadata.get("tags", []) and not cell.get("outputs"):
            continue
        shown = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        if "image" in cell.metadata.get("mystnb", {}) and not shown - {"text/plain"}:
            return f"{named(cell.execution_count, cell.source)}: it should show a figure and shows none"
    return None


def execute_one(job: Job, working: Path, variables: dict[str, str], fork: Callable | None) -> Execution:
    """Execute one notebook in `working`, then put it in its place whole, with its key."""
    key = key_of(job)
    if job.folder and job.folder.exists() and left_key(job.output) != key and not job.kept:
        shutil.rmtree(job.folder)  # else results of other code or another config would be taken for these
    job.output.unlink(missing_ok=True)
    for folder in (job.output.parent, working.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(key_file(job.output), lambda file: file.write(key.encode()))
    made = execute_notebook(job.source, working, job.parameters, job.source.parent, job.name, variables, fork)
    if made.failure is None:
        if job.folder is None:
            if lost := lost_figure(made.notebook):
                return replace(made, failure=lost)
            clean_page(made.notebook)
            nbformat.write(made.notebook, working)
        os.replace(working, job.output)
    return made


def execute(
    root: Path,
    scale: str,
    only: str | None = None,
    experiments: bool = False,
    dataset: str | None = None,
) -> list[Failure]:
    """Execute what is not up to date, and return the failures.

    Args:
        root: Root of the project.
        scale: "smoke", "quick" or "full".
        only: The one run, map or chapter to execute.
        experiments: Leave out the chapters.
        dataset: At scale full: the data set whose recipes are run; all by default.
    """
    root = root.resolve()
    if os.environ.get("MDR_DATA_ROOT"):  # kernels start in other folders: a relative path would miss
        os.environ["MDR_DATA_ROOT"] = str(data_root().absolute())
    if dataset is not None and scale != FULL:
        raise ValueError(f"a data set can be chosen only at scale {FULL}, not at {scale}: add SCALE={FULL}")
    found = jobs(root, scale, data_here(root, scale, dataset, only))
    if only is None and scale != FULL:
        delete_others(root / "_build/runs" / scale, {job.name for job in found})
    chosen = [job for job in found if job.name == (only or job.name) and (job.folder or not experiments)]
    if not chosen:
        raise ValueError(f"no notebook named {only!r}; choose one of {[job.name for job in found]}")
    failures = run_all(root, scale, chosen)
    for failure in failures:
        print(failure, flush=True)
    return failures


def delete_others(folder: Path, names: set[str]) -> None:
    """Delete the folders of runs that were left out or are no longer listed."""
    for path in folder.glob("*"):
        if path.name not in names and (path / "run.ipynb.key").exists():
            shutil.rmtree(path)


def run_all(root: Path, scale: str, chosen: list[Job]) -> list[Failure]:
    """Execute jobs in this order, each once those that it reads have ended; returns the failures."""
    count = 1 if scale == FULL else len(os.sched_getaffinity(0))
    variables = KEEP_MEMORY | {"MDR_PROGRESS": "lines"}
    if count > 1 and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = "1"  # threads of several kernels would wait for each other
    records = durations(root, scale)
    waiting, running, failures = list(chosen), {}, []
    free, working = free_gb(), root / "_build/working" / scale

    def said(job: Job, text: object) -> None:
        print(f"[{chosen.index(job) + 1}/{len(chosen)}] {job.name} {text}", flush=True)

    def fits(job: Job) -> bool:
        peaks = [
            records.get(its.name, {}).get("peak_memory_gb", USUAL_GB) for its in (job, *running.values())
        ]
        return not running or (sum(peaks) < free and peaks[0] < free_gb())

    def start(job: Job, fork: Callable | None) -> None:
        waiting.remove(job)
        if is_done(job):
            said(job, "up to date")
        else:
            said(job, "...")
            running[pool.submit(execute_one, job, working / f"{job.name}.ipynb", variables, fork)] = job

    with KernelServer(IMPORTED) as server, threads(count) as pool:
        fork = server.fork if sys.platform == "linux" and scale != FULL else None
        while waiting or running:
            to_come = {job.output for job in (*waiting, *running.values())}
            ready = [job for job in waiting if not to_come & set(job.inputs)]
            if ready and len(running) < count and fits(ready[0]):
                start(ready[0], fork)
                continue
            for future in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                job, made = running.pop(future), execution_of(future)
                said(job, made)
                if made.failure:
                    failures.append(Failure(job.name, made.failure, working / f"{job.name}.ipynb"))
                    continue
                cost = {"seconds": round(made.seconds, 1), "peak_memory_gb": round(made.peak_memory_gb, 2)}
                records[job.name] = cost
                write_json(durations_file(root, scale), records)
    return failures


def execution_of(future: Future) -> Execution:
    """Return what became of a notebook; what its folders or a full disk raised is the failure of it alone."""
    try:
        return future.result()
    except Exception as error:
        return Execution(None, f"{type(error).__name__}: {error}", 0.0, 0.0)


def free_gb() -> float:
    """Return the memory that is free for new processes."""
    return psutil.virtual_memory().available / 1e9


def main() -> int:
    """Execute from the command line; 1 if a notebook failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="quick")
    parser.add_argument("--only", metavar="NAME", help="one run, map or chapter")
    parser.add_argument("--experiments", action="store_true", help="leave out the chapters")
    parser.add_argument(
        "--set", metavar="NAME", help="at scale full: the recipes of cub, cars, sop or inshop"
    )
    words = parser.parse_args()
    return exit_status(lambda: execute(ROOT, words.scale, words.only, words.experiments, words.set))


def check_library() -> None:
    """Raise ValueError if Python finds an mdrlib other than that of this clone: all kernels would, too."""
    here, found = Path(__file__).resolve().parents[1] / "mdrlib", library().resolve()
    if found != here:
        raise ValueError(f"Python finds mdrlib in {found}, expected {here}: unset PYTHONPATH, or call make")


def exit_status(work: Callable[[], object]) -> int:
    """Call `work`: 0 if it returns nothing, 1 if it returns something or raises, which stderr tells."""
    # An exception ends the kernels too. A shell starts what is in the background of a script with SIGINT
    # ignored, so that Python would not raise KeyboardInterrupt by itself.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        check_library()
        return 1 if work() else 0
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:  # of the project's own folders: a disk that is full or cannot be written
        print(f"{error.strerror or error}: {error.filename or ROOT / '_build'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same call continues from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
