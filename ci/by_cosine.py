"""Search the stored networks of a study by cosine: data/results/bench-cosine-<study>.json

An index that compares cosines discards the norms of embeddings. For each run whose head keeps them, the final
embeddings of its test classes are L2-normalized and measured again, class by class. The runs must be those
that `store_results.py` has stored: their folders hold the embeddings, which are too large to store.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from mdrlib import results
from mdrlib.results import load_committed, load_run, write_json
from mdrlib.retrieval import evaluate
from runs import by_identity
from store_results import rounded
from studies import file_of, matrix, sweep_job

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("map@r", "recall@1")


def searched(root: Path, study: str) -> list[dict[str, Any]]:
    """Return a row for each run: config, iteration, names of the test classes, and their metrics by cosine.

    Raises:
        FileNotFoundError: A stored run has no folder with its embeddings.
    """
    stored = by_identity(load_committed(file_of(root, study)))
    rows = []
    for cell in matrix(root, study):
        run = stored.get(cell.config.identity())
        if run is None or cell.config.normalize.startswith("l2"):
            continue
        data = {split: part["fingerprint"] for split, part in run.data.items()}
        folder = sweep_job(root, cell.config, data).folder
        if not (folder / "embeddings.npz").exists() or load_run(folder).git != run.git:
            raise FileNotFoundError(f"{folder} does not hold the stored run: run `make experiments` again")
        with np.load(folder / "embeddings.npz") as arrays:
            names = [part + name for part in ("", "gallery_") for name in ("embeddings", "labels")]
            parts = [torch.from_numpy(arrays[name]) for name in names if name in arrays]
        parts[::2] = map(normalize, parts[::2])
        found = evaluate(*parts, per_class=True)["per_class"]
        rows.append(
            {
                "config": run.config,
                "iteration": run.history[-1]["iteration"],
                "class": run.per_class["class"],
                **{metric: found[metric].tolist() for metric in METRICS},
            }
        )
    return rows


def main() -> int:
    """Write the file of a study; 1 if embeddings are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="of ci/ablations.yml")
    study = parser.parse_args().study
    torch.set_num_threads(1)
    try:
        rows = searched(ROOT, study)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    path = ROOT / f"data/results/bench-cosine-{study}.json"
    about = {"git": results.git(), "environment": results.environment(torch.device("cpu"))}
    write_json(path, {"study": study} | about | {"rows": rounded(rows)})
    print(f"{path}  {len(rows)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
