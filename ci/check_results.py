"""Refuse a wrong number: compare the finished runs of a scale with the ranges of ci/expected.yml.

`python ci/check_results.py --scale smoke` exits 1 and prints each value outside its range, NaN, or missing
run, with the expected values. A run whose data set is missing is skipped, as in `ci/execute.py`. A run whose
entry is null has no ranges yet and is named as not checked.

`--derive smoke --seeds 10` makes these runs with 10 seeds and writes their ranges; `--derive quick --from
FILE` takes the runs that differ from those of the scale in their seed alone from a stored list instead.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from scipy import stats

import runs
from mdrlib import checks
from mdrlib.checkpoint import write_atomically
from mdrlib.experiment import Config, run
from mdrlib.results import Result, load_committed, load_run

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
# cannot tell one method from another, nor a weak regularizer from a strong one. On groceries it trains on 3
# batches: those ranges catch wrong features or a wrong protocol, not a network that does not learn.
"""


def values_of(result: Result) -> dict[str, float]:
    """Return the values that ranges check: recall@1, map@r, loss and, with MDR, the regularizer."""
    last = result.history[-1]
    found = {name: result.metrics.get(name) for name in ("recall@1", "map@r")}
    found |= {name: last[name] for name in ("loss", "regularizer") if name in last}
    return {name: math.nan if value is None else value for name, value in found.items()}


def without_seed(config: dict[str, Any]) -> Config:
    """Return the Config with its seed at 0: runs that share its identity differ in their seeds alone."""
    return replace(Config.of(config), seed=0)


def check(root: Path, scale: str) -> list[str]:
    """Check the runs in _build/runs/<scale>, print which were checked, and return the faults."""
    known, expected = runs.experiments(root, scale), read(root).get(scale, {})
    wrong = [
        f"{name}: got ranges in ci/expected.yml, expected none: ci/experiments.yml has no such run"
        for name in expected.keys() - known.keys()
    ]
    missing = [name for name in known if not result_of(root, scale, name).exists()]
    data = runs.data_here(root, scale) if missing else {}
    for name, (needs, config) in known.items():
        if name in missing and needs and needs not in data:
            print(f"{name}: left out, {needs} is not available")
        elif name in missing:
            path = result_of(root, scale, name)
            wrong.append(f"{name}: got no {path}, expected one; call make experiments")
        elif name not in expected:
            wrong.append(
                f"{name}: got no entry in ci/expected.yml, expected its ranges at scale {scale}; --derive "
                "them, or write null there to leave it unchecked"
            )
        elif expected[name] is None:
            print(f"{name}: NOT CHECKED, ci/expected.yml has no ranges of it yet at scale {scale}")
        else:
            found = problems(load_run(result_of(root, scale, name).parent), config, expected[name])
            wrong += [f"{name}: {line}" for line in found]
            if not found:
                print(f"{name}: {len(expected[name]['ranges'])} values in their ranges")
    return wrong


def result_of(root: Path, scale: str, name: str) -> Path:
    """Return where the result of a run is."""
    return root / "_build/runs" / scale / name / "result.json"


def problems(result: Result, config: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """List the faults of one run: another config than `config`, or values outside the ranges."""
    wanted = without_seed(config)
    for what, other in (("the run's config", result.config), ("the ranges' config", expected["config"])):
        got = without_seed(other)
        if got.identity() != wanted.identity():
            values = wanted.to_dict()
            differ = [
                f"{k}: got {v!r}, expected {values[k]!r}" for k, v in got.to_dict().items() if v != values[k]
            ]
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
    """Read ci/expected.yml: scale -> run -> None, or config, seeds, untrained and ranges."""
    return yaml.safe_load((root / "ci/expected.yml").read_text()) or {}


def derive(config: dict[str, Any], results: Sequence[Result], above_untrained: bool) -> dict[str, Any]:
    """Derive the entry of one run in ci/expected.yml, from runs of its config with different seeds.

    With above_untrained, a range of recall@1 that an untrained network could lie in is refused.
    """
    seeds = [result.config["seed"] for result in results]
    n = len(seeds)
    if n < LEAST or len(set(seeds)) != n:
        raise ValueError(
            f"ranges need runs with {LEAST} or more different seeds, got the seeds {sorted(seeds)}"
        )
    samples = [values_of(result) for result in results]
    ranges = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if not all(map(math.isfinite, values)):
            raise ValueError(f"the values of {name} must be finite, got {values}")
        mean = sum(values) / n
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
        half = WIDENED * stats.t.isf((1 - CONFIDENCE) / 2, n - 1) * spread * math.sqrt(1 + 1 / n)
        low, high = max(mean - half, 0.0), mean + half
        high = min(high, 1.0) if name in ("recall@1", "map@r") else high
        # Outwards, so that rounding narrows nothing.
        ends = {"low": math.floor(1e4 * low) / 1e4, "high": math.ceil(1e4 * high) / 1e4}
        ranges[name] = {"mean": round(mean, 5), "spread": round(spread, 5)} | ends
    untrained = [result.history[0]["recall@1"] for result in results]
    if above_untrained and ranges["recall@1"]["low"] <= max(untrained):
        raise ValueError(
            f"recall@1 from {ranges['recall@1']['low']} on would accept an untrained network, which has "
            f"{max(untrained):.4f}: its runs spread too widely, look at them"
        )
    about = {"config": config, "seeds": sorted(seeds), "untrained": round(sum(untrained) / n, 4)}
    return about | {"ranges": ranges}


def derive_scale(root: Path, scale: str, seeds: int, stored: Path | None) -> None:
    """Write the ranges of a scale's runs into ci/expected.yml, from new runs or those of a stored list.

    Runs on data sets that are not available, or that the list does not have, keep the ranges that they had.
    """
    expected = read(root) if (root / "ci/expected.yml").exists() else {}
    entries = expected.setdefault(scale, {})
    known = load_committed(stored) if stored else None
    data = {} if stored else runs.data_here(root, scale)
    for name, (needs, config) in runs.experiments(root, scale).items():
        if known is not None:
            wanted = without_seed(config).identity()
            results = [result for result in known if without_seed(result.config).identity() == wanted]
        elif needs and needs not in data:
            results = []
        else:
            results = [run_once(config | {"seed": seed}) for seed in range(seeds)]
        if results:
            entries[name] = derive(config, results, above_untrained=scale != "smoke")
        else:
            entries.setdefault(name)
        print(f"{name}: {f'ranges of {len(results)} runs' if results else 'no runs, left unchanged'}")
        write(root, expected)  # after each: they take minutes


def run_once(config: dict[str, Any]) -> Result:
    """Make a run and forget its files."""
    with tempfile.TemporaryDirectory() as folder:
        return run(Config.of(config), folder)


def write(root: Path, expected: dict[str, Any]) -> None:
    """Write ci/expected.yml, the innermost lists and mappings on a line each."""
    text = HEADER + yaml.safe_dump(expected, sort_keys=False, default_flow_style=None, width=math.inf)
    write_atomically(root / "ci/expected.yml", lambda file: file.write(text.encode()))


def main(words: list[str] | None = None, root: Path = ROOT) -> int:
    """Check, or derive, from the command line; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", default="smoke", help="whose runs to check; by default smoke")
    parser.add_argument("--derive", metavar="SCALE", help="write the ranges of this scale instead")
    parser.add_argument("--seeds", type=int, default=10, help="so many runs of each, seeds 0, 1, ...")
    parser.add_argument(
        "--from", dest="stored", type=checks.path, metavar="FILE", help="a list of runs to derive from"
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
