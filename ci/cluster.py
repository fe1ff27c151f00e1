"""The runs of the matrix on a running Dask cluster: check workers, send runs, and record results.

Workers need the same files of mdrlib as here with its extra `cluster`, and the data sets. They need no file
system in common with this machine. The scheduler gives a run to one worker, and to another one if that dies.
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
from mdrlib.checkpoint import write_atomically
from mdrlib.config import Config
from mdrlib.results import git, write_json
from runs import Job
from studies import source_of

WAIT_SECONDS = 300  # for a first worker: a queue may have to start it
CONNECT_SECONDS = 10


def connect(address: str, datasets: Sequence[str]) -> tuple[Client, dict[str, Any]]:
    """Return a client of the scheduler at `address`, and `one_run.what_is_here` of its workers."""
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
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
    """Return what all workers have; ValueError names those that lack something, and what they lack."""
    version = ".".join(platform.python_version_tuple()[:2])
    python = ask(client, platform.python_version)
    refuse(
        {w: f"Python {v}, here is {version}" for w, v in python.items() if not v.startswith(f"{version}.")}
    )
    ours = one_run.sources()
    refuse({w: differs(theirs, ours) for w, theirs in ask(client, one_run.sources).items() if theirs != ours})
    found = ask(client, one_run.what_is_here, datasets)
    refuse({worker: said for worker, said in found.items() if isinstance(said, str)})
    first, lacks = next(iter(found.values()))["data"], {}
    for worker, there in found.items():
        if there["missing"]:
            lacks[worker] = "; ".join(f"{name} is missing: {why}" for name, why in there["missing"].items())
        elif there["data"] != first:
            lacks[worker] = f"its images are {there['data']}, those of the first worker {first}"
    refuse(lacks)
    print(f"{len(found)} workers", flush=True)
    return {"sources": ours, "data": first, "missing": {}}


def differs(theirs: str, ours: str) -> str:
    """Say what is wrong with a worker whose `one_run.sources` are `theirs`, a sum or an error's text."""
    if " " in theirs:
        return theirs
    commit = (git() or {}).get("commit", "that is installed")
    return f"the files of its mdrlib have the sum {theirs}, here (commit {commit}) it is {ours}"


def shipped(function: Callable) -> Callable:
    """Return `function`, of one_run.py, as one that workers can call without having ci/.

    Its code travels as bytes: the scheduler unpacks what it is given, and may have less than a worker has.
    """
    for module in (notebooks, one_run):
        cloudpickle.register_pickle_by_value(module)
    code = cloudpickle.dumps(function)

    def call(*words: Any) -> Any:  # being no name of a module, it is pickled by value as well
        import pickle

        return pickle.loads(code)(*words)

    return call


def ask(client: Client, function: Callable, *words: Any) -> dict[str, Any]:
    """Return what `function` returns on each worker, or what it raised, as text."""
    answers = client.run(shipped(function), *words, on_error="return")
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
            "Give them this mdrlib, and data at their MDR_DATA_ROOT; start them and call this again."
        )


def on_cluster(
    client: Client, here: dict[str, Any], template: str, left: dict[str, Job]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make jobs as a `Maker` (see sweep.py), and record each run under the run's lock, once.

    Runs that another sweep is at are looked at again at the end, and waited for.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # an open file for each lock
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    on_worker, elsewhere = shipped(one_run.on_worker), left
    for wait in (False, True):
        waiting, elsewhere = elsewhere, {}
        with ExitStack() as locks:
            futures = {}
            for name, job in waiting.items():
                try:
                    job.folder.mkdir(parents=True, exist_ok=True)
                    locks.enter_context(FileLock(job.folder / "lock").acquire(timeout=-1 if wait else 0))
                except Timeout:
                    elsewhere[name] = job
                    continue
                except OSError as error:  # something else has the name of its folder or lock
                    yield name, one_run.failed(error)
                    continue
                if (job.folder / "result.json").exists():
                    yield name, one_run.found(job.folder)
                    continue
                words = (name, template, job.config.to_dict(), here["sources"])
                # The key finds the run again that a worker goes on with after an interrupted sweep.
                future = client.submit(on_worker, *words, key=name, priority=-len(futures))
                futures[future] = name
            for future in as_completed(futures):
                name = futures[future]
                outcome = outcome_of(future)
                try:
                    yield name, record(outcome, here, left[name].folder)
                except OSError as error:  # of the folder, or a full disk
                    yield name, one_run.failed(error)


def outcome_of(future: Future) -> dict[str, Any]:
    """Return what `on_worker` returned, or an outcome "failed" for what it or Dask raised."""
    if future.status == "cancelled":
        raise RuntimeError("the scheduler ended, or dropped the runs; the same call continues from here")
    if future.status == "finished":
        return future.result()
    # KilledWorker: several workers died of this run.
    return one_run.failed(future.exception()) | {"notebook": ""}


def record(outcome: dict[str, Any], here: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write what a worker sent into the run's folder, result.json last; return the outcome as it then is."""
    result = outcome.get("result")
    if result is not None:
        seen = {split: part["fingerprint"] for split, part in result["data"].items()}
        if seen != here["data"][source_of(Config.of(result["config"]))]:
            failure = f"a worker made this run with other images: {result['data']}"
            outcome |= {"state": "failed", "failure": failure}
    name = "failed.ipynb" if outcome["failure"] else "run.ipynb"
    write_atomically(folder / name, lambda file: file.write(outcome["notebook"].encode()))
    if outcome["failure"] is None:
        write_atomically(folder / "history.csv", lambda file: file.write(outcome["history"].encode()))
        # A worker without a clone has the same files: that was checked.
        write_json(folder / "result.json", result | {"git": result["git"] or git()})
        (folder / "failed.ipynb").unlink(missing_ok=True)
    return outcome
