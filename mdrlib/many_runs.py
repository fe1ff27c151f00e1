"""Many runs in one call, as many at a time as there are cores or GPUs, each in its own process and folder."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from mdrlib import experiment
from mdrlib.config import Config
from mdrlib.datasets.loader import default_workers

SECONDS = 10  # between two lines on what is running
# mallopt(3) M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD: keep freed memory, a fifth of a training step on a CPU.
MALLOC = {-4: 0, -1: 2_000_000_000, -2: 2**28}
MISTAKES = (ValueError, TypeError, ArithmeticError, OSError, ImportError)  # told in one line


@dataclass
class _Running:
    name: str
    process: BaseProcess
    slot: int
    iteration: int = 0


def keep_memory() -> None:
    """Make the C library keep freed memory in this process (Linux only)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for parameter, value in MALLOC.items() if mallopt else ():
        mallopt(parameter, value)


def run_all(configs: Mapping[str, Config], out_dir: Path, jobs: int | None = None) -> list[str]:
    """Run or continue experiments, print their progress, and return the names of those that failed.

    When one fails, the others continue. Ctrl-C ends all of them, and the same call continues them.

    Args:
        configs: Name of a folder in `out_dir` -> Config.
        out_dir: Folder of the runs' folders.
        jobs: Number of runs at a time, with one thread each; by default one per GPU, or one per core.
    """
    on_gpu = [name for name, config in configs.items() if config.device in ("auto", "cuda")]
    gpus = torch.cuda.device_count() if on_gpu and torch.cuda.is_available() else 0
    jobs = jobs or gpus or default_workers() + 1
    context = get_context("forkserver")  # imports torch once, and forks no threads
    context.set_forkserver_preload(["mdrlib.experiment"])
    waiting, failed, shown = list(configs), [], time.monotonic()
    quiet = os.environ.get("MDR_PROGRESS") == "off"
    running: dict[Connection, _Running] = {}
    print(f"{len(configs)} runs, {min(jobs, len(configs))} at a time, in {out_dir}", flush=True)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                slot = min({*range(jobs)} - {its.slot for its in running.values()})
                device = f"cuda:{slot % gpus}" if gpus and name in on_gpu else configs[name].device
                config = replace(configs[name], device=device)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(config, out_dir / name, theirs))
                process.start()
                theirs.close()
                running[ours] = _Running(name, process, slot)
            for connection in wait(running, SECONDS):
                its = running[connection]
                try:
                    said = connection.recv()
                except EOFError:  # killed, or ended by an error that it has printed
                    its.process.join()
                    said = f"FAILED: its process ended with exit code {its.process.exitcode}"
                if isinstance(said, int):
                    its.iteration = said
                    continue
                del running[connection]
                its.process.join()
                failed += [its.name] if said.startswith("FAILED") else []
                ended = len(configs) - len(waiting) - len(running)
                print(f"[{ended}/{len(configs)}] {its.name}  {said}", flush=True)
            if running and not quiet and time.monotonic() - shown > SECONDS:
                at = [f"{r.name} {r.iteration}/{configs[r.name].iterations}" for r in running.values()]
                print(f"at iteration: {', '.join(at)}", flush=True)
                shown = time.monotonic()
    finally:
        for its in running.values():
            its.process.kill()
            its.process.join()
    return failed


def _work(config: Config, out_dir: Path, connection: Connection) -> None:
    """Run one experiment in its own process; send each iteration, then the outcome."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so does a send when nobody is left to hear it
    keep_memory()
    torch.set_num_threads(1)
    experiment.progress = lambda *about: lambda trainer: connection.send(trainer.iteration)
    try:
        result = experiment.run(config, out_dir)
        connection.send(f"Recall@1 {100 * result.metrics['recall@1']:.1f} %, {result.seconds:.0f} s")
    except MISTAKES as error:
        connection.send(f"FAILED: {' '.join(str(error).split())}")
