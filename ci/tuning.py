"""What the random configurations of a tuning study have shown, an arm after the other.

An arm is a grid's fixed fields. Its configurations are ordered by the greatest MAP@R along the run on
training classes that were held out; metrics of test classes are never looked at.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mdrlib.config import Config
from mdrlib.results import Result
from runs import committed, matrix, read, swept

ROOT = Path(__file__).resolve().parents[1]
METRIC = "validation_map@r"


class Trial(NamedTuple):
    """One configuration that was tried."""

    score: float  #: the greatest METRIC along the run
    iteration: int  #: where it was
    drawn: dict[str, float]  #: the fields that were drawn
    config: Config


def trials(root: Path, study: str, results: dict[str, Result]) -> dict[str, list[Trial]]:
    """Return the finished trials of each arm of a study, the best first.

    Args:
        results: By identity, as `runs.committed` and `runs.swept` return them.
    """
    about = read(root, "ablations")["studies"][study]
    grids = about["grid"] if isinstance(about["grid"], list) else [about["grid"]]
    fields = sorted({field for grid in grids for field, values in grid.items() if values == "draw"})
    found: dict[str, list[Trial]] = {}
    for cell in matrix(root, study):
        config = cell.config
        fixed = {name: getattr(config, name) for grid in grids for name in grid if name not in fields}
        arm = found.setdefault(", ".join(f"{name} {value}" for name, value in fixed.items()), [])
        if config.identity() in results:
            rows = [row for row in results[config.identity()].history if row["iteration"] > 0]
            best = max(rows, key=lambda row: row[METRIC])
            drawn = {name: getattr(config, name) for name in fields}
            arm.append(Trial(best[METRIC], best["iteration"], drawn, config))
    return {arm: sorted(its, key=lambda trial: -trial.score) for arm, its in found.items()}


def table(found: dict[str, list[Trial]]) -> str:
    """Say what each trial of each arm scored, in percent."""
    lines = []
    for arm, its in found.items():
        lines.append(f"{arm}: {len(its)} configurations")
        for trial in its:
            values = "  ".join(f"{name} {value:g}" for name, value in trial.drawn.items())
            lines.append(f"  {100 * trial.score:5.1f} at iteration {trial.iteration:4}  {values}")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Print the table of studies of ci/ablations.yml."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", metavar="STUDY")
    given: Any = parser.parse_args(words)
    results = committed(ROOT) | swept(ROOT)
    for study in given.studies:
        print(table(trials(ROOT, study, results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
