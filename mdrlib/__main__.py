"""`python -m mdrlib run CONFIG.yml --out DIR [key=value ...]`"""

import argparse
import json
import sys
from pathlib import Path

from mdrlib.experiment import Config, run


def read_config(path: str, changes: list[str]) -> Config:
    """The Config of a YAML (or JSON) mapping, with `key=value` changes, each value read as YAML."""
    import yaml

    values = yaml.safe_load(Path(path).read_text()) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of Config fields, got {type(values).__name__}")
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"a change is key=value, got {change!r}")
        values[key] = yaml.safe_load(value)
    return Config.of(values)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mdrlib", description="Multi-level distance regularization")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="train and evaluate an experiment, or go on with it")
    command.add_argument("config", help="YAML file of Config fields")
    command.add_argument("--out", required=True, help="folder for result.json, history.csv, checkpoint.pt")
    command.add_argument("changes", nargs="*", metavar="key=value", help="fields to change")
    given = parser.parse_args(arguments)
    try:
        result = run(read_config(given.config, given.changes), given.out)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"mdrlib: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result.metrics, indent=1))
    print(f"{Path(given.out) / 'result.json'} ({result.seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
