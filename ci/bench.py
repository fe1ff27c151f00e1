"""Measure what a training run repeats, beside what it replaces: data/results/bench-cpu.json or bench-gpu.json

Runs every ci/bench_*.py that is there, but for those APART. Such a section has measure(device="cpu",
quick=False), which returns rows, dicts as `row` makes them; with a third parameter, full=False, it may do
more on request. Candidates of one comparison take turns in one run, so that whatever else the machine does
befalls all of them; what travels to another machine are the ratios.
"""

import argparse
import importlib
import importlib.util
import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.modules["bench"] = sys.modules["__main__"]  # sections import it by this name

from mdrlib.results import environment, git, write_json  # noqa: E402

Row = dict[str, Any]
APART = ("ann", "loader")  # take minutes, and store their own: python ci/bench_loader.py --store
TIMES = ("median_s", "p10_s", "p90_s", "repetitions")


def side_by_side(
    candidates: dict[str, Callable[[], object]], repetitions: int = 20, warmup: int = 2, device: str = "cpu"
) -> dict[str, Row]:
    """Times of each candidate, which take turns: {"median_s", "p10_s", "p90_s", "repetitions"} by name.

    Each repetition begins with another one. On "cuda" a candidate's time ends when the GPU is done.
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
    """A row of a section: `what` of mdrlib at `size`, or a peer of it.

    times and against: of one `side_by_side`; ratio_to holds by name how many times as long as this the
    others take. more: memory_mb, accuracy, target (a sentence), met (True or False, with a target), note.
    """
    ratios = {
        name: float(f"{other['median_s'] / times['median_s']:.3g}")
        for name, other in (against or {}).items()
        if times and other is not times
    }
    empty = dict.fromkeys((*TIMES, "memory_mb", "accuracy", "target", "met"))
    return {"what": what, "size": size, **empty, "ratio_to": ratios, **(times or {}), **more}


def peak_memory(code: str, setup: str = "") -> float:
    """MB (10^6 bytes) that `code` takes above what a fresh process holds after `setup`.

    That process has imported torch and finds mdrlib and ci/. Raises RuntimeError with its error.
    """
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'ci')!r}]\n"
        f"import torch, bench\nspace = {{'torch': torch}}\nexec({setup!r}, space)\n"
        f"before = bench.reset_peak()\nexec({code!r}, space)\nprint('peak', bench.peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the process whose memory is measured failed:\n{done.stderr}")
    return round(float(done.stdout.rsplit("peak", 1)[1]), 1)


def reset_peak() -> float:
    """Forget the highest memory of this process, where the system can (Linux); return the highest now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the highest so far is then the baseline, and what stays below it is not seen
    return peak()


def peak() -> float:
    """The highest memory of this process, in MB."""
    try:
        status = Path("/proc/self/status").read_text()
        return (
            next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1.024e-3
        )
    except (OSError, StopIteration):
        import resource

        unit = 1e-6 if sys.platform == "darwin" else 1.024e-3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def gpu_memory(call: Callable[[], object]) -> float:
    """MB that a call takes on the GPU above what was held there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)


def peer(name: str) -> bool:
    """Whether an optional library to compare with is installed."""
    return importlib.util.find_spec(name) is not None


def sections(folder: Path, only: list[str] | None = None) -> list[str]:
    """Names of the sections in `folder`, sorted, those APART only when asked for.

    Raises ValueError for one of `only` that is not there.
    """
    found = sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))
    missing = set(only or []) - set(found)
    if missing:
        raise ValueError(f"no section {', '.join(sorted(missing))}; there are {', '.join(found)}")
    return only or [name for name in found if name not in APART]


def run(name: str, device: str, quick: bool = False, full: bool = False) -> Row:
    """One section: {"seconds", "rows"}. One whose measure takes no device runs on "cpu" alone."""
    measure = importlib.import_module(f"bench_{name}").measure
    takes = inspect.signature(measure).parameters
    start = time.perf_counter()
    asked = {"device": device, "quick": quick, "full": full}
    skipped = device != "cpu" and "device" not in takes
    rows = [] if skipped else measure(**{key: value for key, value in asked.items() if key in takes})
    return {"seconds": round(time.perf_counter() - start, 1), "rows": rows}


def line(row: Row) -> str:
    """A row as a line of the table: its own words first, then whatever it has."""
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


def main(words: list[str] | None = None) -> int:
    """Measure, print and store; 1 without the device that was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it works; stores nothing"
    )
    parser.add_argument("--full", action="store_true", help="SOP size in full as well; minutes more")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="some sections; stores nothing")
    parser.add_argument("--out", type=Path, help="where to store, also what is else not stored")
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here that torch can use: call it with --device cpu", file=sys.stderr)
        return 1
    made: dict[str, Row] = {}
    for name in sections(ROOT / "ci", given.only):
        print(f"{name} on {given.device}", flush=True)
        made[name] = run(name, given.device, given.quick, given.full)
        for found in made[name]["rows"]:
            print("  " + line(found), flush=True)
        print(f"  {made[name]['seconds']} s\n", flush=True)
    out = given.out
    if out is None and not given.quick and not given.only:
        out = ROOT / "data/results" / f"bench-{'gpu' if given.device == 'cuda' else 'cpu'}.json"
    if out is not None:
        told = {"environment": environment(torch.device(given.device)), "git": git()}
        write_json(out, {**told, "quick": given.quick, "full": given.full, "sections": made})
        print(f"stored {out}")
    if given.quick:
        return 0  # tiny sizes say nothing of a target
    verdicts = [row.get("met") for section in made.values() for row in section["rows"] if row.get("target")]
    print(f"{sum(v is True for v in verdicts)} of {len(verdicts)} targets met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
