"""Runs side by side: `python -m mdrlib results [PATH ...]` and `python -m mdrlib results compare A B`."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mdrlib import comparison
from mdrlib.comparison import FEW, Group, Row
from mdrlib.palette import metric_name, signed
from mdrlib.results import Result, load_committed, load_run
from mdrlib.statistics import METHOD, Interval, interval, paired

STORED = Path(__file__).resolve().parents[1] / "data/results"  # of the clone
SPEED = "bench-"  # files in STORED that begin so are measurements of speed, not lists of runs
CONFIDENCE = 0.95


def read(paths: Iterable[str | Path]) -> list[Result]:
    """The runs of files and folders, in order.

    A file is a list of runs such as data/results/omniglot-seeds.json, or the result.json of one; a folder has
    such lists, or is the folder of one run or of several. Raises OSError for a path that is none, ValueError
    for a file that is neither and for a folder without runs.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            found += [load_run(path.parent)] if path.name == "result.json" else load_committed(path)
            continue
        if (path / "result.json").exists():
            found.append(load_run(path))
            continue
        inside = read(lists(path)) + read(sorted(path.glob("*/result.json")))
        if not inside:
            raise ValueError(f"{path} has no runs: neither *.json lists of them nor */result.json")
        found += inside
    return found


def lists(folder: Path) -> list[Path]:
    """The lists of runs in a folder: its *.json without measurements of speed."""
    return [file for file in sorted(folder.glob("*.json")) if not file.name.startswith(SPEED)]


def parts(paths: Sequence[str | Path]) -> dict[str, list[Result]]:
    """The runs that belong in one table, by its title: those of `paths` by data set (`comparison.by_data`).

    Without paths, those of each list in data/results for itself: lists may repeat a run. Raises as `read`.
    """
    if paths:
        return comparison.by_data(read(paths))
    found = {
        f"{path.name}: {name}": runs
        for path in lists(STORED)
        for name, runs in comparison.by_data(read([path])).items()
    }
    if not found:
        raise ValueError(f"{STORED} has no lists of runs; name the files or folders that have")
    return found


