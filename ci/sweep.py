"""Make the runs of the experiment matrix, ci/ablations.yml, here or on a Dask cluster that is there already.

Each is executed by papermill from book/experiments/ablation.ipynb into _build/runs/sweep/<name>/, where it is
found again: stopped at any time, the same call goes on, and two sweeps at once share the work. What is
committed in data/results counts as done. Failures are collected and told at the end.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from joblib.externals.loky import get_reusable_executor

from execute import exit_status
from matrix import Cell, cells, committed, finished, saw
from notebooks import Failure
from one_run import make_run, what_is_here

ROOT = Path(__file__).resolve().parents[1]
# Takes runs by name and gives, as they end, the name of each and its outcome (see `make_run`).
Maker = Callable[[dict[str, Cell]], Iterator[tuple[str, dict[str, Any]]]]


def sweep(
    root: Path, wanted: list[Cell], here: dict[str, Any], make: Maker, again: bool = False
) -> list[Failure]:
    """Make those of `wanted` that are not done yet; returns the failures.

    here: what `what_is_here` says of the machines that make them; runs on data sets they lack are left out.
    again: make those also whose results are committed.
    """
    for name, why in here["missing"].items():
        print(f"{name} cannot be had here, its runs are left out: {why}", flush=True)
    possible = {cell.name(here["data"]): cell for cell in wanted if cell.config.dataset in here["data"]}
    done = finished(root / "_build/runs/sweep")
    if not again:
        done = committed(root) | done
    left = {name: cell for name, cell in possible.items() if not is_done(cell, done, here["data"])}
    print(
        f"{len(possible)} runs: {len(possible) - len(left)} are done, {len(left)} are to be made", flush=True
    )
    failures, began, count = [], time.monotonic(), 0
    for name, outcome in make(left):
        count += 1
        seconds, memory = outcome["seconds"], outcome["peak_memory_gb"]
        said = {
            "done": f"done in {seconds:.0f} s, peak memory {memory:.1f} GB",
            "failed": f"FAILED after {seconds:.0f} s, peak memory {memory:.1f} GB",
            "there": "made by another sweep",
        }[outcome["state"]]
        rest = (time.monotonic() - began) / count * (len(left) - count)
        print(f"[{count}/{len(left)}] {name} {said}{'; ' + duration(rest) if rest else ''}", flush=True)
        if outcome["failure"]:
            notebook = root / "_build/runs/sweep" / name / "failed.ipynb"
            failures.append(Failure(name, outcome["failure"], notebook))
    for failure in failures:
        print(failure, flush=True)
    return failures


def is_done(cell: Cell, done: dict[str, Any], fingerprints: dict[str, dict[str, str]]) -> bool:
    """Whether there is a result of this Config and of these images."""
    result = done.get(cell.identity)
    return result is not None and saw(result, fingerprints)


def duration(seconds: float) -> str:
    """About how long that is, in words."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.1f} {unit} left"
    return f"about {seconds:.0f} s left"


def on_this_machine(
    root: Path, template: str, jobs: int, gpus: Sequence[str], left: dict[str, Cell]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A `Maker`: `jobs` processes at a time, each with one thread or with a GPU of its own.

    Runs that another sweep is at are looked at again at the end, and waited for.
    """
    # loky's executor and not joblib.Parallel: interrupted, it ends its processes with their kernels.
    # Those of a sweep that was killed make the run that they are at, and go after a minute without another.
    # A group of their own: what a terminal sends at Ctrl-C would have them report a failure while they are
    # being killed, and a report cut off in the middle leaves this process waiting for its end.
    executor = get_reusable_executor(max_workers=jobs, timeout=60, initializer=os.setpgrp)
    elsewhere = left
    try:
        for wait in (False, True):
            names, elsewhere, running = iter(elsewhere), {}, {}
            while True:
                for name in islice(names, jobs - len(running)):
                    words = (template, left[name].parameters(), root / "_build/runs/sweep" / name, wait, gpus)
                    running[executor.submit(make_run, *words)] = name
                if not running:
                    break
                for future in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                    name, outcome = running.pop(future), future.result()
                    if outcome["state"] == "elsewhere":
                        elsewhere[name] = left[name]
                    else:
                        yield name, outcome
    finally:
        executor.shutdown(wait=True, kill_workers=True)


def gpus_here() -> list[str]:
    """The GPUs that torch sees, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(number) for number in range(count)])[:count]


def run(
    root: Path, study: str | None, smoke: bool, jobs: int | None, dask: str | None, again: bool
) -> list[Failure]:
    """What the command does; see its help."""
    root = root.resolve()
    if "MDR_DATA_ROOT" in os.environ:  # kernels start in other folders: a relative path would miss
        os.environ["MDR_DATA_ROOT"] = os.path.abspath(os.environ["MDR_DATA_ROOT"])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the processes start
    wanted = cells(root, study, smoke)
    datasets = sorted({cell.config.dataset for cell in wanted})
    template = (root / "book/experiments/ablation.ipynb").read_text()
    if dask:
        if jobs is not None:
            raise ValueError("a cluster's workers decide how many runs go on at a time: leave --jobs out")
        try:
            from cluster import connect, on_cluster
        except ImportError as error:
            raise ValueError("a cluster needs dask and distributed: pip install mdrlib[cluster]") from error
        client, here = connect(dask, datasets)
        with client:  # what is queued is forgotten at its end; what a worker is at ends and is not recorded
            return sweep(
                root,
                wanted,
                here,
                partial(on_cluster, client, here, root / "_build/runs/sweep", template),
                again,
            )
    gpus = gpus_here()
    jobs = jobs or len(gpus) or len(os.sched_getaffinity(0))
    if gpus:  # more jobs than GPUs share them evenly
        gpus = [gpus[number % len(gpus)] for number in range(jobs)]
    print(f"{jobs} at a time, " + (f"on GPU {', '.join(gpus)}" if gpus else "on a core each"), flush=True)
    return sweep(
        root, wanted, what_is_here(datasets), partial(on_this_machine, root, template, jobs, gpus), again
    )


def main() -> int:
    """Sweep from the command line; 1 if a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", metavar="NAME", help="one study of ci/ablations.yml; by default all")
    parser.add_argument("--smoke", action="store_true", help="seconds a run, on generated glyphs, for tests")
    parser.add_argument(
        "--jobs", type=at_least_one, metavar="N", help="runs at a time; by default one a GPU, or one a core"
    )
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="tcp://host:port of the scheduler of a Dask cluster"
    )
    parser.add_argument("--again", action="store_true", help="make those also whose results are committed")
    words = parser.parse_args()
    return exit_status(lambda: run(ROOT, words.study, words.smoke, words.jobs, words.dask, words.again))


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
