"""The results of the random configurations of a tuning study, arm by arm.

The configurations of an arm are ordered by the greatest MAP@R along the run on training classes that were
held out; metrics of test classes are never looked at.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdrbook.tuned import Study, Trial, arm_of
from mdrlib.config import Config
from mdrlib.results import Result
from runs import committed, read, swept
from studies import matrix

ROOT = Path(__file__).resolve().parents[1]


def trials(root: Path, study: str, results: dict[str, Result]) -> dict[str, list[Trial]]:
    """Return the finished trials of each arm of a study, the best first.

    A configuration that was tried with several alphabets held out is finished when all its runs are.

    Args:
        results: By identity, as `runs.committed` and `runs.swept` return them.
    """
    tried: dict[str, list[Config]] = {}
    for cell in matrix(root, study):
        tried.setdefault(replace(cell.config, held_out_group=-1).identity(), []).append(cell.config)
    arms: dict[str, list[Result]] = {}
    for configs in tried.values():
        made = [results[config.identity()] for config in configs if config.identity() in results]
        arms.setdefault(arm_of(configs[0]), []).extend(made if len(made) == len(configs) else [])
    return Study(arms, {}, {}).trials()


def table(found: dict[str, list[Trial]], drawn: Sequence[str]) -> str:
    """Say what each trial of each arm scored, in percent, with the fields that were drawn."""
    lines = []
    for arm, its in found.items():
        lines.append(f"{arm}: {len(its)} configurations")
        for trial in its:
            values = "  ".join(f"{name} {getattr(trial.config, name):g}" for name in drawn)
            lines.append(f"  {100 * trial.score:5.1f} at iteration {trial.iteration:4}  {values}")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Print the table of studies of ci/ablations.yml."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", metavar="STUDY")
    given: Any = parser.parse_args(words)
    results = committed(ROOT) | swept(ROOT)
    for study in given.studies:
        draws = read(ROOT, "ablations")["studies"][study]["draws"]
        print(table(trials(ROOT, study, results), [name for name in draws if name != "count"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
