"""The runs of the matrix on a Dask cluster that is there already: what is checked, sent, and recorded.

Workers need mdrlib with its extra `book`, of the same files as here, and the data sets; no file system in
common with this machine. The scheduler gives a run to one worker, and to another one if that dies.
"""

import platform
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cloudpickle
from distributed import Client, Future, as_completed
from filelock import FileLock, Timeout

import notebooks
import one_run
from matrix import Cell
from mdrlib.checkpoint import write_atomically
from mdrlib.results import git, write_json

WAIT_SECONDS = 300  # for a first worker: a queue may have to start it


def connect(address: str, datasets: Sequence[str]) -> tuple[Client, dict[str, Any]]:
    """A client of the scheduler at `address`, and what its workers have, see `one_run.what_is_here`.

    Raises ValueError for no scheduler, no worker, or a worker that cannot make runs on `datasets`, with what
    it lacks.
    """
    for module in (notebooks, one_run):  # travel as they are: workers do not have ci/
        cloudpickle.register_pickle_by_value(module)
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {address}; `dask scheduler` starts one") from error
    try:
        print(f"Waiting for a worker of {address} ...", flush=True)
        client.wait_for_workers(1, timeout=WAIT_SECONDS)
        return client, check(client, datasets)
    except TimeoutError as error:
        client.close()
        raise ValueError(f"{address} has no worker; `dask worker {address}` starts one") from error
    except BaseException:
        client.close()
        raise


def check(client: Client, datasets: Sequence[str]) -> dict[str, Any]:
    """What all workers have. Raises ValueError naming those that lack something, and what."""
    ours, version = git(), ".".join(platform.python_version_tuple()[:2])
    python = ask(client, platform.python_version)
    refuse(
        {w: f"Python {v}, here is {version}" for w, v in python.items() if not v.startswith(f"{version}.")}
    )
    found = ask(client, one_run.what_is_here, datasets)
    refuse({worker: said for worker, said in found.items() if isinstance(said, str)})
    lacks = {}
    for worker, there in found.items():
        if there["sources"] != one_run.sources():
            lacks[worker] = f"another mdrlib: {commit(there['git'])}, here: {commit(ours)}"
        elif there["missing"]:
            lacks[worker] = "; ".join(f"{name} is missing: {why}" for name, why in there["missing"].items())
        elif there["data"] != next(iter(found.values()))["data"]:
            lacks[worker] = f"other images than the first worker: {there['data']}"
    refuse(lacks)
    print(f"{len(found)} workers", flush=True)
    return next(iter(found.values())) | {"git": ours}


def ask(client: Client, function: Callable, *words: Any) -> dict[str, Any]:
    """What `function` returns on each worker, or what it raised, as text."""
    answers = client.run(function, *words, on_error="return")
    return {
        worker: f"{type(answer).__name__}: {answer}" if isinstance(answer, Exception) else answer
        for worker, answer in answers.items()
    }


def refuse(lacks: dict[str, str]) -> None:
    """Raise ValueError, with a line for each worker, if any lacks something."""
    if lacks:
        lines = "".join(f"\n  {worker}: {what}" for worker, what in lacks.items())
        raise ValueError(
            f"these workers cannot make the runs:{lines}\n"
            "Give them the same clone and data (MDR_DATA_ROOT), start them again, and call this again."
        )


def commit(found: dict[str, Any] | None) -> str:
    """What `mdrlib.results.git` found, in words."""
    if found is None:
        return "installed, of no commit"
    return f"commit {found['commit'][:10]}{' with changes' if found['dirty'] else ''}"


def on_cluster(
    client: Client, here: dict[str, Any], sweep: Path, template: str, left: dict[str, Cell]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A `Maker` (see sweep.py). It records each run under the run's lock, once.

    Runs that another sweep is at are looked at again at the end, and waited for.
    Raises RuntimeError when the scheduler is lost.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # an open file for each lock
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    elsewhere = left
    for wait in (False, True):
        waiting, elsewhere = elsewhere, {}
        with ExitStack() as locks:
            futures = {}
            for name, cell in waiting.items():
                (sweep / name).mkdir(parents=True, exist_ok=True)
                try:
                    locks.enter_context(FileLock(sweep / name / "lock").acquire(timeout=-1 if wait else 0))
                except Timeout:
                    elsewhere[name] = cell
                    continue
                if (sweep / name / "result.json").exists():
                    yield name, {"state": "there", "seconds": 0.0, "peak_memory_gb": 0.0, "failure": None}
                    continue
                words = (name, template, cell.parameters(), here["sources"])
                # The key finds the run again that a worker goes on with after an interrupted sweep.
                future = client.submit(one_run.on_worker, *words, key=name, priority=-len(futures))
                futures[future] = name
            for future in as_completed(futures):
                name = futures[future]
                yield name, record(outcome_of(future), here, sweep / name)


def outcome_of(future: Future) -> dict[str, Any]:
    """What `on_worker` returned; an outcome "failed" for what it or Dask raised."""
    if future.status == "cancelled":
        raise RuntimeError("the scheduler has gone, or dropped the runs; the same call goes on from here")
    if future.status == "finished":
        return future.result()
    error = future.exception()
    text = f"{type(error).__name__}: {error}"  # KilledWorker: several workers died of this run
    return {"state": "failed", "seconds": 0.0, "peak_memory_gb": 0.0, "failure": text, "notebook": ""}


def record(outcome: dict[str, Any], here: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write what a worker sent into the run's folder, result.json last; the outcome, as it then is."""
    result = outcome.get("result")
    if result is not None:
        seen = {split: part["fingerprint"] for split, part in result["data"].items()}
        if seen != here["data"][result["config"]["dataset"]]:
            outcome |= {"state": "failed", "failure": f"a worker made it with other images: {result['data']}"}
    failed = outcome["state"] == "failed"
    name = "failed.ipynb" if failed else "run.ipynb"
    write_atomically(folder / name, lambda file: file.write(outcome["notebook"].encode()))
    if not failed:
        write_atomically(folder / "history.csv", lambda file: file.write(outcome["history"].encode()))
        # A worker without a clone has the same files: that was checked.
        write_json(folder / "result.json", result | {"git": result["git"] or here["git"]})
        (folder / "failed.ipynb").unlink(missing_ok=True)
    return outcome
