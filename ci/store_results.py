"""Store the results of finished runs for builds that cannot make them: data/results/<data set>-<scale>.json

A list of the runs' result.json, with history and provenance. Runs of uncommitted code are refused: the commit
in a stored result should be the code that made it. So are runs on a miniature of a benchmark.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from mdrlib.datasets.catalog import ON_DISK
from mdrlib.results import load_runs, write_json

ROOT = Path(__file__).resolve().parents[1]


def store(root: Path, dataset: str, scale: str) -> Path:
    """Write the file and return its path. Raises ValueError for no runs, or runs that are not to be shown."""
    folder = root / "_build/runs" / scale
    found = [run for run in load_runs(folder).values() if run.config["dataset"] == dataset]
    if not found:
        chosen = f" SET={dataset}" if scale == "full" else ""
        raise ValueError(
            f"no runs on {dataset} at scale {scale}: call `make experiments SCALE={scale}{chosen}`"
        )
    if not all(run.git and not run.git["dirty"] for run in found):
        raise ValueError(
            "these runs were made with uncommitted changes; commit, delete them and make them again"
        )
    sizes = ON_DISK[dataset].SIZES if dataset in ON_DISK else {}
    for split, (images, _) in sizes.items():
        seen = {run.data[split]["images"] for run in found}
        if seen != {images}:
            raise ValueError(f"these runs saw {sorted(seen)} images of {split}, {dataset} has {images}")
    path = root / "data/results" / f"{dataset}-{scale}.json"
    write_json(path, [asdict(run) for run in found])
    return path


def main() -> int:
    """Store from the command line; 1 if there is nothing to store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--scale", default="quick")
    words = parser.parse_args()
    try:
        print(store(ROOT, words.dataset, words.scale))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
