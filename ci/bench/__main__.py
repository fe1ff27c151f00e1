"""Measure what a training run repeats, side by side with what it replaces.

Without --only it runs the sections of SECTIONS and stores data/results/bench-cpu.json or bench-gpu.json.
Those of APART take minutes and store a file each: python ci/bench --only loader --store.

A section has measure(device="cpu", quick=False), which returns rows as `bench.measuring.row` makes them; with
a parameter full=False it measures more on request. One of APART has record(quick), which prints its table and
returns what to store.
"""

import argparse
import importlib
import inspect
import sys
import time
from pathlib import Path

import torch

CI = Path(__file__).resolve().parents[1]
ROOT = CI.parent
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(CI)]  # in place of this folder: its modules are imported as bench.loader

from bench.measuring import Row, line  # noqa: E402
from mdrlib import checks  # noqa: E402
from mdrlib.results import environment, git, write_json  # noqa: E402

SECTIONS = ("regularizer", "retrieval", "step", "triplets")
APART = ("ann", "gradients", "loader")


def section(name: str, device: str, quick: bool = False, full: bool = False) -> Row:
    """Run one section: {"seconds", "rows"}. One whose measure takes no device runs on "cpu" alone."""
    measure = importlib.import_module(f"bench.{name}").measure
    takes = inspect.signature(measure).parameters
    start = time.perf_counter()
    asked = {"device": device, "quick": quick, "full": full}
    skipped = device != "cpu" and "device" not in takes
    rows = [] if skipped else measure(**{key: value for key, value in asked.items() if key in takes})
    return {"seconds": round(time.perf_counter() - start, 1), "rows": rows}


def apart(name: str, quick: bool, store: bool) -> int:
    """Run a section of APART; 1 if it is to be stored and the code has uncommitted changes."""
    commit = git()
    if store and (commit is None or commit["dirty"]):
        print("There are uncommitted changes: commit, then measure.", file=sys.stderr)
        return 1
    found = importlib.import_module(f"bench.{name}").record(quick)
    if store:
        at = {**environment(torch.device("cpu")), **found.pop("environment", {})}
        write_json(ROOT / f"data/results/bench-{name}.json", {**found, "environment": at, "git": commit})
    return 0


def main(words: list[str] | None = None) -> int:
    """Measure, print and store; 1 without the device that was asked for."""
    parser = argparse.ArgumentParser(
        prog="python ci/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a trial; nothing is stored")
    parser.add_argument("--full", action="store_true", help="SOP size in full as well; minutes more")
    parser.add_argument("--only", nargs="+", choices=(*SECTIONS, *APART), metavar="SECTION",
                        help=f"some of {', '.join((*SECTIONS, *APART))}; nothing is stored")  # fmt: skip
    parser.add_argument("--store", action="store_true", help="store a section that stores its own file")
    parser.add_argument("--out", type=checks.path, help="another file to store in")
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU on this machine: use --device cpu", file=sys.stderr)
        return 1
    for name in (name for name in given.only or [] if name in APART):
        if apart(name, given.quick, given.store):
            return 1
    chosen = [name for name in given.only or SECTIONS if name in SECTIONS]
    if not chosen:
        return 0
    out = given.out
    if out is None and not given.quick and not given.only:
        out = ROOT / f"data/results/bench-{'gpu' if given.device == 'cuda' else 'cpu'}.json"
    made: dict[str, Row] = {}
    for name in chosen:
        print(f"{name} on {given.device}", flush=True)
        made[name] = section(name, given.device, given.quick, given.full)
        for found in made[name]["rows"]:
            print("  " + line(found), flush=True)
        print(f"  {made[name]['seconds']} s\n", flush=True)
        # After each section: what was measured outlives an error, or the end of the time on a GPU.
        if out is not None and (given.device == "cuda" or name == chosen[-1]):
            told = {"environment": environment(torch.device(given.device)), "git": git()}
            write_json(out, {**told, "quick": given.quick, "full": given.full, "sections": made})
            print(f"stored {out}")
    if given.quick:
        return 0  # tiny sizes say nothing of a target
    verdicts = [row.get("met") for part in made.values() for row in part["rows"] if row.get("target")]
    print(f"{sum(v is True for v in verdicts)} of {len(verdicts)} targets met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
