"""Groups of runs over seeds, differences paired by seed, their intervals, and `mdrlib results`.

Intervals are Student's t, which suits means of few, roughly normal values. A bootstrap is too narrow there.
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdrlib import checks
from mdrlib.config import Config
from mdrlib.results import Result, load_committed, load_run, write_csv

STORED = Path(__file__).resolve().parents[1] / "data/results"  # of the clone
FEW = 5  # fewest seeds of a row in a table of the book
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """The mean of a - b over `n` shared seeds and the ends of its interval."""

    difference: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """Whether a is "better" (higher), "worse" or, if the interval covers 0, "undecided"."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"


class Group(NamedTuple):
    """Runs that differ only in their seed and in where they ran."""

    label: str  #: Unique among the groups it was made with.
    config: dict[str, Any]  #: Fields of the Config that say what a run is, without the seed.
    data: dict[str, Any]  #: See `Result`.
    values: dict[int, float]  #: Seed -> metric.


class Row(NamedTuple):
    """A group in a table."""

    label: str  #: See `Group`.
    n: int  #: Number of seeds.
    mean: float  #: Of the metric over seeds.
    interval: Interval | None  #: None for one seed.
    difference: Difference | None  #: To the baseline; None for itself or fewer than two shared seeds.

    @property
    def verdict(self) -> str:
        """That of the difference; "undecided" without one."""
        return self.difference.verdict if self.difference else "undecided"


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Compute the mean of n >= 2 values and its interval, mean -+ t(n - 1) s / sqrt(n), s by n - 1."""
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ImportError('intervals need scipy: pip install "mdrlib[results]"') from error
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"an interval needs two or more finite values, got {x.tolist()}")
    # The mean of equal values may be off by a rounding, which must not become a spread.
    mean, s = (x[0], 0.0) if (x == x[0]).all() else (x.mean(), x.std(ddof=1))
    half = t.ppf((1 + confidence) / 2, len(x) - 1) * s * math.sqrt(1 / len(x))
    return Interval(float(mean), float(mean - half), float(mean + half))


def paired(a: Mapping[int, float], b: Mapping[int, float], confidence: float = CONFIDENCE) -> Difference:
    """Compute the mean of a - b over two or more shared seeds, from two mappings seed -> value."""
    shared = sorted(a.keys() & b.keys())
    if len(shared) < 2:
        raise ValueError(
            f"a paired difference needs two or more shared seeds, got {shared} of {sorted(a)} and {sorted(b)}"
        )
    return Difference(*interval([a[seed] - b[seed] for seed in shared], confidence), len(shared))


def groups(results: Iterable[Result], metric: str = "recall@1") -> list[Group]:
    """Group runs that differ only in seed and place; ValueError for other data, or for a seed twice."""
    found: dict[str, Group] = {}
    for result in results:
        config = json.loads(Config.of(result.config).identity())
        seed = config.pop("seed")
        if "weights" in result.data:  # a file of the same name and other content is another one
            config["weights"] = f"{config['weights']} {result.data['weights'].get('fingerprint')}"
        name = f"{config['dataset']} {config['method']}, seed {seed}"
        if metric not in result.metrics:
            raise ValueError(f"{name} has no metric {metric!r}: choose one of {list(result.metrics)}")
        group = found.setdefault(json.dumps(config), Group("", config, result.data, {}))
        value = result.metrics[metric]
        if seed in group.values:
            both = f"{metric} {group.values[seed]:.4f} and {value:.4f}"
            raise ValueError(f"two runs of {name} have the same config, with {both}; leave one of them out")
        if _images(result.data) != _images(group.data):
            both = f"{_images(group.data)} and, of {name}, {_images(result.data)}"
            raise ValueError(f"runs of one config saw different data, {both}; compare them separately")
        group.values[seed] = value
    made = []
    for group in found.values():
        alike = [g.config for g in found.values() if g.config["method"] == group.config["method"]]
        words = [group.config["method"]]
        for field in _differing(alike):
            value = group.config.get(field, Config.__dataclass_fields__[field].default)
            words.append(f"{field}={','.join(f'{v:g}' for v in value) if isinstance(value, list) else value}")
        made.append(group._replace(label=" ".join(words)))
    return made


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    first = configs[0]
    return [k for k in Config.__dataclass_fields__ if any(c.get(k) != first.get(k) for c in configs)]


def by_data(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Group comparable runs by the name of their data set, with its fingerprints if these differ."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.config["dataset"], _images(result.data)), []).append(result)
    names = [name for name, _ in found]
    return {
        name if names.count(name) == 1 else f"{name} ({images})": found[name, images]
        for name, images in sorted(found, key=lambda key: key[0])
    }


def _images(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{split} {of.get('fingerprint')}" for split, of in data.items() if split != "weights")


def rows(found: Sequence[Group], baseline: str | None = None, confidence: float = CONFIDENCE) -> list[Row]:
    """Make a row per group, with its difference from the `baseline`; ValueError for other images."""
    base, made = pick(found, baseline), []
    for group in found:
        seen = [f"{g.config['dataset']}: {_images(g.data)}" for g in (group, base)]
        if seen[0] != seen[1]:
            words = f"{group.label!r} {seen[0]} and {base.label!r} {seen[1]}"
            raise ValueError(f"groups that saw different images cannot be compared: {words}")
        of_seeds = list(group.values.values())
        own = interval(of_seeds, confidence) if len(of_seeds) > 1 else None
        alone = group is base or len(group.values.keys() & base.values.keys()) < 2
        difference = None if alone else paired(group.values, base.values, confidence)
        made.append(Row(group.label, len(of_seeds), own.mean if own else of_seeds[0], own, difference))
    return made


def pick(found: Sequence[Group], name: str | None = None) -> Group:
    """Return the group labelled `name`, by default "triplet", else the first; ValueError lists labels."""
    labels = [group.label for group in found]
    if name is None and labels:
        name = "triplet" if "triplet" in labels else labels[0]
    if name not in labels:
        raise ValueError(f"no group of runs is called {name!r}: choose one of {labels}")
    return found[labels.index(name)]


def read(paths: Iterable[str | Path]) -> list[Result]:
    """Read the runs of files (lists, or result.json) and of folders; ValueError for a folder without runs."""
    found = []
    for path in map(checks.path, paths):
        for file in _files(path) if path.is_dir() else [path]:
            found += [load_run(file.parent)] if file.name == "result.json" else load_committed(file)
    return found


def _files(folder: Path) -> list[Path]:
    found = [file for file in sorted(folder.glob("*.json")) if not file.name.startswith("bench-")]
    if folder / "result.json" in found:  # other files of a run are no lists
        found = [folder / "result.json"]
    found += sorted(folder.glob("*/result.json"))
    if not found:
        raise ValueError(f"{folder} has no runs, as *.json or */result.json: give files or folders of runs")
    return found


def metric_name(key: str) -> str:
    """Return the written form of a key of `Result.metrics`: "recall@1" -> "Recall@1"."""
    return {"r_precision": "R-Precision", "map@r": "MAP@R"}.get(key, key.replace("recall", "Recall"))


def signed(value: float, digits: int = 1, plus: str = "") -> str:
    """Format a number with a true minus sign, and with a plus sign for plus="+"."""
    text = f"{round(value, digits) + 0.0:{plus}.{digits}f}"  # + 0.0: no minus zero
    return text.replace("-", "\N{MINUS SIGN}")


def _cells(found: Sequence[float], digits: int = 1, plus: str = "") -> list[str]:
    mean, low, high = (signed(100 * value, digits, plus) for value in found[:3])
    return [mean, f"{low} to {high}"]


def table(found: Sequence[Group], metric: str, baseline: str | None = None) -> str:
    """Format the groups of one data set as text: seeds, mean, difference from the baseline, verdict."""
    base, ends = pick(found, baseline).label, f"{100 * CONFIDENCE:.0f} % interval"
    lines = [["", "seeds", metric_name(metric), ends, f"minus {base}", ends, "verdict"]]
    made = rows(found, baseline)
    for row in made:
        d, verdict = row.difference, row.verdict
        if row.label == base:
            verdict = "the baseline"
        elif d is None:
            verdict = "undecided: under 2 shared seeds"
        elif d.n < row.n:
            verdict += f" ({d.n} shared seeds)"
        seeds = f"{row.n}{'*' if row.n < FEW else ' '}"
        own = _cells(row.interval) if row.interval else [signed(100 * row.mean), ""]
        lines.append([row.label, seeds, *own, *(_cells(d, 2, "+") if d else ["", ""]), verdict])
    first, *widths, _ = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for name, *cells, verdict in lines:
        text.append("  ".join([name.ljust(first), *map(str.rjust, cells, widths), verdict]).rstrip())
    if any(row.n < FEW for row in made):
        text.append(f"* fewer than {FEW} seeds: too few for a table to show")
    return "\n".join(text)


def main(words: Sequence[str]) -> None:
    """Run the command `mdrlib results`; errors in what it reads and compares pass through."""
    parser = argparse.ArgumentParser(
        "mdrlib results",
        usage="%(prog)s [PATH ...] [compare A B] [--metric NAME] [--baseline NAME] [--csv FILE]",
        description="Means of runs over seeds, and differences paired by seed: a table per data set. "
        "compare A B shows two groups alone, and A minus B, by the names of the tables.",
    )
    parser.add_argument("words", nargs="*", metavar="PATH", help="lists of runs, or folders of runs")
    parser.add_argument("--metric", default="recall@1", help="a metric of the runs; by default recall@1")
    parser.add_argument("--baseline", help='name of a group; by default "triplet", else the first')
    parser.add_argument("--csv", metavar="FILE", help="write a row per run, and their histories next to it")
    given = parser.parse_intermixed_args(words)
    at = given.words.index("compare") if "compare" in given.words else len(given.words)
    paths, compared = given.words[:at], given.words[at + 1 :]
    if at < len(given.words) and len(compared) != 2:
        parser.error(f"compare takes the names of two groups, got {compared}")
    if given.csv:
        write_table(read(paths or _files(STORED)), checks.path(given.csv, "--csv"))
    names = compared or ([given.baseline] if given.baseline else [])
    baseline = names[-1] if names else None
    blocks = [] if paths else [f"No PATH is given: these are the book's stored runs, {STORED}\n"]
    for title, found in _tables(paths, given.metric, names).items():
        shown = [pick(found, name) for name in compared] or found
        text = f"{title}, {metric_name(given.metric)} in percent\n{table(shown, given.metric, baseline)}\n"
        if compared:
            text += f"they differ in: {', '.join(_differing([of.config for of in shown])) or 'no field'}\n"
        blocks.append(text)
    print(*blocks, sep="\n")
    print(f"Intervals: {100 * CONFIDENCE:.0f} %, Student's t over seeds; differences are paired by seed.")


def write_table(found: Iterable[Result], path: Path) -> None:
    """Write a CSV file with a row per run and, as NAME-history.csv, one with a row per evaluation.

    In both, the column "run" numbers the runs. The others are fields of the Config, metrics and seconds.
    """
    runs, histories = [], []
    for number, result in enumerate(found):
        config = Config.of(result.config).to_dict()
        about = {"selected_by": result.selected_by, "seconds": result.seconds}
        runs.append({"run": number} | config | result.metrics | about)
        same = {key: config[key] for key in ("dataset", "method", "seed")}
        histories += [{"run": number} | same | row for row in result.history]
    write_csv(runs, path)
    write_csv(histories, path.with_name(f"{path.stem}-history.csv"))


def _tables(paths: Sequence[str], metric: str, names: Sequence[str]) -> dict[str, list[Group]]:
    """Return the groups of each table by its title, for the tables that have all `names`."""
    found = by_data(read(paths))
    if not paths:  # each stored list for itself: they share runs
        each = {path.name: by_data(read([path])) for path in _files(STORED)}
        found = {f"{name}: {title}": runs for name, of in each.items() for title, runs in of.items()}
    tables = {title: groups(runs, metric) for title, runs in found.items()}
    labels = {title: [group.label for group in of] for title, of in tables.items()}
    wanted = {title: of for title, of in tables.items() if {*names} <= {*labels[title]}}
    if not wanted:
        there = "; ".join(f"in {title} {of}" for title, of in labels.items())
        raise ValueError(f"no runs have the group(s) {names}; there are {there}")
    return wanted
