"""Execute the experiment templates and the chapters with papermill, a fresh kernel each.

An executed notebook is keyed by its cells, its parameters, mdrlib's sources, requirements.txt and what it
reads; nothing changed, nothing runs. At scale full, whose runs are the recipes of the benchmarks, the key is
parameters and data alone, and what a run has left is never deleted: a run that was interrupted or failed goes
on. All failures are collected and told at the end.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat

from notebooks import Failure, execute_notebook, peak_memory
from plan import FULL, Job, all_jobs, benchmark_sets, digest_of, key_file, key_of, library, optional_sets

ROOT = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"


def clean_page(notebook: nbformat.NotebookNode) -> None:
    """Take from an executed chapter what its page must not show: machine paths, times, dead widgets."""
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


def execute_one(job: Job, key: str, working: Path) -> Failure | None:
    """Execute one notebook in `working`, then put it in its place whole, with its key."""
    begun = key_file(job.output).with_name(key_file(job.output).name + ".running")
    resumes = begun.exists() and begun.read_text() == key
    if job.folder and job.folder.exists() and not resumes and not job.kept:
        shutil.rmtree(job.folder)  # else results of other code or another config would be taken for these
    for folder in (job.output.parent, working.parent):
        folder.mkdir(parents=True, exist_ok=True)
    begun.write_text(key)
    # A chapter's prints belong on its page.
    made = execute_notebook(job.source, working, job.parameters, job.cwd, live=job.folder is not None)
    if isinstance(made, str):
        return Failure(job.name, made, working)
    if job.folder is None:
        clean_page(made)
        nbformat.write(made, working)
    os.replace(working, job.output)
    key_file(job.output).write_text(key)
    begun.unlink()
    return None


def execute(
    root: Path,
    scale: str,
    only: str | None = None,
    experiments: bool = False,
    dataset: str | None = None,
) -> list[Failure]:
    """Execute what is not up to date: everything, the job named `only`, or the `experiments` alone.

    dataset: the benchmark whose recipes are run at scale full; all by default.
    """
    root = root.resolve()
    os.environ["MDR_PROGRESS"] = "lines"
    if "MDR_DATA_ROOT" in os.environ:  # kernels start in other folders: a relative path would miss
        os.environ["MDR_DATA_ROOT"] = os.path.abspath(os.environ["MDR_DATA_ROOT"])
    if dataset is not None and scale != FULL:
        raise ValueError(f"a data set is chosen at scale {FULL} alone, not at {scale}: add SCALE={FULL}")
    sets = benchmark_sets(root, dataset, only) if scale == FULL else optional_sets(root)
    jobs = all_jobs(root, scale, sets)
    if only is None and scale != FULL:
        names = {job.name for job in jobs}
        for folder in (root / "_build/runs" / scale).glob("*"):  # of runs left out or no longer listed
            if folder.name not in names and list(folder.glob("run.ipynb.key*")):
                shutil.rmtree(folder)
    chosen = [job for job in jobs if job.name == (only or job.name) and (job.folder or not experiments)]
    if not chosen:
        raise ValueError(f"no notebook named {only!r}; there are {[job.name for job in jobs]}")
    sources = digest_of([*library(root), root / "requirements.txt"], root)
    durations_file = root / "_build/executed" / scale / "durations.json"
    durations = json.loads(durations_file.read_text()) if durations_file.exists() else {}
    failures = []
    for number, job in enumerate(chosen, 1):
        label = f"[{number}/{len(chosen)}] {job.name}"
        key, done = key_of(job, sources), key_file(job.output)
        if job.output.exists() and done.exists() and done.read_text() == key:
            print(f"{label} up to date", flush=True)
            continue
        print(f"{label} ...", flush=True)
        began = time.monotonic()
        with peak_memory() as peak:
            failure = execute_one(job, key, root / "_build/working" / scale / f"{job.name}.ipynb")
        seconds = time.monotonic() - began
        ended = "FAILED after" if failure else "done in"
        print(f"{label} {ended} {seconds:.0f} s, peak memory {peak[0]:.1f} GB", flush=True)
        if failure:
            failures.append(failure)
            continue
        durations[job.name] = {"seconds": round(seconds, 1), "peak_memory_gb": round(peak[0], 2)}
        durations_file.parent.mkdir(parents=True, exist_ok=True)
        durations_file.write_text(json.dumps(durations, indent=1))
    for failure in failures:
        print(failure, flush=True)
    return failures


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


def exit_status(work: Callable[[], object]) -> int:
    """Call `work`: 0 if it returns nothing, 1 if something, or if it raises what a line on stderr tells."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception ends the kernel too
    try:
        return 1 if work() else 0
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same call goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
