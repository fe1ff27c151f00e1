"""Store the results of finished runs for builds that cannot run them: data/results/<data set>-<scale>.json

The file lists the runs' result.json, with history and provenance. Runs of uncommitted code are refused: the
commit in a stored result must be the code that produced it. So are runs on a miniature of a benchmark.
--study adds runs of the experiment matrix to those already stored, one per line.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdrlib.checkpoint import write_atomically
from mdrlib.config import Config
from mdrlib.datasets.benchmarks import BENCHMARKS
from mdrlib.results import Result, load_committed, load_runs, write_json
from runs import by_identity, swept
from studies import file_of, matrix, source_of

ROOT = Path(__file__).resolve().parents[1]
DRAWINGS = ("glyphs", "digits", "omniglot")


def store(root: Path, dataset: str, scale: str) -> Path:
    """Write the runs on a data set at a scale into a file, and return its path."""
    found = [
        run for run in load_runs(root / "_build/runs" / scale).values() if run.config["dataset"] == dataset
    ]
    if not found:
        chosen = f" SET={dataset}" if scale == "full" else ""
        raise ValueError(
            f"no runs on {dataset} at scale {scale}: call `make experiments SCALE={scale}{chosen}`"
        )
    refuse_uncommitted(found)
    sizes = BENCHMARKS[dataset].sizes if dataset in BENCHMARKS else {}
    for split, (images, _) in sizes.items():
        seen = {run.data[split]["images"] for run in found}
        if seen != {images}:
            raise ValueError(f"these runs saw {sorted(seen)} images of {split}, {dataset} has {images}")
    path = root / "data/results" / f"{dataset}-{scale}.json"
    write_json(path, [asdict(run) for run in found])
    return path


def store_studies(root: Path, study: str | None) -> list[tuple[Path, int]]:
    """Store the finished runs of a study of ci/ablations.yml, or of all.

    A run replaces the stored one of the same Config; the others of the file stay, unless the matrix no longer
    has them. Returns each file that was written, with its number of runs.
    """
    made, everything = swept(root), matrix(root)
    chosen = {cell.config.identity() for cell in matrix(root, study)}
    new = {key: run for key, run in made.items() if key in chosen}
    if not new:
        words = "" if study is None else f" STUDY={study}"
        raise ValueError(f"no runs of the matrix: call `make experiments SCALE=ablations{words}`")
    refuse_uncommitted(list(new.values()))
    written = []
    names = {name for cell in everything for name in cell.studies}
    stored_in = {name: file_of(root, name) for name in names}
    files: dict[Path, list[str]] = {}
    for cell in everything:
        for path in {stored_in[name] for name in cell.studies}:
            files.setdefault(path, []).append(cell.config.identity())
    for path, keys in sorted(files.items()):
        if not new.keys() & set(keys):
            continue
        known = (by_identity(load_committed(path)) if path.exists() else {}) | new
        runs = [known[key] for key in keys if key in known]
        refuse_other_images(runs)
        stored = [compact(run, classes=not path.stem.endswith("-tuning")) for run in runs]
        lines = ",\n".join(json.dumps(run, separators=(",", ":"), allow_nan=False) for run in stored)
        write_atomically(path, lambda file, text=lines: file.write(f"[\n{text}\n]\n".encode()))
        written.append((path, len(runs)))
    return written


def refuse_uncommitted(runs: list[Result]) -> None:
    """Raise ValueError if one was not made by committed code."""
    if not all(run.git and not run.git["dirty"] for run in runs):
        raise ValueError(
            "these runs were made with uncommitted changes: commit, delete the runs, and run them again"
        )


def refuse_other_images(runs: list[Result]) -> None:
    """Raise ValueError if runs on one data set saw different images."""
    seen: dict[str, Any] = {}
    for run in runs:
        name = source_of(Config.of(run.config))
        if seen.setdefault(name, run.data) != run.data:
            raise ValueError(f"runs on {name} saw different images: {seen[name]} and {run.data}")


def compact(run: Result, classes: bool = True) -> dict[str, Any]:
    """Return a result as JSON has it, with five digits of each number along the run and of classes.

    The metrics of classes along a run stay for photographs and class splits, whose chosen iterations are
    compared: Omniglot has a hundred classes.

    Args:
        classes: Whether metrics of test classes stay at all. Tuning looks at none.
    """
    kept = rounded(run.per_class) if run.per_class and classes else None
    if kept and run.config["dataset"] in DRAWINGS and not run.config.get("class_split"):
        kept.pop("history", None)
    return asdict(run) | {"history": rounded(run.history), "per_class": kept}


def rounded(value: Any) -> Any:
    """Return a value of JSON with five digits of each number."""
    if isinstance(value, dict):
        return {name: rounded(its) for name, its in value.items()}
    if isinstance(value, list):
        return [rounded(its) for its in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main() -> int:
    """Store from the command line; 1 if there is nothing to store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--scale", default="quick")
    parser.add_argument("--study", metavar="NAME", help="of ci/ablations.yml, or all; instead of a data set")
    words = parser.parse_args()
    if (words.dataset is None) == (words.study is None):
        parser.error("name a data set or a study")
    try:
        if words.study is None:
            print(store(ROOT, words.dataset, words.scale))
        else:
            for path, runs in store_studies(ROOT, None if words.study == "all" else words.study):
                print(f"{path}  {runs} runs")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
