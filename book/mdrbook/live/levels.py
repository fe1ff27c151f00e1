"""Histogram of normalized distances with sliders for levels and lambda, and as a still figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mdrbook.live import live
from mdrbook.plots import distance_histogram, nearest_level, sorted_levels
from mdrbook.style import WIDTH, figure, image, level_colors, signed, text_color

REACH = 5.0  # of the sliders of the levels, in standard deviations
STEP = 0.05  # of the sliders of the levels, in standard deviations
BIN = STEP / 2  # of the bins: levels, and the middles between two, lie on the borders of bins


def levels_live(
    distances: Any,
    same_class: Any,
    levels: Sequence[float] = (-3.0, 0.0, 3.0),
    settings: Sequence[Sequence[float]] = (),
    weight: float = 0.1,
    caption: str = "",
) -> HTML:
    """Return a histogram of distances with sliders for levels and lambda; a built page needs no kernel.

    The page holds counts and sums of z in bins of 0.025. No level, and no middle between two levels, lies
    inside a bin, so the mean of `|z - nearest level|` is exact.

    Args:
        distances: Distances of the pairs of a batch, (P,), P >= 2. They are normalized here, by their own
            mean and standard deviation.
        same_class: Whether each pair is of one class, (P,) bool.
        levels: Levels at the start, multiples of 0.05 from -5 to 5.
        settings: Further sets of levels, each with a button.
        weight: Lambda at the start, 0 to 1.
        caption: Shown below the picture, and read out for it.

    Returns:
        The picture, with a still figure where scripts do not run.

    Raises:
        ValueError: A level is no multiple of 0.05 from -5 to 5.
    """
    z, same = normalized(distances), np.asarray(same_class, dtype=bool)
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
        "colors": {n: [to_hex(c) for c in level_colors(n)] for n in counts},
    }
    label = caption or "Levels and lambda, with sliders"
    return live("levels", data, still, label, caption)


def levels_figure(z: np.ndarray, same: np.ndarray, levels: Sequence[float], weight: float) -> Figure:
    """Draw a histogram of distances by level and, below it, the pull of lambda L_MDR on a distance.

    The pull is -lambda sign(z - s), with s the level nearest to z.

    Args:
        z: Normalized distances (P,).
        same: Whether each pair is of one class, (P,) bool.
        levels: (S,).
        weight: Lambda.
    """
    levels = sorted_levels(levels)
    value = regularizer(z, levels)
    fig, (ax, pull) = figure(WIDTH, 5.2, 2, 1, sharex=True, height_ratios=(3, 1.1))
    distance_histogram(z, same, levels, ax=ax)
    ax.set(xlabel="", xlim=(-REACH - 0.2, REACH + 0.2))
    mean = rf"$L_{{MDR}}$ = mean |z $-$ nearest level| = {value:.3f}"
    fig.suptitle(rf"{mean}        $\lambda L_{{MDR}}$ = {weight * value:.3f}", fontsize=11.5)
    _draw_pull(pull, levels, weight)
    fig.align_ylabels()
    return fig


def _draw_pull(ax: Axes, levels: np.ndarray, weight: float) -> None:
    """Draw the pull as steps in each level's colour, with arrows that point to the level."""
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


def describe(z: np.ndarray, same: np.ndarray, levels: Sequence[float], weight: float) -> str:
    """Describe `levels_figure` in words, for readers who cannot see it."""
    levels = sorted_levels(levels)
    nearest = nearest_level(z, levels)
    parts = []
    for k, level in enumerate(levels):
        share, within = (nearest == k).mean(), (nearest[same] == k).sum() / max(same.sum(), 1)
        parts.append(
            f"{share:.0%} of all pairs and {within:.0%} of pairs of one class at level {signed(level)}"
        )
    value = regularizer(z, levels)
    return (
        f"Histogram of normalized distances: {'; '.join(parts)}. "
        f"L_MDR {value:.3f}, lambda times L_MDR {weight * value:.3f}."
    )


def regularizer(z: Any, levels: Any) -> float:
    """Return L_MDR for levels (S,): the mean of `|z - nearest level|` over normalized distances z (P,)."""
    z, levels = np.asarray(z, dtype=float), sorted_levels(levels)
    return float(np.abs(z - levels[nearest_level(z, levels)]).mean())


def normalized(distances: Any) -> np.ndarray:
    """Return distances (P,) normalized by their own mean and standard deviation."""
    d = np.asarray(distances, dtype=float)
    return (d - d.mean()) / d.std(ddof=1)


def binned(z: np.ndarray, same: np.ndarray) -> dict[str, list]:
    """Return counts of pairs of one class and of others, and sums of z, in bins of `BIN` within `REACH`.

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
    """Return levels from near to far; ValueError unless each is a position of its slider."""
    found = sorted_levels(levels)
    steps = np.round(found / STEP)
    if np.abs(found).max() > REACH or np.abs(found - steps * STEP).max() > 1e-9:
        raise ValueError(
            f"Expected levels that are multiples of {STEP} within {REACH} standard deviations, "
            f"got {found.tolist()}."
        )
    return (steps * STEP).round(2).tolist()
