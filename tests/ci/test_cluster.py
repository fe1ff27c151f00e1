"""The matrix on a real Dask cluster of this machine: a scheduler and two workers, one of which is killed."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

pytest.importorskip("distributed", reason="the extra cluster is not installed")
from distributed import Client  # noqa: E402

import cluster  # noqa: E402
import one_run  # noqa: E402
import sweep  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def processes(folder):
    """A function that starts `python -m ...` in `folder`; what it started is killed in the end."""
    started = []

    def start(*words, **environment):
        env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        words = [sys.executable, "-m", *words]  # which would find an mdrlib in the folder they start in
        started.append(subprocess.Popen(words, env=env, cwd=folder, stderr=subprocess.DEVNULL))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for(found):
    """What `found` returns, once it is something; pytest's own limit ends what never is."""
    while not (value := found()):
        time.sleep(0.1)
    return value


def begin_cluster(start, folder):
    """The address of a scheduler and two workers."""
    file = folder / "scheduler.json"
    words = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    start("distributed.cli.dask_scheduler", *words)
    address = wait_for(lambda: file.exists() and json.loads(file.read_text() or "{}").get("address"))
    workers = [begin_worker(start, address, folder) for _ in range(2)]
    wait_for_workers(address, 2)
    return address, workers


def wait_for_workers(address, number):
    """Until the scheduler has as many."""
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(number)


def begin_worker(start, address, folder, **environment):
    """A worker of one thread."""
    words = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder / "scratch"))
    return start("distributed.cli.dask_worker", address, *words, **environment)


@pytest.mark.slow
def test_a_killed_workers_run_is_made_by_the_other_and_each_is_recorded_once(
    matrix_house, monkeypatch, capfd
):
    log, recorded = matrix_house / "log", Counter()
    write = cluster.write_json

    def count(path, value):
        recorded[path.parent.name] += 1
        write(path, value)

    monkeypatch.setattr(cluster, "write_json", count)
    (log / "hold").touch()
    with processes(matrix_house) as start:
        address, workers = begin_cluster(start, matrix_house)

        def kill_one_in_its_run():
            begun = wait_for(lambda: len(list(log.glob("0.*"))) == 2 and sorted(log.glob("0.*")))
            victim = next(w for w in workers if w.pid == int(begun[0].name.split("-")[2]))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            wait_for(lambda: not Path(f"/proc/{begun[0].name.split('-')[3]}").exists())  # its kernel too
            (log / "hold").unlink()
            killed.append("-".join(begun[0].name.split("-")[:2]))

        killed = []
        killing = Thread(target=kill_one_in_its_run)
        killing.start()
        assert sweep.run(matrix_house, dask=address) == []
        killing.join()
        said = capfd.readouterr().out
        assert "6 runs: 0 are done, 6 are left" in said and "[6/6]" in said

        times = Counter("-".join(path.name.split("-")[:2]) for path in log.glob("0.*"))
        assert times.pop(killed[0]) == 2 and set(times.values()) == {1} and len(times) == 5
        folders = sorted((matrix_house / "_build/runs/sweep").iterdir())
        assert recorded == Counter({folder.name: 1 for folder in folders}) and len(folders) == 6
        results = [json.loads((folder / "result.json").read_text()) for folder in folders]
        cells = {(result["config"]["mdr_weight"], result["config"]["seed"]) for result in results}
        assert cells == {(weight, seed) for weight in (0.1, 0.2, 0.3) for seed in (0, 1)}
        for folder in folders:
            kept = {"history.csv", "lock", "result.json", "run.ipynb"}
            assert {path.name for path in folder.iterdir()} == kept
        assert not list((matrix_house / "scratch").glob("*/glyphs-*/result.json"))  # nothing stays there

        assert sweep.run(matrix_house, dask=address) == []
        assert "6 runs: 6 are done, 0 are left" in capfd.readouterr().out

        (log / "fail").touch()
        again = next(f for f, r in zip(folders, results, strict=True) if r["config"]["mdr_weight"] == 0.3)
        (again / "result.json").unlink()
        assert [f.name for f in sweep.run(matrix_house, "lambda", dask=address)] == [again.name]
        assert "ValueError: the lights went out" in capfd.readouterr().out
        assert "the lights went out" in (again / "failed.ipynb").read_text()
        assert not (again / "result.json").exists()

        other = matrix_house / "other"
        (other / "mdrlib").mkdir(parents=True)
        (other / "mdrlib/__init__.py").touch()
        begin_worker(start, address, matrix_house, PYTHONPATH=str(other))
        wait_for_workers(address, 2)
        with pytest.raises(ValueError, match=r"cannot make the runs:\n  tcp://127.*its mdrlib have the sum"):
            sweep.run(matrix_house, dask=address)


def test_what_a_cluster_lacks_is_said(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with pytest.raises(ValueError, match="no Dask scheduler answers at tcp://127.0.0.1:1; `dask scheduler`"):
        cluster.connect("tcp://127.0.0.1:1", [])
    ours = one_run.sources()
    here = {"data": {"omniglot": {"train": "1"}}, "missing": {}}
    version = platform.python_version()

    def said(*answers):
        """What `check` says of two workers whose second gives these answers."""
        given = iter(zip((version, ours, here), answers, strict=False))
        client = SimpleNamespace(run=lambda *_, **__: dict(zip("ab", next(given), strict=True)))
        return cluster.check(client, ["omniglot"])

    assert said(version, ours, here)["data"] == here["data"]
    for answers, words in {
        ("3.8.1",): "b: Python 3.8.1, here is 3",
        (version, ModuleNotFoundError("no mdrlib")): "b: ModuleNotFoundError: no mdrlib",
        (version, "f" * 16): f"b: the files of its mdrlib have the sum {'f' * 16}, here .commit",
        (version, ours, ValueError("damaged")): "b: ValueError: damaged",
        (
            version,
            ours,
            Had({"data": {}, "missing": {"omniglot": "no file"}}),
        ): "b: omniglot is missing: no file",
        (version, ours, Had({"data": {}, "missing": {}})): "b: its images are {}, those of the first",
    }.items():
        with pytest.raises(ValueError, match=f"these workers cannot make the runs:\n  {words}"):
            said(*answers)


class Had(dict):
    """A dict that can be a key."""

    __hash__ = object.__hash__