def table(found: Sequence[Group], metric: str, baseline: str | None = None) -> str:
    """The groups of one data set as lines of text: seeds, mean, difference to the baseline, verdict."""
    made = comparison.rows(found, baseline, CONFIDENCE)
    base = baseline if baseline is not None else comparison.default_baseline(found)
    head = ["", "seeds", metric_name(metric), _range_name(), f"minus {base}", _range_name(), "verdict"]
    lines = [head, *(_cells(row, row.label == base) for row in made)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if k in (0, 6) else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    if any(row.n < FEW for row in made):
        text.append(f"* fewer than {FEW} seeds: too few for a table to show")
    return "\n".join(text)


def _cells(row: Row, is_base: bool) -> list[str]:
    seeds = f"{row.n}{'*' if row.n < FEW else ' '}"
    cells = [row.label, seeds, percent(row.mean), _range(row.interval)]
    if is_base:
        return [*cells, "", "", "the baseline"]
    if row.difference is None:
        return [*cells, "", "", "undecided: under 2 shared seeds"]
    d = row.difference
    paired_on = "" if d.n == row.n else f" ({d.n} shared seeds)"
    return [*cells, points(d.difference), _range(d, points), row.verdict + paired_on]


def compare(a: Group, b: Group, metric: str) -> str:
    """The paired difference a - b in words. Raises ValueError as `paired` does, and for other images."""
    comparison.refuse_other_images(a, b)
    found = paired(a.values, b.values, CONFIDENCE)
    shared = sorted(a.values.keys() & b.values.keys())
    means = [interval([group.values[seed] for seed in shared], CONFIDENCE) for group in (a, b)]
    names = [a.label, b.label] if a.label != b.label else [f"{a.label} (A)", f"{b.label} (B)"]
    width = max(len(names[0]), len(names[1]), len("A - B"))
    fields = comparison.differing([a.config, b.config])
    few = f", fewer than {FEW}: too few to show" if found.n < FEW else ""
    lines = [
        f"{metric_name(metric)} in percent, {found.n} shared seeds ({_list(shared)}){few}",
        *(
            f"  {tag} {name.ljust(width)}  {percent(mean.mean):>6}  {_range(mean)}"
            for tag, name, mean in zip("AB", names, means, strict=True)
        ),
        f"    {'A - B'.ljust(width)}  {points(found.difference):>6}  {_range(found, points)}",
        "undecided: the interval covers 0"
        if found.verdict == "undecided"
        else f"A is {found.verdict} than B",
        f"they differ in: {_list(fields) or 'no field of the config'}",
    ]
    return "\n".join(lines)


def percent(share: float) -> str:
    """0.807 -> "80.7"."""
    return signed(100 * share)


def points(difference: float) -> str:
    """Percentage points with their sign: 0.021 -> "+2.1"."""
    text = signed(100 * difference, 2)
    return text if text.startswith("\N{MINUS SIGN}") else f"+{text}"


def _range(found: Interval | None, form=percent) -> str:
    return "" if found is None else f"{form(found.low)} to {form(found.high)}"


def _range_name() -> str:
    return f"{100 * CONFIDENCE:.0f} % interval"


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def main(words: list[str]) -> int:
    """The command results; returns the exit status."""
    comparing = words[:1] == ["compare"]
    given = (_compare_parser() if comparing else _table_parser()).parse_args(words[comparing:])
    try:
        blocks = _comparisons(given) if comparing else _tables(given)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"mdrlib: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print("\n\n".join(blocks))
    print(f"\nIntervals: {100 * CONFIDENCE:.0f} %, {METHOD}; differences are paired by seed.")
    return 0


def _table_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mdrlib results",
        description="Runs over seeds: means, differences to a baseline paired by seed, and their intervals",
        epilog="`mdrlib results compare A B` shows the difference of two groups alone",
    )
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="lists of runs, folders of them or of runs, in one table a "
        "data set; by default each list of data/results for itself"
    )  # fmt: skip
    parser.add_argument("--baseline", help='name of a group; by default "triplet", else the first')
    parser.add_argument("--metric", default="recall@1", help="of the runs' metrics; by default recall@1")
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mdrlib results compare", description="The paired difference of two groups of runs, A minus B"
    )
    what = "a name as `mdrlib results` prints it, or a file or folder with runs of one group"
    parser.add_argument("a", metavar="A", help=what)
    parser.add_argument("b", metavar="B", help="the same")
    parser.add_argument(
        "--from", dest="paths", nargs="+", metavar="PATH", default=[],
        help="where groups of these names are; by default the lists of data/results",
    )  # fmt: skip
    parser.add_argument("--metric", default="recall@1", help="of the runs' metrics; by default recall@1")
    return parser


def _tables(given: argparse.Namespace) -> list[str]:
    blocks, there = [], []
    for title, runs in parts(given.paths).items():
        found = comparison.groups(runs, given.metric)
        names = [group.label for group in found]
        there.append(f"in {title} {names}")
        if given.baseline is None or given.baseline in names:
            lines = table(found, given.metric, given.baseline)
            blocks.append(f"{title}, {metric_name(given.metric)} in percent\n{lines}")
    if not blocks:
        raise ValueError(f"no group of runs is called {given.baseline!r}; there are {'; '.join(there)}")
    return blocks


def _comparisons(given: argparse.Namespace) -> list[str]:
    sides = (given.a, given.b)
    paths = [side for side in sides if Path(side).exists()]
    if len(paths) == 2:
        return [compare(_only_group(given.a, given.metric), _only_group(given.b, given.metric), given.metric)]
    if paths:
        other = given.b if paths == [given.a] else given.a
        raise ValueError(
            f"{paths[0]} is a file or folder and {other} is none; give two of them, or two names and --from"
        )
    blocks, there = [], []
    for title, runs in parts(given.paths).items():
        found = comparison.groups(runs, given.metric)
        names = [group.label for group in found]
        there.append(f"in {title} {names}")
        if {*sides} <= {*names}:
            two = (comparison.pick(found, side) for side in sides)
            blocks.append(f"{title}, {compare(*two, given.metric)}")
    if not blocks:
        raise ValueError(f"no runs have both groups {sides}; there are {'; '.join(there)}")
    return blocks


def _only_group(path: str, metric: str) -> Group:
    found = comparison.groups(read([path]), metric)
    if len(found) != 1:
        names = [group.label for group in found]
        raise ValueError(
            f"{path} has {len(found)} groups of runs; name two of {names} with --from {path}, or give a file "
            "for each"
        )
    return found[0]
