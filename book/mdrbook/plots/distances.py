"""Distances: histograms by level, strips, shares of levels, points and the pairs between them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from mdrbook.style import (
    GROUPS,
    LINES,
    NEGATIVE,
    POSITIVE,
    WIDTH,
    figure,
    group_style,
    level_colors,
    text_color,
)
from mdrlib.comparison import signed


def sorted_levels(levels: Any) -> np.ndarray:
    """Return the levels (S,) from near to far."""
    return np.sort(np.asarray(levels, dtype=float))


def nearest_level(z: Any, levels: Any) -> np.ndarray:
    """Return the index (P,) of the level nearest to each z (P,), levels (S,) sorted from near to far."""
    levels = sorted_levels(levels)
    middles = (levels[1:] + levels[:-1]) / 2  # a level owns what lies between these
    return np.searchsorted(middles, np.asarray(z, dtype=float))


def distance_histogram(
    z: Any, same_class: Any, levels: Any, bins: int = 60, ax: Axes | None = None
) -> Figure:
    """Draw a histogram of distances: one class upwards, two classes downwards, coloured by nearest level.

    Heights are shares of the pairs of one kind, since pairs of one class are few. A line marks each level,
    with the share of all pairs that it owns.

    Args:
        z: Normalized distances (P,), P >= 1.
        same_class: Whether each pair is of one class, (P,) bool.
        levels: (S,).
    """
    z, same, levels = np.asarray(z, dtype=float), np.asarray(same_class, dtype=bool), sorted_levels(levels)
    colors = level_colors(len(levels))
    low, high = min(z.min(), levels.min()), max(z.max(), levels.max())
    margin = 0.03 * (high - low) + 1e-6
    edges = np.linspace(low - margin, high + margin, bins + 1)
    fig, ax = figure(WIDTH, 3.8) if ax is None else (ax.figure, ax)
    bounds = np.concatenate([edges[:1], (levels[1:] + levels[:-1]) / 2, edges[-1:]])  # what each level owns
    peak = 0.0
    for kind, name, sign in ((same, "one class", 1), (~same, "two classes", -1)):
        heights = 100 * np.histogram(z[kind], edges)[0] / max(kind.sum(), 1)
        for left, right, color in zip(bounds[:-1], bounds[1:], colors, strict=True):
            steps = np.concatenate([[left], edges[(edges > left) & (edges < right)], [right]])
            bin_of = np.searchsorted(edges, steps[:-1], side="right") - 1
            ax.stairs(sign * heights[bin_of], steps, fill=True, color=color)
        peak = max(peak, heights.max())
        text = f"{kind.sum():,}".replace(",", "\N{THIN SPACE}") + f" pairs of {name}"
        behind = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 1}
        up = {"va": "top", "y": 0.97} if sign > 0 else {"va": "bottom", "y": 0.03}
        color = POSITIVE if sign > 0 else NEGATIVE
        ax.text(0.01, s=text, color=color, fontweight="bold", transform=ax.transAxes, bbox=behind, **up)
    ax.axhline(0, color=text_color(muted=True), linewidth=0.8)
    shares = np.bincount(nearest_level(z, levels), minlength=len(levels)) / len(z)
    _mark_levels(ax, levels, colors, shares, edges[-1] - edges[0])
    ax.set(xlim=(edges[0], edges[-1]), ylim=(-1.3 * peak, 1.3 * peak))
    ax.set(xlabel="normalized distance z", ylabel="share of these pairs")
    ax.yaxis.set_major_formatter(lambda y, _: f"{abs(y):g} %")
    return fig


def _mark_levels(ax: Axes, levels: np.ndarray, colors: list, shares: np.ndarray, span: float) -> None:
    """Draw a line at each level, and its value and share above the axes, in rows if levels are close."""
    rim = [withStroke(linewidth=3.5, foreground=ax.get_facecolor())]  # visible on bars of its own colour
    ends: list[float] = []  # right end of the last label in each row
    for level, color, share in zip(levels, colors, shares, strict=True):
        row = next((r for r, end in enumerate(ends) if level - 0.05 * span > end), len(ends))
        ends[row : row + 1] = [level + 0.05 * span]
        ax.axvline(level, color=color, linewidth=1.6, path_effects=rim)
        ax.annotate(
            f"{signed(level)}\n{100 * share:.0f} %",
            (level, 1),
            (0, 3 + 28 * row),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=color,
            fontweight="bold",
        )


def shown_range(edges: np.ndarray, counts: Sequence[np.ndarray], levels: np.ndarray | None) -> list[float]:
    """Return the range of an axis of distances to show, without a few very large distances.

    Args:
        edges: Edges of the bins, (B + 1,).
        counts: For each kind of pair (T, B). Bins with more than a thousandth of a kind's pairs are shown.
        levels: Of any shape, all of which are shown; or None.
    """
    inside = np.flatnonzero(sum(part.sum(0) > 1e-3 * part.sum() for part in counts))
    ends = edges[[inside[0], inside[-1] + 1]] if len(inside) else edges[[0, -1]]
    if levels is None:
        return ends.tolist()
    return [float(min(ends[0], levels.min() - 0.3)), float(max(ends[1], levels.max() + 0.3))]


def distance_strip(
    edges: Any, iterations: Any, positive: Any, negative: Any, levels: Any = None, rows: int = 12
) -> Figure:
    """Draw distributions of distances during training, one ridge per evaluation, later ones higher.

    Args:
        edges: Of the bins of normalized distance, (B + 1,).
        iterations: (T,).
        positive, negative: Counts of the pairs of one and of two classes, (T, B).
        levels: (S,), or (T, S) where they move; or None.
        rows: At most this many evaluations are drawn, evenly spaced.
    """
    edges, iterations = np.asarray(edges), np.asarray(iterations)
    counts = {"one class": np.asarray(positive), "two classes": np.asarray(negative)}
    shown = np.unique(np.linspace(0, len(iterations) - 1, min(rows, len(iterations))).round().astype(int))
    if levels is not None:
        levels = np.asarray(levels, dtype=float)
        levels = np.sort(np.broadcast_to(levels, (len(iterations), levels.shape[-1])), axis=1)
    limits = shown_range(edges, list(counts.values()), levels)
    fig, axes = figure(WIDTH, 1.4 + 0.32 * len(shown), 1, 2, sharex=True, sharey=True)
    for ax, (name, part), color in zip(axes, counts.items(), (POSITIVE, NEGATIVE), strict=True):
        density = part / np.maximum(part.sum(1, keepdims=True), 1)
        density *= 1.4 / max(density.max(), 1e-12)
        for y, t in enumerate(shown):  # earlier ridges lie in front of later ones
            ridge = {"edges": edges, "baseline": y, "zorder": 2 - y / len(shown)}
            ax.stairs(y + density[t], fill=True, color=color, **ridge)
            ax.stairs(y + density[t], color=ax.get_facecolor(), linewidth=1.2, **ridge)
            ax.axhline(y, color=text_color(muted=True), linewidth=0.5, zorder=2.1)
            if levels is not None:
                look = {"marker": "^", "s": 45, "linewidths": 0.8, "edgecolors": [ax.get_facecolor()]}
                colors = level_colors(levels.shape[1])
                ax.scatter(levels[t], np.full(len(colors), y), c=colors, zorder=3, **look)
        ax.set_title(f"pairs of {name}", color=color)
        ax.set(xlabel="normalized distance z", xlim=limits, ylim=(-0.3, len(shown) + 0.5))
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    axes[0].set_yticks(range(len(shown)), [f"{iterations[t]:.0f}" for t in shown])
    axes[0].set_ylabel("iteration \N{RIGHTWARDS ARROW}")
    return fig


def distances_to_levels(z: Any, levels: Any) -> Figure:
    """Draw distances in ascending order, each joined to its nearest level by a line.

    Args:
        z: Normalized distances (P,).
        levels: (S,).
    """
    z, levels = np.sort(np.asarray(z, dtype=float)), sorted_levels(levels)
    own = nearest_level(z, levels)
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
    """Draw the outlines of histograms, each in percent of its sample.

    Args:
        samples: One to four samples (P,) by name.
        bins: Edges of the bins, (B + 1,).
        colors: One for each sample.
        ax: Where to draw; None makes a figure.
    """
    fig, ax = figure(WIDTH, 3.2) if ax is None else (ax.figure, ax)
    for k, (name, values) in enumerate(samples.items()):
        shares = 100 * np.histogram(np.asarray(values), bins)[0] / len(values)
        ax.stairs(shares, bins, label=name, color=colors[k], linestyle=LINES[k], linewidth=2)
    ax.set(xlabel="distance", ylabel="share of the pairs", xlim=(bins[0], bins[-1]))
    ax.yaxis.set_major_formatter("{x:g} %")
    ax.legend()
    return fig


def level_shares(nearest: Any, kinds: Mapping[str, Any], count: int) -> Figure:
    """Draw a bar per kind of pair, divided into the share that each level owns.

    Args:
        nearest: The level of each pair, (P,), from 0 for the nearest to count - 1.
        kinds: Masks (P,) by name, each of one pair or more.
        count: Number of levels.
    """
    nearest = np.asarray(nearest)
    fig, ax = figure(WIDTH, 0.8 + 0.55 * len(kinds))
    colors = level_colors(count)
    for row, member in enumerate(kinds.values()):
        member = np.asarray(member, dtype=bool)
        shares = 100 * np.bincount(nearest[member], minlength=count) / member.sum()
        for share, left, color in zip(shares, np.cumsum(shares) - shares, colors, strict=True):
            ax.barh(row, share, left=left, color=color, edgecolor=ax.get_facecolor())
            if share > 9:  # a narrower one has no room
                look = {"ha": "center", "va": "center", "color": "white", "weight": "bold"}
                ax.text(left + share / 2, row, f"{share:.0f} %", **look)
    ax.set(yticks=range(len(kinds)), yticklabels=kinds, xlim=(0, 100))
    ax.set(xlabel="share of the pairs, nearest level first")
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter("{x:.0f} %")
    return fig


def binned_medians(ax: Axes, x: Any, y: Any, bins: int = 12, **look: Any) -> None:
    """Draw medians of y (N,) in bins of equally many x (N,) and, as a band, their quartiles.

    Args:
        look: Arguments of `Axes.plot`, with a color.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    parts = np.array_split(np.argsort(x, kind="stable"), bins)
    middles = [np.median(x[part]) for part in parts]
    low, median, high = np.array([np.percentile(y[part], (25, 50, 75)) for part in parts]).T
    ax.fill_between(middles, low, high, color=look["color"], alpha=0.18, linewidth=0)
    ax.plot(middles, median, **look)


