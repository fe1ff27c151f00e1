"""Stored runs as the chapters ask for them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from mdrlib.comparison import Group
from mdrlib.config import Config
from mdrlib.results import Result


def distinct(results: Iterable[Result]) -> list[Result]:
    """The runs in their order, the first of each config and seed: stored lists share runs."""
    found: dict[str, Result] = {}
    for result in results:
        found.setdefault(Config.of(result.config).identity(), result)
    return list(found.values())


def stored_arrays(folder: str | Path, file: str) -> Mapping[str, np.ndarray]:
    """Read the arrays that a run left in its folder.

    Args:
        folder: Of the run.
        file: "embeddings.npz", "distances.npz", or "umap.npz", which is made when all runs are there.

    Raises:
        FileNotFoundError: There is no such file, with what to call.
        ValueError: It is damaged.
    """
    path = Path(folder) / file
    try:
        return np.load(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no {path}: make it with `make experiments`.") from error
    except (EOFError, ValueError, BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete its folder and call `make experiments`."
        ) from error


def seed_values(found: Iterable[Group], config: Mapping[str, Any], **changes: Any) -> dict[int, float]:
    """Seed -> metric of the group whose config is `config` but for `changes`; empty without such a group."""
    wanted = {**config, **changes}
    return next((group.values for group in found if group.config == wanted), {})


def with_held_out(result: Result) -> Result:
    """The run with a further metric "held out": its best Recall@1 on held-out training classes, in [0, 1]."""
    best = max(row["validation_recall@1"] for row in result.history)
    return replace(result, metrics=result.metrics | {"held out": best})
