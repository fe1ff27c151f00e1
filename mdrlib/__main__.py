"""`python -m mdrlib run CONFIG.yml --out DIR [key=value ...]`, `... data NAME|check` and `... results`

`torchrun -m mdrlib run ...` does the first in several processes: see `mdrlib.distributed`.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from mdrlib import distributed, report
from mdrlib.datasets import download
from mdrlib.experiment import Config, run


def read_config(path: str, changes: list[str]) -> Config:
    """The Config of a YAML (or JSON) mapping, with `key=value` changes, each value read as YAML.

    Raises OSError for a file that cannot be read, ValueError or TypeError for what is no Config.
    """
    values = _read_yaml(Path(path).read_text(), path) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of Config fields, got {type(values).__name__}")
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"a change is key=value, got {change!r}")
        values[key] = _read_yaml(value, key)
    return Config.of(values)


def _read_yaml(text: str, name: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("reading a configuration needs pyyaml: pip install mdrlib[book]") from error

    class Loader(yaml.SafeLoader):
        """Reads 1e-3 as a number, which YAML 1.1 takes for text, for want of a point."""

    exponential = re.compile(r"[-+]?\d+[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponential, list("-+0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["data"]:
        return _data(words[1:])
    if words[:1] == ["results"]:
        return report.main(words[1:])
    parser = argparse.ArgumentParser(
        prog="mdrlib",
        description="Multi-level distance regularization",
        epilog="`mdrlib data --help` tells how data sets get to their place, "
        "`mdrlib results --help` how runs are compared",
    )
    parser.add_argument("command", choices=["run"], help="train and evaluate an experiment, or go on with it")
    parser.add_argument("config", help="YAML file of Config fields")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="fields to change")
    parser.add_argument("--out", required=True, help="folder for result.json, history.csv, checkpoint.pt")
    given = parser.parse_intermixed_args(words)  # the changes may follow --out
    try:
        with distributed.processes():
            result = run(read_config(given.config, given.changes), given.out)
            if distributed.rank() == 0:
                print(json.dumps(result.metrics, indent=1))
                print(f"{Path(given.out) / 'result.json'} ({result.seconds:.0f} s)")
    except (ValueError, TypeError, ArithmeticError, OSError, ImportError) as error:
        print(f"mdrlib{_whose()}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _whose() -> str:
    count = distributed.world_size()
    return f" (process {distributed.rank()} of {count})" if count > 1 else ""


def _data(words: list[str]) -> int:
    """The command data: 0 when the set is in its place, or every set that is there is complete."""
    parser = argparse.ArgumentParser(prog="mdrlib data", description="Bring a data set to its place")
    choices = [*download.NAMES, "check"]
    parser.add_argument(
        "name", choices=choices, help="the set; check lists all: present, complete, size, path"
    )
    parser.add_argument("--root", help="folder of data sets; by default MDR_DATA_ROOT, else data/")
    given = parser.parse_args(words)
    try:
        if given.name == "check":
            fine = download.check(given.root)
        else:
            fine = download.prepare(given.name, given.root)
    except (ValueError, OSError, ImportError) as error:
        print(f"mdrlib: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
