"""Times of candidates that take turns, peak memory, and the rows that sections make of them.

Candidates of one comparison take turns in one run, so that other work on the machine disturbs all of them
alike. Only the ratios hold on another machine.
"""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
FOUND_BY_CHILDREN = [str(ROOT), str(ROOT / "ci")]  # where their processes find mdrlib and bench
TIMES = ("median_s", "p10_s", "p90_s", "repetitions")
Row = dict[str, Any]


def side_by_side(
    candidates: dict[str, Callable[[], object]], repetitions: int = 20, warmup: int = 2, device: str = "cpu"
) -> dict[str, Row]:
    """Measure candidates that take turns; each repetition begins with another one.

    Args:
        candidates: What to call, by name.
        repetitions: How often each candidate is timed.
        warmup: Calls of each candidate before these.
        device: On "cuda" a candidate's time ends when the GPU is done.

    Returns:
        Times by name: {"median_s", "p10_s", "p90_s", "repetitions"}.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    print(f"  {', '.join(names)}: {repetitions} x ...", flush=True)
    for r in range(-warmup, repetitions):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            _wait(device)
            start = time.perf_counter()
            candidates[name]()
            _wait(device)
            if r >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: _summary(values) for name, values in seconds.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _summary(seconds: list[float]) -> Row:
    low, median, high = (float(f"{value:.4g}") for value in np.percentile(seconds, (10, 50, 90)))
    return {"median_s": median, "p10_s": low, "p90_s": high, "repetitions": len(seconds)}


def row(
    what: str, size: str, times: Row | None = None, against: dict[str, Row] | None = None, **more: Any
) -> Row:
    """Make a row of a section.

    Args:
        what: The name of what was measured.
        size: The size of its input, as text.
        times: Its times, from `side_by_side`.
        against: Times of the other candidates of the same comparison, by name.
        **more: memory_mb, accuracy, target (a sentence), met (True or False, with a target), note.

    Returns:
        The row; ratio_to holds by name how many times as long the others take.
    """
    ratios = {
        name: float(f"{other['median_s'] / times['median_s']:.3g}")
        for name, other in (against or {}).items()
        if times and other is not times
    }
    empty = dict.fromkeys((*TIMES, "memory_mb", "accuracy", "target", "met"))
    return {"what": what, "size": size, **empty, "ratio_to": ratios, **(times or {}), **more}


def line(row: Row) -> str:
    """Return a row as a line of the table: the usual columns first, then everything else it has."""
    parts = [f"{row.get('what', ''):42} {row.get('size', ''):26}"]
    if row.get("median_s") is not None:
        parts.append(
            f"{_time(row['median_s'])} ({_time(row['p10_s']).strip()} .. {_time(row['p90_s']).strip()})"
        )
    parts += [f"{ratio:g} x: {name}" for name, ratio in row.get("ratio_to", {}).items()]
    if row.get("memory_mb") is not None:
        parts.append(f"{row['memory_mb']:.0f} MB")
    if row.get("target") is not None:
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[row.get("met")]
        parts.append(f"[{row['target']}: {verdict}]")
    known = {"what", "size", "ratio_to", "memory_mb", "target", "met", *TIMES}
    parts += [f"{key} {value}" for key, value in row.items() if key not in known and value is not None]
    return "  ".join(parts)


def _time(seconds: float) -> str:
    return f"{seconds:7.2f} s " if seconds >= 1 else f"{1e3 * seconds:7.2f} ms"


def peer(name: str) -> bool:
    """Return whether an optional library to compare with is installed."""
    return importlib.util.find_spec(name) is not None


def in_a_process(program: str, *words: str) -> str:
    """Run a program in a fresh process that can import mdrlib and bench; return what it prints.

    Raises:
        RuntimeError: With the error of the process.
    """
    program = f"import sys\nsys.path[:0] = {FOUND_BY_CHILDREN!r}\n{program}"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the measured process failed:\n{done.stderr}")
    return done.stdout


def peak_memory(code: str, setup: str = "") -> float:
    """Return the MB (10^6 bytes) that `code` takes above what a fresh process holds after `setup`.

    That process has imported torch.

    Raises:
        RuntimeError: With the error of the process.
    """
    program = (
        f"import torch\nfrom bench import measuring\nspace = {{'torch': torch}}\nexec({setup!r}, space)\n"
        f"before = measuring.reset_peak()\nexec({code!r}, space)\nprint('peak', measuring.peak() - before)"
    )
    return round(float(in_a_process(program).rsplit("peak", 1)[1]), 1)


def reset_peak() -> float:
    """Forget the peak memory of this process, where the system can (Linux); return the present peak in MB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak so far is then the baseline, and what stays below it is not seen
    return peak()


def peak() -> float:
    """Return the peak memory of this process, in MB."""
    try:
        status = Path("/proc/self/status").read_text()
        kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        return kilobytes * 1.024e-3
    except (OSError, StopIteration):
        import resource

        unit = 1e-6 if sys.platform == "darwin" else 1.024e-3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def gpu_memory(call: Callable[[], object]) -> float:
    """Return the MB that a call takes on the GPU above what was held there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)
