"""Stored runs in the forms that chapters need."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from mdrlib.comparison import Group, Interval, interval
from mdrlib.config import Config
from mdrlib.results import Result


def distinct(results: Iterable[Result]) -> list[Result]:
    """Return the first run of each config and seed, in their order: stored lists share runs."""
    found: dict[str, Result] = {}
    for result in results:
        found.setdefault(Config.of(result.config).identity(), result)
    return list(found.values())


def stored_arrays(folder: str | Path, file: str) -> Mapping[str, np.ndarray]:
    """Read the arrays that a run left in its folder.

    Args:
        folder: Folder of the run.
        file: "embeddings.npz", "distances.npz", or "umap.npz", which is created when all runs are done.

    Raises:
        FileNotFoundError: The file does not exist; the message says what to call.
        ValueError: The file is damaged.
    """
    path = Path(folder) / file
    try:
        return np.load(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist: create it with `make experiments`.") from error
    except (EOFError, ValueError, BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete its folder and call `make experiments`."
        ) from error


def seed_values(found: Iterable[Group], config: Mapping[str, Any], **changes: Any) -> dict[int, float]:
    """Return seed -> metric of the group of `config` with `changes`; empty if there is no such group."""
    wanted = {**config, **changes}
    return next((group.values for group in found if group.config == wanted), {})


def varied(
    found: Iterable[Group], config: Mapping[str, Any], field: str, seeds: int = 5
) -> dict[Any, Interval]:
    """Return value of `field` -> mean and interval, of the groups that differ from `config` only in it.

    A list as value, such as levels, becomes a tuple.

    Args:
        seeds: Least number of seeds of a group.
    """
    means = {}
    for group in found:
        value = group.config[field]
        if group.config == {**config, field: value} and len(group.values) >= seeds:
            means[tuple(value) if isinstance(value, list) else value] = interval(list(group.values.values()))
    return means


def with_held_out(result: Result, metric: str = "recall@1") -> Result:
    """Return the run with a metric "held out": its best `metric` on held-out training classes, in [0, 1]."""
    best = max(row[f"validation_{metric}"] for row in result.history)
    return replace(result, metrics=result.metrics | {"held out": best})
