"""Small drawings of the chapters: points and forces, pairs, outlines, shares. Use them as `plots.<name>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdrlib.palette import (
    GROUPS,
    MARKERS,
    WIDTH,
    array,
    figure,
    level_array,
    level_colors,
    signed,
    text_color,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("solid", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))  # of outlined histograms


def point_map(points: Any, labels: Any, forces: Any = None, ax: Axes | None = None) -> Figure:
    """Points (N, 2) by class (N,), numbered; or, with forces (N, 2), unnumbered with an arrow each.

    Arrows are scaled so that the longest is a fifth of the width of the picture.
    """
    x, labels = array(points, "points", 2), array(labels, "labels", 1, int)
    if x.shape != (len(labels), 2) or len(x) == 0:
        raise ValueError(f"points must have shape (N, 2) and labels (N,), got {x.shape} and {labels.shape}")
    fig, ax = figure(WIDTH, 3.8) if ax is None else (ax.figure, ax)
    for k, label in enumerate(np.unique(labels)):
        look = {"color": GROUPS[k % len(GROUPS)], "marker": MARKERS[k % len(MARKERS)]}
        ax.scatter(*x[labels == label].T, s=70, zorder=3, **look)
    low, high = x.min(0), x.max(0)
    margin = 0.2 * (high - low).max() + 1e-9
    if forces is None:
        for k, place in enumerate(x):
            where = {"textcoords": "offset points", "fontsize": 9, "color": text_color(muted=True)}
            ax.annotate(str(k), place, (6, 5), **where)
    else:
        arrows = array(forces, "forces", 2)
        if arrows.shape != x.shape:
            raise ValueError(f"forces must have the points' shape {x.shape}, got {arrows.shape}")
        arrows = arrows * margin / max(np.linalg.norm(arrows, axis=1).max(), 1e-12)
        look = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.012, "zorder": 4}
        ax.quiver(*x.T, *arrows.T, color=text_color(), **look)
    ax.update_datalim([low - margin, high + margin])  # no fixed limits: the aspect decides one of them
    ax.margins(0)
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_visible(True)
    return fig


def pair_matrix(values: Any, title: str = "", ax: Axes | None = None) -> Figure:
    """A matrix (N, N) of values of pairs, as greys with the numbers on them; without its diagonal."""
    values = array(values, "values", 2)
    n = len(values)
    if values.shape != (n, n) or n < 2:
        raise ValueError(f"values must have shape (N, N), N >= 2, got {values.shape}")
    fig, ax = figure(WIDTH / 2, WIDTH / 2) if ax is None else (ax.figure, ax)
    pairs = ~np.eye(n, dtype=bool)
    low, high = values[pairs].min(), values[pairs].max()
    # Up to middle grey only: dark numbers stay readable on all of it.
    ax.imshow(np.where(pairs, values, np.nan), cmap="Greys", vmin=low, vmax=high + 0.6 * abs(high - low))
    for i, j in np.argwhere(pairs):
        ax.text(j, i, signed(values[i, j]), ha="center", va="center", fontsize=7.5, color="#1A1A1A")
    ax.set(title=title, xticks=range(n), yticks=range(n))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return fig


def distances_to_levels(z: Any, levels: Any) -> Figure:
    """Normalized distances (P,), sorted upwards, each joined to the nearest of the levels (S,)."""
    z, levels = np.sort(array(z, "z", 1)), level_array(levels)
    own = np.searchsorted((levels[1:] + levels[:-1]) / 2, z)
    fig, ax = figure(WIDTH, 4)
    for k, color in enumerate(level_colors(len(levels))):
        ax.axvline(levels[k], color=color)
        rows = np.flatnonzero(own == k)
        ax.hlines(rows, z[rows], levels[k], color=color, linewidth=1)
        ax.plot(z[rows], rows, "o", color=color, markersize=4)
    ax.set(xlabel="normalized distance z", ylabel="pairs, nearest first", yticks=[])
    ax.spines["left"].set_visible(False)
    return fig


def outlined_histograms(
    samples: Mapping[str, Any], bins: Any, colors: Sequence[str] = GROUPS, ax: Axes | None = None
) -> Figure:
    """Outlines of the histograms of one to four samples (P,) by name, in percent of each, over bin edges."""
    bins = array(bins, "bins", 1)
    if not 1 <= len(samples) <= len(LINES):
        raise ValueError(f"samples must be 1 to {len(LINES)} by name, got {len(samples)}")
    fig, ax = figure(WIDTH, 3.2) if ax is None else (ax.figure, ax)
    for (name, values), color, line in zip(samples.items(), colors, LINES, strict=False):
        values = array(values, name, 1)
        ax.stairs(
            100 * np.histogram(values, bins)[0] / len(values), bins, label=name, color=color, ls=line, lw=2
        )
    ax.set(xlabel="distance", ylabel="share of the pairs", xlim=(bins[0], bins[-1]))
    ax.yaxis.set_major_formatter("{x:g} %")
    ax.legend()
    return fig


def level_shares(nearest: Any, kinds: Mapping[str, Any], count: int) -> Figure:
    """For each kind of pair, a mask (P,) by name, a bar of the shares that each of `count` levels holds.

    nearest (P,): the level of each pair, from 0 for the nearest to count - 1.
    """
    nearest = array(nearest, "nearest", 1, int)
    fig, ax = figure(WIDTH, 0.8 + 0.55 * len(kinds))
    colors = level_colors(count)
    for row, (name, member) in enumerate(kinds.items()):
        member = array(member, name, 1, bool)
        if member.shape != nearest.shape or not member.any():
            raise ValueError(f"{name} must be a mask of the {len(nearest)} pairs with one or more in it")
        shares = 100 * np.bincount(nearest[member], minlength=count) / member.sum()
        for share, left, color in zip(shares, np.cumsum(shares) - shares, colors, strict=True):
            ax.barh(row, share, left=left, color=color, edgecolor=ax.get_facecolor())
            if share > 7:  # a narrower one has no room
                look = {"ha": "center", "va": "center", "color": "white", "weight": "bold"}
                ax.text(left + share / 2, row, f"{share:.0f} %", **look)
    ax.set(yticks=range(len(kinds)), yticklabels=kinds, xlim=(0, 100))
    ax.set(xlabel="share of the pairs, nearest level first")
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter("{x:.0f} %")
    return fig
