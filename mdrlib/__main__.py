"""The command line: `mdrlib run CONFIG.yml --out DIR [key=value ...]`, `mdrlib data`, `mdrlib results`."""

import argparse
import ctypes
import json
import sys
from collections.abc import Sequence

import yaml

from mdrlib import checks, comparison, distributed
from mdrlib.config_file import read_config
from mdrlib.datasets import download
from mdrlib.experiment import run

# mallopt(3) M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD: keep freed memory, a fifth of a training step on a CPU.
MALLOC = {-4: 0, -1: 2_000_000_000, -2: 2**28}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 1 after an error, told in one line (argparse exits with 2)."""
    words = sys.argv[1:] if words is None else words
    commands = {"run": _run, "data": _data, "results": comparison.main}
    parser = argparse.ArgumentParser("mdrlib", description="Multi-level distance regularization")
    parser.add_argument("command", choices=commands, help="`mdrlib COMMAND --help` explains each")
    command = parser.parse_args(words[:1]).command
    try:
        return commands[command](words[1:]) or 0
    except (ValueError, TypeError, ArithmeticError, OSError, ImportError, yaml.YAMLError) as error:
        count = distributed.world_size()
        process = f" (process {distributed.rank()} of {count})" if count > 1 else ""
        print(f"mdrlib{process}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def _run(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("mdrlib run", description="Train and evaluate, or continue a run")
    parser.add_argument("config", help="YAML file of Config fields")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="fields to change")
    parser.add_argument("--out", required=True, help="folder for result.json, history.csv, checkpoint.pt")
    given = parser.parse_intermixed_args(words)  # the changes may follow --out
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for parameter, value in MALLOC.items() if mallopt else ():
        mallopt(parameter, value)
    with distributed.processes():
        result = run(read_config(given.config, given.changes), given.out)
        if distributed.rank() == 0:
            print(json.dumps(result.metrics, indent=1))
            print(f"{checks.path(given.out) / 'result.json'} ({result.seconds:.0f} s)")


def _data(words: Sequence[str]) -> int:
    """0 if the set is in its place, or every set that is there is complete."""
    parser = argparse.ArgumentParser("mdrlib data", description="Bring a data set to its place")
    parser.add_argument("name", choices=[*download.NAMES, "check"], help="the set; check lists all")
    parser.add_argument("--root", help="folder of data sets; by default MDR_DATA_ROOT, else data/")
    given = parser.parse_args(words)
    if given.name == "check":
        return not download.check(given.root)
    return not download.prepare(given.name, given.root)


if __name__ == "__main__":
    sys.exit(main())
