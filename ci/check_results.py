"""Refuse a wrong number: hold the finished runs of a scale against the ranges of ci/expected.yml.

`python ci/check_results.py --scale smoke` exits 1 and prints what came and what was expected for each value
outside its range, NaN, or missing run. A run that needs a data set that cannot be had here is left out, as
`ci/execute.py` leaves it out; one whose entry is null has no ranges yet and is named as not checked.

`--derive smoke --seeds 10` makes these runs with 10 seeds and writes their ranges; `--derive quick --from
FILE` takes the runs that differ from those of the scale in their seed alone from a stored list instead.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import plan
from mdrlib.checkpoint import write_atomically
from mdrlib.config import PLACE, completed
from mdrlib.experiment import Config, run
from mdrlib.results import Result, load_committed, load_run
from mdrlib.statistics import prediction

ROOT = Path(__file__).resolve().parents[1]
CONFIDENCE = 0.99  # that one more good run lies in the range of one value, before it is widened
WIDENED = 1.25  # times the half width: for other machines' rounding, and for more values than one
LEAST = 5  # seeds that a range is derived from
HEADER = f"""\
# The ranges in which the values of a finished run must lie; ci/check_results.py looks, its --derive writes.
#
# A range is that of one more run: mean -+ {WIDENED} t s sqrt(1 + 1/n). s is the spread (standard deviation)
# over n seeds, t Student's for {100 * CONFIDENCE:g} % and n - 1 degrees of freedom, {WIDENED} for other
# machines' rounding. None begins below 0, and those of shares end at 1. recall@1 and map@r are of the last
# evaluation, loss and regularizer are means over the batches since the evaluation before it. `untrained` is
# the mean Recall@1 before training; at scale quick every range of recall@1 lies above it.
#
# Scale smoke trains on 12 batches. Its ranges catch a network that does not learn: with a learning rate of 0
# recall@1 falls below them, with shuffled labels the loss rises above (tests/ci/test_expected.py). They
# cannot tell one method from another, nor a weak regularizer from a strong one.
"""


def values_of(result: Result) -> dict[str, float]:
    """What the ranges are about: recall@1, map@r, loss and, with MDR, the regularizer."""
    last = result.history[-1]
    found = {name: result.metrics.get(name) for name in ("recall@1", "map@r")}
    found |= {name: last[name] for name in ("loss", "regularizer") if name in last}
    return {name: math.nan if value is None else value for name, value in found.items()}


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """A config without its seed and what names a place, newer fields at their defaults."""
    return {key: value for key, value in completed(config).items() if key not in ("seed", *PLACE)}


def configs_of(root: Path, scale: str) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """Of each run of a scale by name the data set that it needs, if any, and its config.

    Raises ValueError for a scale that has no runs of its own in ci/experiments.yml.
    """
    spec = yaml.safe_load((root / "ci/experiments.yml").read_text())
    if scale not in spec["scales"]:
        raise ValueError(f"no scale {scale!r} in ci/experiments.yml; it has {sorted(spec['scales'])}")
    changes = spec["scales"][scale]
    return {
        name: (about.get("needs"), about["config"] | changes.get(about["config"]["dataset"], {}))
        for name, about in spec["runs"].items()
    }


def check(root: Path, scale: str, sets: dict[str, str | None] | None = None) -> list[str]:
    """What is wrong with the runs in _build/runs/<scale>, a line each; says what was checked.

    sets: optional data set -> None if it cannot be had here; asked for when a run is missing. Raises
    ValueError for a scale or files that are none, FileNotFoundError without ci/expected.yml.
    """
    runs, expected = configs_of(root, scale), read(root).get(scale, {})
    wrong = [
        f"{name}: got ranges in ci/expected.yml, expected none: ci/experiments.yml has no such run"
        for name in expected.keys() - runs.keys()
    ]
    for name, (needs, config) in runs.items():
        folder = root / "_build/runs" / scale / name
        if not (folder / "result.json").exists():
            if needs and sets is None:
                sets = plan.optional_sets(root)
            if needs and sets[needs] is None:
                print(f"{name}: left out, {needs} cannot be had here")
            else:
                wrong.append(f"{name}: got no {folder / 'result.json'}, expected one; call make experiments")
            continue
        if name not in expected:
            wrong.append(
                f"{name}: got no entry in ci/expected.yml, expected its ranges at scale {scale}; --derive "
                "them, or write null there to leave it unchecked"
            )
            continue
        if expected[name] is None:
            print(f"{name}: NOT CHECKED, ci/expected.yml has no ranges of it yet at scale {scale}")
            continue
        found = problems(load_run(folder), config, expected[name])
        wrong += [f"{name}: {line}" for line in found]
        if not found:
            print(f"{name}: {len(expected[name]['ranges'])} values in their ranges")
    return wrong


def problems(result: Result, config: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is wrong with one run: of another config than `config`, or values outside the expected ranges."""
    for what, other in (("the run's config", result.config), ("the ranges' config", expected["config"])):
        got, wanted = identity(other), identity(config)
        differ = [
            f"{key}: got {got[key]!r}, expected {wanted[key]!r}" for key in wanted if got[key] != wanted[key]
        ]
        if differ:
            return [f"{what} is not that of ci/experiments.yml ({', '.join(differ)})"]
    values = values_of(result)
    wrong = []
    for name, about in expected["ranges"].items():
        value = values.get(name, math.nan)
        if not about["low"] <= value <= about["high"]:  # so written, NaN is outside
            wrong.append(f"{name}: got {value:.4f}, expected {about['low']} to {about['high']}")
    if not expected["ranges"]:
        wrong.append("got ranges of no values, expected some")
    return wrong


