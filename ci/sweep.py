"""Run the experiment matrix, ci/ablations.yml, here or on a running Dask cluster.

Papermill executes each run from book/experiments/ablation.ipynb into _build/runs/sweep/<name>/. You can stop
a sweep at any time: the same call continues it, and two sweeps at once share the work. Results committed in
data/results count as done. Failures are printed at the end.
"""

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from execute import exit_status
from mdrlib.datasets.download import data_root
from notebooks import Failure, threads
from one_run import failed, make_run, what_is_here
from runs import Job, committed, is_done, swept
from studies import Cell, matrix, source_of, sweep_job

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.5  # between two looks at what another sweep holds
# Takes jobs by name and gives, as they end, the name of each and its outcome (see `make_run`).
Maker = Callable[[dict[str, Job]], Iterator[tuple[str, dict[str, Any]]]]


def sweep(
    root: Path, wanted: list[Cell], here: dict[str, Any], make: Maker, again: bool = False
) -> list[Failure]:
    """Make those of `wanted` that are not done yet, and return the failures.

    Args:
        root: Root of the project.
        wanted: Runs of the matrix.
        here: What `what_is_here` says of the machines that make them; runs on missing data sets are left out.
        make: Makes them.
        again: Make those too whose results are committed.
    """
    for name, why in here["missing"].items():
        print(f"{name} is not available, its runs are left out: {why}", flush=True)
    data = here["data"]
    possible = [
        sweep_job(root, its.config, data[source_of(its.config)])
        for its in wanted
        if source_of(its.config) in data
    ]
    results = swept(root) if again else committed(root) | swept(root)
    left = {job.name: job for job in possible if not is_done(job, results)}
    print(f"{len(possible)} runs: {len(possible) - len(left)} are done, {len(left)} are left", flush=True)
    failures, began = [], time.monotonic()
    for count, (name, outcome) in enumerate(make(left), 1):
        cost = f"{outcome['seconds']:.0f} s, peak memory {outcome['peak_memory_gb']:.1f} GB"
        said = {"done": f"done in {cost}", "failed": f"FAILED after {cost}", "there": "made by another sweep"}
        rest = (time.monotonic() - began) / count * (len(left) - count)
        after = f"; {duration(rest)}" if rest else ""
        print(f"[{count}/{len(left)}] {name} {said[outcome['state']]}{after}", flush=True)
        if outcome["failure"]:
            failures.append(Failure(name, outcome["failure"], left[name].folder / "failed.ipynb"))
    for failure in failures:
        print(failure, flush=True)
    return failures


def duration(seconds: float) -> str:
    """Say about how long that is."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.1f} {unit} left"
    return f"about {seconds:.0f} s left"


def on_this_machine(
    root: Path, template: str, count: int, gpus: Sequence[str], left: dict[str, Job]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make jobs as a `Maker`: `count` at a time, each with one thread or with a GPU of its own.

    Runs that another sweep is at are looked at again after the others, until they are made.
    """
    folder = root / "_build/runs/sweep"
    folder.mkdir(parents=True, exist_ok=True)
    locks = [(gpu, FileLock(folder / f".gpu-{gpu}-{gpus[:k].count(gpu)}")) for k, gpu in enumerate(gpus)]
    names, running, elsewhere = deque(left), {}, set()
    with threads(count) as pool:
        while names or running:
            while names and len(running) < count:
                gpu, lock = take_gpu(locks)
                if locks and lock is None:  # other sweeps have the GPUs
                    time.sleep(0 if running else POLL_SECONDS)
                    break
                job = left[names.popleft()]
                variables = {"CUDA_VISIBLE_DEVICES": gpu} if lock else {}
                words = (template, job.config.to_dict(), job.folder, False, variables)
                running[pool.submit(make_run, *words)] = job.name, lock
            for future in futures.wait(running, POLL_SECONDS, futures.FIRST_COMPLETED).done:
                name, lock = running.pop(future)
                outcome = failed(future.exception()) if future.exception() else future.result()
                if lock:
                    lock.release()
                if outcome["state"] != "elsewhere":
                    yield name, outcome
                    continue
                time.sleep(POLL_SECONDS if name in elsewhere else 0)
                elsewhere.add(name)
                names.append(name)


def take_gpu(locks: Sequence[tuple[str, FileLock]]) -> tuple[str, FileLock | None]:
    """Lock a GPU that no run of this or another sweep has; its name and lock, or "" and None."""
    for gpu, lock in locks:
        try:
            if not lock.is_locked:
                lock.acquire(timeout=0)
                return gpu, lock
        except Timeout:
            continue
    return "", None


def gpus_here() -> list[str]:
    """List the GPUs that torch sees, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(number) for number in range(count)])[:count]


def run(
    root: Path,
    study: str | None = None,
    smoke: bool = False,
    jobs: int | None = None,
    dask: str | None = None,
    again: bool = False,
) -> list[Failure]:
    """Do what the command does; see its help for the arguments."""
    root = root.resolve()
    if os.environ.get("MDR_DATA_ROOT"):  # kernels start in other folders: a relative path would miss
        os.environ["MDR_DATA_ROOT"] = str(data_root().absolute())
    wanted = matrix(root, study, smoke)
    sources = sorted({source_of(cell.config) for cell in wanted})
    template = (root / "book/experiments/ablation.ipynb").read_text()
    if dask:
        if jobs is not None:
            raise ValueError("a cluster's workers decide how many runs execute at a time: leave --jobs out")
        try:
            from cluster import connect, on_cluster
        except ImportError as error:
            raise ValueError("a cluster needs dask and distributed: pip install 'mdrlib[cluster]'") from error
        client, here = connect(dask, sources)
        with client:  # what is queued is forgotten at its end; what a worker is at ends and is not recorded
            return sweep(root, wanted, here, partial(on_cluster, client, here, template), again)
    gpus = gpus_here()
    jobs = jobs or len(gpus) or len(os.sched_getaffinity(0))
    if gpus:  # more jobs than GPUs share them evenly
        gpus = [gpus[number % len(gpus)] for number in range(jobs)]
    print(f"{jobs} at a time, " + (f"on GPU {', '.join(gpus)}" if gpus else "on a core each"), flush=True)
    make = partial(on_this_machine, root, template, jobs, gpus)
    return sweep(root, wanted, what_is_here(sources), make, again)


def main() -> int:
    """Sweep from the command line; 1 if a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", metavar="NAME", help="one study of ci/ablations.yml; by default all")
    parser.add_argument("--smoke", action="store_true", help="seconds a run, on generated glyphs, for tests")
    parser.add_argument(
        "--jobs", type=at_least_one, metavar="N", help="runs at a time; by default one per GPU, or per core"
    )
    parser.add_argument("--dask", metavar="ADDRESS", help="tcp://host:port of a Dask scheduler")
    parser.add_argument("--again", action="store_true", help="make those too whose results are committed")
    words = parser.parse_args()
    return exit_status(lambda: run(ROOT, **vars(words)))


def at_least_one(text: str) -> int:
    """Read a whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
