"""Stored runs as the chapters ask for them."""

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


def varied(
    found: Iterable[Group], config: Mapping[str, Any], field: str, seeds: int = 5
) -> dict[Any, Interval]:
    """What `field` is -> mean and interval of the groups whose config is `config` but for it.

    Args:
        seeds: How many a group has at least. A list of values, such as levels, becomes a tuple.
    """
    means = {}
    for group in found:
        value = group.config[field]
        if group.config == {**config, field: value} and len(group.values) >= seeds:
            means[tuple(value) if isinstance(value, list) else value] = interval(list(group.values.values()))
    return means


def with_held_out(result: Result, metric: str = "recall@1") -> Result:
    """The run with a further metric "held out": its best `metric` on held-out training classes, in [0, 1]."""
    best = max(row[f"validation_{metric}"] for row in result.history)
    return replace(result, metrics=result.metrics | {"held out": best})