def point_map(
    points: Any, labels: Any, forces: Any = None, ax: Axes | None = None, color: Any = None
) -> Figure:
    """Draw points by class, numbered; or, with forces, unnumbered with an arrow each.

    Args:
        points: (N, 2).
        labels: (N,) integers.
        forces: (N, 2), scaled so that the longest arrow is a fifth of the picture's width.
        color: Of the arrows, such as that of a loss in `style.LOSSES`; None: that of text.
    """
    x, labels = np.asarray(points), np.asarray(labels)
    fig, ax = figure(WIDTH, 3.8) if ax is None else (ax.figure, ax)
    for k, label in enumerate(np.unique(labels)):
        ax.scatter(*x[labels == label].T, s=70, zorder=3, **group_style(k))
    low, high = x.min(0), x.max(0)
    margin = 0.2 * (high - low).max() + 1e-9
    if forces is None:
        for k, place in enumerate(x):
            where = {"textcoords": "offset points", "fontsize": 9, "color": text_color(muted=True)}
            ax.annotate(str(k), place, (6, 5), **where)
    else:
        arrows = np.asarray(forces)
        arrows = arrows * margin / max(np.linalg.norm(arrows, axis=1).max(), 1e-12)
        look = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.012, "zorder": 4}
        ax.quiver(*x.T, *arrows.T, color=color or text_color(), **look)
    ax.update_datalim([low - margin, high + margin])  # no fixed limits: the aspect decides one of them
    ax.margins(0)
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_visible(True)
    return fig


def pair_matrix(values: Any, title: str = "", ax: Axes | None = None) -> Figure:
    """Draw a matrix of pairs in grey, with the number in each entry and an empty diagonal.

    Args:
        values: A value for each pair, (N, N).
        title: Above the matrix.
        ax: Where to draw; None makes a figure.
    """
    values = np.asarray(values)
    n = len(values)
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
