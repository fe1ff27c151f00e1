"""Levels and lambda against the distances of a batch: a figure, and under the reader's hand in a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdrlib.live import live
from mdrlib.palette import WIDTH, array, figure, level_array, level_colors, signed, text_color
from mdrlib.player import image
from mdrlib.plots import distance_histogram, nearest_level

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 5.0  # of the sliders of the levels, in standard deviations
STEP = 0.05  # of the sliders of the levels, in standard deviations
BIN = STEP / 2  # of the bins: levels, and the middles between two, lie on the borders of bins


def levels_figure(
    distances: Any, same_class: Any, levels: Sequence[float] = (-3.0, 0.0, 3.0), weight: float = 0.1
) -> Figure:
    """Distances by level, above the pull of lambda L_MDR on a distance: -lambda sign(z - s), s nearest to z.

    distances (P,), of pairs of a batch, normalized here by their own mean and standard deviation; same_class
    (P,) bool; levels (S,); weight: lambda, at least 0. The title gives L_MDR, the mean of |z - s|.
    """
    z, levels = normalized(distances), level_array(levels)
    value = regularizer(z, levels)
    if not weight >= 0:
        raise ValueError(f"weight (lambda) must be at least 0, got {weight}")
    fig, (ax, pull) = figure(WIDTH, 5.2, 2, 1, sharex=True, height_ratios=(3, 1.1))
    distance_histogram(z, same_class, levels, ax=ax)
    ax.set(xlabel="", xlim=(-REACH - 0.2, REACH + 0.2))
    mean = rf"$L_{{MDR}}$ = mean |z $-$ nearest level| = {value:.3f}"
    fig.suptitle(rf"{mean}        $\lambda L_{{MDR}}$ = {weight * value:.3f}", fontsize=11.5)
    _draw_pull(pull, levels, weight)
    fig.align_ylabels()
    return fig


def _draw_pull(ax: Any, levels: np.ndarray, weight: float) -> None:
    """The pull as steps in each level's colour, with arrows that point to the level."""
    bounds = np.concatenate([[-REACH - 0.2], (levels[1:] + levels[:-1]) / 2, [REACH + 0.2]])
    for k, (level, color) in enumerate(zip(levels, level_colors(len(levels)), strict=True)):
        steps = np.clip([bounds[k], level, bounds[k + 1]], bounds[0], bounds[-1])
        ax.stairs([weight, -weight], steps, baseline=None, color=color, linewidth=2.5)
        for border, tip in ((bounds[k], 0.12), (bounds[k + 1], -0.12)):
            start, end = level - np.sign(tip) * min(0.8, 0.9 * abs(border - level)), level - tip
            if abs(start - level) > 0.2:
                arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", (end, 0), (start, 0), arrowprops=arrow)
        ax.plot(level, 0, "o", color=color, markersize=7)
    ax.axhline(0, color=text_color(muted=True), linewidth=0.8, zorder=0)
    top = 1.15 * max(1, weight)
    ax.set(xlabel="normalized distance z", ylabel="pull on z", ylim=(-top, top))


def regularizer(z: Any, levels: Any) -> float:
    """L_MDR for given levels (S,): the mean over normalized distances z (P,) of |z - nearest level|."""
    z, levels = array(z, "z", 1), level_array(levels)
    return float(np.abs(z - levels[nearest_level(z, levels)]).mean())


def describe(z: Any, same_class: Any, levels: Any, weight: float) -> str:
    """`levels_figure` of normalized distances z (P,) in words, for those who do not see it."""
    levels, same = level_array(levels), array(same_class, "same_class", 1, bool)
    nearest = nearest_level(z, levels)
    parts = []
    for k, level in enumerate(levels):
        share, ours = (nearest == k).mean(), (nearest[same] == k).sum() / max(same.sum(), 1)
        parts.append(
            f"{share:.0%} of all pairs and {ours:.0%} of those of one class at level {signed(level)}"
        )
    value = regularizer(z, levels)
    return (
        f"Histogram of normalized distances: {'; '.join(parts)}. "
        f"L_MDR {value:.3f}, lambda times L_MDR {weight * value:.3f}."
    )


def normalized(distances: Any) -> np.ndarray:
    """z of the distances (P,); a second time it changes nothing."""
    d = array(distances, "distances", 1)
    if len(d) < 2 or d.std() == 0:
        raise ValueError(f"distances must be 2 or more and not all equal, got {len(d)}")
    return (d - d.mean()) / d.std(ddof=1)


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
    from matplotlib.colors import to_hex  # the figure above has said it if matplotlib is missing

    counts = {len(setting) for setting in (start, *others)}
    data = {
        **binned(z, same),
        "reach": REACH,
        "step": STEP,
        "levels": start,
        "settings": others,
        "weight": weight,
        "colors": {n: [to_hex(c) for c in level_colors(n)] for n in counts},
    }
    label = caption or "Levels and lambda, with sliders"
    return live("live_levels", data, still, label, caption)


def binned(z: np.ndarray, same: np.ndarray) -> dict[str, list]:
    """Counts of the pairs of one class and of others, and sums of z, in bins of `BIN` over +-`REACH`.

    The first and the last bin are open: all below -REACH, all from REACH on.
    """
    count = round(2 * REACH / BIN)
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
