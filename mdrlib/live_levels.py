"""Levels and lambda under the reader's hand in a built page: histogram, loss and pull follow the sliders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdrlib.explorers import REACH, describe, levels_figure, normalized
from mdrlib.live import css_colors, live
from mdrlib.palette import array, level_array, level_colors
from mdrlib.player import image

STEP = 0.05  # of the sliders of the levels, in standard deviations
WIDTH = STEP / 2  # of the bins: levels, and the middles between two, lie on the borders of bins


def levels_live(
    distances: Any,
    same_class: Any,
    levels: Sequence[float] = (-3.0, 0.0, 3.0),
    settings: Sequence[Sequence[float]] = (),
    weight: float = 0.1,
    caption: str = "",
) -> Any:
    """`levels_figure` with a slider for each level and for lambda that needs no kernel.

    distances (P,), same_class (P,) as there; levels: those at the start; settings: further levels to choose
    with a button. Levels are multiples of 0.05 within 5 standard deviations. The page holds counts and sums
    of z in bins of 0.025. No level and no middle between two lies within a bin, so that the mean of
    |z - nearest level| is exact. Raises ValueError for other levels, ImportError without IPython.
    """
    z, same = normalized(distances), array(same_class, "same_class", 1, bool)
    start, others = _on_grid(levels), [_on_grid(setting) for setting in settings]
    still = image(levels_figure(z, same, start, weight), describe(z, same, start, weight))
    counts = {len(setting) for setting in (start, *others)}
    data = {
        **binned(z, same),
        "reach": REACH,
        "step": STEP,
        "levels": start,
        "settings": others,
        "weight": weight,
        "colors": {n: css_colors(level_colors(n)) for n in counts},
    }
    label = caption or "Levels and lambda, with sliders"
    return live("live_levels", data, still, label, caption)


def binned(z: np.ndarray, same: np.ndarray) -> dict[str, list]:
    """Counts of the pairs of one class and of others, and sums of z, in bins of `WIDTH` over +-`REACH`.

    The first and the last bin are open: all below -REACH, all from REACH on.
    """
    count = round(2 * REACH / WIDTH)
    edges = np.linspace(-REACH, REACH, count + 1)
    own = np.searchsorted(edges, z, side="right")
    return {
        "same": np.bincount(own[same], minlength=count + 2).tolist(),
        "other": np.bincount(own[~same], minlength=count + 2).tolist(),
        "sum": np.bincount(own, z, minlength=count + 2).round(4).tolist(),
    }


def _on_grid(levels: Any) -> list[float]:
    """Levels sorted, each at a stop of its slider."""
    found = level_array(levels)
    stops = np.round(found / STEP)
    if np.abs(found).max() > REACH or np.abs(found - stops * STEP).max() > 1e-9:
        raise ValueError(
            f"levels must be multiples of {STEP} within {REACH} standard deviations, got {found.tolist()}"
        )
    return (stops * STEP).round(2).tolist()