def read(root: Path) -> dict[str, dict[str, Any]]:
    """ci/expected.yml: scale -> run -> None, or config, seeds, untrained and ranges."""
    return yaml.safe_load((root / "ci/expected.yml").read_text()) or {}


def derive(config: dict[str, Any], results: Sequence[Result], above_untrained: bool) -> dict[str, Any]:
    """The entry of one run in ci/expected.yml, from runs of its config with different seeds.

    Raises ValueError for fewer than 5 seeds, a seed twice, and, with above_untrained, for a range of recall@1
    that an untrained network could lie in.
    """
    seeds = [result.config["seed"] for result in results]
    if len(seeds) < LEAST or len(set(seeds)) != len(seeds):
        raise ValueError(
            f"ranges need runs with {LEAST} or more different seeds, got the seeds {sorted(seeds)}"
        )
    samples = [values_of(result) for result in results]
    ranges = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        mean, low, high = prediction(values, CONFIDENCE)
        low, high = mean - WIDENED * (mean - low), mean + WIDENED * (high - mean)
        low, high = max(low, 0.0), min(high, 1.0) if name in ("recall@1", "map@r") else high
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        # Outwards, so that rounding narrows nothing.
        ends = {"low": math.floor(1e4 * low) / 1e4, "high": math.ceil(1e4 * high) / 1e4}
        ranges[name] = {"mean": round(mean, 5), "spread": round(spread, 5)} | ends
    untrained = [result.history[0]["recall@1"] for result in results]
    if above_untrained and ranges["recall@1"]["low"] <= max(untrained):
        raise ValueError(
            f"recall@1 from {ranges['recall@1']['low']} on would take an untrained network's "
            f"{max(untrained):.4f} for a good one; its runs spread too widely, look at them"
        )
    about = {"config": config, "seeds": sorted(seeds), "untrained": round(sum(untrained) / len(untrained), 4)}
    return about | {"ranges": ranges}


def derive_scale(root: Path, scale: str, seeds: int, stored: Path | None) -> None:
    """Write the ranges of a scale's runs into ci/expected.yml, from new runs or those of a stored list.

    Runs of data sets that cannot be had, or that the list does not have, keep the ranges that they had.
    """
    expected = read(root) if (root / "ci/expected.yml").exists() else {}
    entries = expected.setdefault(scale, {})
    known = load_committed(stored) if stored else None
    sets = plan.optional_sets(root) if known is None else {}
    for name, (needs, config) in configs_of(root, scale).items():
        if known is not None:
            results = [result for result in known if identity(result.config) == identity(config)]
        elif needs and sets[needs] is None:
            results = []
        else:
            results = [_run(config | {"seed": seed}) for seed in range(seeds)]
        if results:
            entries[name] = derive(config, results, above_untrained=scale != "smoke")
        else:
            entries.setdefault(name)
        print(
            f"{name}: {'ranges of ' + str(len(results)) + ' runs' if results else 'no runs, left as it was'}"
        )
        _write(root, expected)  # after each: they take minutes


def _run(config: dict[str, Any]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return run(Config.of(config), folder)


def _write(root: Path, expected: dict[str, Any]) -> None:
    text = HEADER
    for scale, runs in expected.items():
        text += f"\n{scale}:\n"
        for name, about in runs.items():
            if about is None:
                text += f"  {name}: null  # no ranges yet: not checked\n"
                continue
            text += f"  {name}:\n    config: {_flow(about['config'])}\n    seeds: {_flow(about['seeds'])}\n"
            text += f"    untrained: {about['untrained']}\n    ranges:\n"
            text += "".join(f"      {value}: {_flow(ends)}\n" for value, ends in about["ranges"].items())
    write_atomically(root / "ci/expected.yml", lambda file: file.write(text.encode()))


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip()


def main(words: list[str] | None = None, root: Path = ROOT) -> int:
    """Check, or derive, from the command line; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", default="smoke", help="whose runs to check; by default smoke")
    parser.add_argument("--derive", metavar="SCALE", help="write the ranges of this scale instead")
    parser.add_argument("--seeds", type=int, default=10, help="so many runs of each, seeds 0, 1, ...")
    parser.add_argument(
        "--from", dest="stored", type=Path, metavar="FILE", help="a list of runs to derive from"
    )
    given = parser.parse_args(words)
    try:
        if given.derive:
            derive_scale(root, given.derive, given.seeds, given.stored)
            return 0
        wrong = check(root, given.scale)
    except (ValueError, OSError, ImportError) as error:
        print(f"check_results: {error}", file=sys.stderr)
        return 1
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
