"""The experiment matrix, ci/ablations.yml: which runs its studies list, and where each is made and stored."""

import hashlib
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdrlib.config import Config
from runs import Job, read


class Cell(NamedTuple):
    """One run of the experiment matrix, and the studies that it is part of."""

    config: Config
    studies: tuple[str, ...]


def matrix(root: Path, study: str | None = None, smoke: bool = False) -> list[Cell]:
    """List the runs of all studies, or of one, each once, by seed and then by class split.

    The matrix can therefore be interrupted at any time: what is done compares like with like. With smoke a
    run takes seconds, on generated glyphs. ValueError names a study whose fields are not those of a Config.
    """
    spec = read(root, "ablations")
    if study not in (None, *spec["studies"]):
        raise ValueError(f"no study {study!r} in ci/ablations.yml; choose one of {list(spec['studies'])}")
    found: dict[str, Cell] = {}
    for name, about in spec["studies"].items():
        if study not in (None, name):
            continue
        seeds = spec["smoke"]["seeds"] if smoke else about.get("seeds", spec["seeds"])
        seeds = seeds if isinstance(seeds, list) else range(seeds)
        grid = points(about["grid"], about.get("draws", {}))
        for point, seed in product(grid, seeds):
            values = spec["base"] | about.get("base", {}) | point | {"seed": seed}
            values |= spec["smoke"]["base"] if smoke else {}
            try:
                config = Config.of(values)
            except (TypeError, ValueError) as error:
                raise ValueError(f"study {name}, {values}: {error}") from error
            studies = found.get(config.identity(), Cell(config, ())).studies
            found[config.identity()] = Cell(config, tuple(dict.fromkeys((*studies, name))))
    # Stable: studies keep their order.
    return sorted(found.values(), key=lambda cell: (cell.config.seed, cell.config.class_split))


def points(grid: dict[str, Any] | list[dict[str, Any]], draws: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all combinations of the values of a grid, or of each grid of a list.

    A field whose value is "draw" in a grid takes `draws["count"]` random values, the k-th of all such fields
    together: see `drawn`. They are the same in all grids: all arms are tuned over the same learning rates.
    """
    for one in grid if isinstance(grid, list) else [grid]:
        random = {
            field: drawn(field, draws["count"], *draws[field])
            for field, values in one.items()
            if values == "draw"
        }
        listed = {field: values for field, values in one.items() if field not in random}
        for k in range(draws["count"] if random else 1):
            more = {field: values[k] for field, values in random.items()}
            for values in product(*listed.values()):
                yield dict(zip(listed, values, strict=True)) | more


def drawn(field: str, count: int, least: float, greatest: float) -> list[float]:
    """Draw values of a field, one in each of `count` equal parts of the logarithm, with two digits."""
    random = np.random.default_rng([*field.encode()])
    shares = (random.permutation(count) + random.random(count)) / count
    return [float(f"{least * (greatest / least) ** share:.1e}") for share in shares]


def source_of(config: Config) -> str:
    """Name the images of a run: "omniglot", "grocery/3" for a class split, "folder:cub-50/3" for a folder."""
    folder = f":{config.folder_name}" if config.folder_name else ""
    return f"{config.dataset}{folder}" + (f"/{config.class_split}" if config.class_split else "")


def sweep_job(root: Path, config: Config, data: dict[str, str]) -> Job:
    """Return the job of a run of the matrix on images with these fingerprints.

    A digest of all that decides the result names its folder. What else the matrix holds does not matter, so
    that editing it invalidates nothing.
    """
    text = config.identity() + json.dumps(data, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = f"{config.folder_name or config.dataset}-{config.method}-s{config.seed}-{digest}"
    folder = root / "_build/runs/sweep" / name
    parameters = {"config": config.to_dict(), "out_dir": str(folder)}
    source = root / "book/experiments/ablation.ipynb"
    return Job(name, source, parameters, folder / "run.ipynb", folder, config, data, kept=True)


def file_of(root: Path, study: str) -> Path:
    """Return the committed list that a study's results are stored in."""
    spec = read(root, "ablations")
    return root / "data/results" / f"{spec['studies'][study].get('file', spec['file'])}.json"
