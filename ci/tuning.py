"""The results of the random configurations of a tuning study, arm by arm.

An arm is a grid's listed fields. Its configurations are ordered by the greatest MAP@R along the run on
training classes that were held out; metrics of test classes are never looked at.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mdrbook.contrasts import best_stop
from mdrlib.config import Config
from mdrlib.results import Result
from runs import committed, read, swept
from studies import matrix

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

    A configuration that was tried with several alphabets held out is one trial, of the mean over these. It is
    finished when all its runs are.

    Args:
        results: By identity, as `runs.committed` and `runs.swept` return them.
    """
    about = read(root, "ablations")["studies"][study]
    grids = about["grid"] if isinstance(about["grid"], list) else [about["grid"]]
    drawn = sorted({field for grid in grids for field, values in grid.items() if values == "draw"})
    listed = {field for grid in grids for field in grid} - {*drawn, "held_out_group"}
    arms: dict[str, dict[str, list[Config]]] = {}
    for cell in matrix(root, study):
        arm = ", ".join(f"{name} {getattr(cell.config, name)}" for name in sorted(listed, reverse=True))
        configuration = replace(cell.config, held_out_group=-1).identity()
        arms.setdefault(arm, {}).setdefault(configuration, []).append(cell.config)
    found: dict[str, list[Trial]] = {arm: [] for arm in arms}
    for arm, configurations in arms.items():
        for configs in configurations.values():
            made = [results[c.identity()] for c in configs if c.identity() in results]
            if len(made) == len(configs):
                iteration, score = best_stop(made, METRIC)
                values = {name: getattr(configs[0], name) for name in drawn}
                found[arm].append(Trial(score, iteration, values, configs[0]))
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
