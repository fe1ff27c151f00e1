"""The command line: `mdrlib run CONFIG.yml --out DIR [key=value ...]`, and commands for finished runs."""

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import yaml

from mdrlib import after_training, checks, comparison, distributed
from mdrlib.config import Config
from mdrlib.config_file import read_configs
from mdrlib.datasets import benchmarks, download, folder
from mdrlib.experiment import run
from mdrlib.many_runs import MISTAKES, keep_memory, run_all


class _Pipe(io.FileIO):
    """A stream that ignores the end of its reader, as in `mdrlib run ... | head -1`."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _outlasting(stream: TextIO) -> TextIO:
    pipe = io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(pipe, stream.encoding, stream.errors, line_buffering=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 after an error (printed in one line), 130 after Ctrl-C."""
    if words is None:
        words = sys.argv[1:]
        sys.stdout, sys.stderr = _outlasting(sys.stdout), _outlasting(sys.stderr)
    commands = {"run": _run, "data": _data, "results": comparison.main}
    commands |= {"search": after_training.search, "embed": after_training.embed}
    commands |= {"export": after_training.export}
    parser = argparse.ArgumentParser("mdrlib", description="Multi-level distance regularization")
    parser.add_argument("command", choices=commands, help="`mdrlib COMMAND --help` explains each")
    command = parser.parse_args(words[:1]).command
    try:
        return commands[command](words[1:]) or 0
    except (*MISTAKES, yaml.YAMLError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise  # a mistake in mdrlib
        count = distributed.world_size()
        process = f" (process {distributed.rank()} of {count})" if count > 1 else ""
        print(f"mdrlib{process}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        advice = "; the same call continues" if command == "run" else ""
        print(f"\nmdrlib: stopped{advice}", file=sys.stderr)
        return 130


def _run(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "mdrlib run",
        usage="%(prog)s [CONFIG.yml] --out DIR [key=value[,value...] ...] [--jobs N]",
        description="Train and evaluate, or continue. With several values of a key, as in seed=0,1,2, all "
        "combinations are run, each in its own folder in DIR, and compared.",
    )
    parser.add_argument("words", nargs="*", metavar="CONFIG.yml key=value", help="file of fields; changes")
    parser.add_argument("--out", required=True, help="folder for result.json, history.csv, checkpoint.pt")
    parser.add_argument("--jobs", type=int, help="runs at a time; by default one per GPU, or one per core")
    given = parser.parse_intermixed_args(words)  # the changes may follow --out
    if not given.words or (given.jobs is not None and given.jobs < 1):
        parser.error("give a config file or a change key=value, and --jobs of at least 1")
    path = None if re.match(r"\w+=", given.words[0]) else given.words.pop(0)
    configs, out = read_configs(path, given.words), checks.path(given.out, "--out")
    keep_memory()
    with distributed.processes():
        if len(configs) > 1:
            _run_all(configs, out, given.jobs)
            return
        result = run(configs.popitem()[1], out)
        if distributed.rank() == 0:
            print(json.dumps(result.metrics, indent=1))
            print(f"{out / 'result.json'} ({result.seconds:.0f} s)")


def _run_all(configs: dict[str, Config], out: Path, jobs: int | None) -> None:
    if distributed.world_size() > 1:
        raise ValueError(f"torchrun takes one run, got {len(configs)}: give each key one value")
    failed = run_all(configs, out, jobs)
    if len(failed) < len(configs):
        print()
        comparison.main([str(out / name) for name in configs if name not in failed])
    if failed:
        what = f"{len(failed)} of {len(configs)} runs failed: {', '.join(failed)}"
        raise ValueError(f"{what}; the same call tries them again")


def _data(words: Sequence[str]) -> int:
    """Prepare or check data sets; return 0 if the set is ready, or if no set is incomplete."""
    parser = argparse.ArgumentParser("mdrlib data", description="Download, check and unpack a data set")
    parser.add_argument("name", choices=[*download.NAMES, "check"], help="the set; check lists all")
    parser.add_argument("path", nargs="?", help="for check: a folder of your own photographs")
    parser.add_argument("--root", help="folder of data sets; by default MDR_DATA_ROOT, else data/")
    given = parser.parse_args(words)
    if given.path is not None:
        if given.name != "check":
            parser.error(f"only check takes a path, {given.name} takes --root")
        path = checks.path(given.path)
        return not folder.report(path, benchmarks.recognized(path))
    if given.name == "check":
        return not download.check(given.root)
    return not download.prepare(given.name, given.root)


if __name__ == "__main__":
    sys.exit(main())
