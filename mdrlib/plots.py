"""Figures of the book: distances by level, training, results; with those of `pictures.py`, in one palette.

Call `theme()` once, or draw within `with theme(dark=True):`. Every function returns a matplotlib Figure that
pyplot does not keep, so that a notebook shows it once, as the last line of a cell. Arrays may be NumPy
arrays, tensors or lists. Wrong shapes raise ValueError; without matplotlib, ImportError says what to install.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdrlib.diagrams import distances_to_levels, level_shares, outlined_histograms, pair_matrix, point_map
from mdrlib.intervals import interval_rows, metric_over
from mdrlib.palette import (
    NEGATIVE,
    POSITIVE,
    WIDTH,
    array,
    figure,
    level_array,
    level_colors,
    method_styles,
    metric_name,
    signed,
    text_color,
    theme,
)
from mdrlib.pictures import embedding_map, image_grid, photograph_gallery, retrieval_gallery, umap_coordinates
from mdrlib.player import frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "NEGATIVE", "POSITIVE", "distance_histogram", "distance_strip", "distances_to_levels", "embedding_map",
    "frames", "image_grid", "interval_rows", "level_colors", "level_occupancy", "level_shares",
    "level_trajectories", "loss_curves", "method_styles", "metric_bars", "metric_over", "nearest_level",
    "outlined_histograms", "pair_matrix", "photograph_gallery", "point_map", "recall_curves",
    "retrieval_gallery", "theme", "umap_coordinates",
]  # fmt: skip

History = Sequence[Mapping[str, Any]]  # rows with "iteration" and values by name; None and NaN are left out


def nearest_level(z: Any, levels: Any) -> np.ndarray:
    """Index (P,) of the level (S,), sorted from near to far, nearest to each z (P,): step 2 of MDR."""
    levels = level_array(levels)
    middles = (levels[1:] + levels[:-1]) / 2  # a level owns what lies between these
    return np.searchsorted(middles, array(z, "z", 1))


def distance_histogram(
    z: Any, same_class: Any, levels: Any, bins: int = 60, ax: Axes | None = None
) -> Figure:
    """Histogram of normalized distances: one class upwards, two classes downwards, coloured by nearest level.

    z (P,) normalized distances; same_class (P,) bool; levels (S,), marked by lines with the share of all
    pairs that each holds. Heights are shares of the pairs of one kind, since those of one class are few.
    """
    z, levels = array(z, "z", 1), level_array(levels)
    same = array(same_class, "same_class", 1, bool)
    if len(z) == 0 or len(same) != len(z):
        raise ValueError(
            f"z and same_class must have the same length, 1 or more; got {len(z)} and {len(same)}"
        )
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
    """A line at each level, and over the axes its value and share, stacked where they are close."""
    from matplotlib.patheffects import withStroke

    rim = [
        withStroke(linewidth=3.5, foreground=ax.get_facecolor())
    ]  # the line also shows on its own level's bars
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


def distance_strip(
    edges: Any, iterations: Any, positive: Any, negative: Any, levels: Any = None, rows: int = 12
) -> Figure:
    """Distributions of normalized distances over training, a ridge an evaluation, later ones higher.

    edges (B+1,) bin edges; iterations (T,); positive and negative (T, B) counts of the pairs of one and of
    two classes; levels (S,), or (T, S) where they move. At most `rows` evaluations are drawn, evenly chosen.
    """
    edges, iterations = array(edges, "edges", 1), array(iterations, "iterations", 1)
    shape = (len(iterations), len(edges) - 1)
    counts = {"one class": array(positive, "positive", 2), "two classes": array(negative, "negative", 2)}
    for name, part in counts.items():
        if part.shape != shape or 0 in shape:
            raise ValueError(f"counts of pairs of {name} must have shape (T, B) = {shape}, got {part.shape}")
    shown = np.unique(np.linspace(0, shape[0] - 1, min(rows, shape[0])).round().astype(int))
    # Bins with more than a thousandth of a kind's pairs: a few far ones should not squeeze the rest.
    inside = np.flatnonzero(sum(part.sum(0) > 1e-3 * part.sum() for part in counts.values()))
    limits = (
        [edges[inside.min(initial=shape[1])], edges[inside.max(initial=-1) + 1]]
        if len(inside)
        else edges[[0, -1]]
    )
    if levels is not None:
        levels = array(levels, "levels", 1 if np.ndim(levels) < 2 else 2)
        if levels.ndim == 2 and len(levels) != shape[0] or levels.shape[-1] == 0:
            raise ValueError(f"levels must have shape (S,) or (T, S) with T = {shape[0]}, got {levels.shape}")
        levels = np.sort(np.broadcast_to(levels, (shape[0], levels.shape[-1])), axis=1)
        limits = [min(limits[0], levels.min() - 0.3), max(limits[1], levels.max() + 0.3)]
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


def loss_curves(histories: Mapping[str, History]) -> Figure:
    """Training loss of each run by name and, where some have one, the regularizer beside it."""
    panels = {"loss": "metric-learning loss"}
    if any(len(_series(history, "regularizer")[0]) for history in histories.values()):
        panels["regularizer"] = "mean |z \N{MINUS SIGN} nearest level|"
    return _curves(histories, panels)


def recall_curves(histories: Mapping[str, History], key: str = "recall@1") -> Figure:
    """Recall@1, or the metric of 0..1 named by `key`, of each run by name over training, in percent."""
    return _curves(histories, {key: metric_name(key)}, percent=True)


def _curves(histories: Mapping[str, History], panels: Mapping[str, str], percent: bool = False) -> Figure:
    """A line for each history in a panel for each key."""
    if not histories:
        raise ValueError("histories is empty; it must map the name of a run to its history")
    fig, axes = figure(WIDTH, 3.4, 1, len(panels), squeeze=False)
    for ax, (key, label) in zip(axes[0], panels.items(), strict=True):
        for name, style in method_styles(histories).items():
            x, y = _series(histories[name], key)
            style = {part: value for part, value in style.items() if part != "hatch"}
            if len(x):
                ax.plot(x, 100 * y if percent else y, **style)
        if not ax.lines:
            raise ValueError(f"no history has a value of {key!r}")
        ax.set(xlabel="iteration", title=label)
        if percent:
            ax.yaxis.set_major_formatter("{x:g} %")
        ax.grid(axis="y")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=4, handlelength=2.8)
    return fig


def _series(history: History, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and values of the rows that have a value of `key`."""
    rows = [(row["iteration"], row[key]) for row in history if row.get(key) is not None]
    table = np.array(rows, dtype=float).reshape(-1, 2)
    x, y = table[np.isfinite(table[:, 1])].T
    return x, y


def _level_series(history: History, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Iterations (T,) and values (T, S) of "<prefix>0", "<prefix>1", ..., in the rows that have them all."""
    count = 0
    while any(f"{prefix}{count}" in row for row in history):
        count += 1
    values = [[row.get(f"{prefix}{k}") for k in range(count)] for row in history]
    table = np.array([row for row in values], dtype=float).reshape(len(values), count)
    kept = np.isfinite(table).all(axis=1)
    if count == 0 or not kept.any():
        raise ValueError(f"the history has no {prefix}0; only runs with MDR have levels")
    return np.array([row["iteration"] for row in history], dtype=float)[kept], table[kept]


def level_trajectories(history: History, ax: Axes | None = None) -> Figure:
    """Positions of the levels over training, from "level_0", "level_1", ... of the rows."""
    x, levels = _level_series(history, "level_")
    fig, ax = figure(WIDTH, 3.4) if ax is None else (ax.figure, ax)
    for y, color in zip(levels.T[np.argsort(levels[-1])], level_colors(levels.shape[1]), strict=True):
        ax.plot(x, y, color=color, marker="o")
        _label_end(ax, x[-1], y[-1], signed(y[-1], 2), color)
    ax.set(xlabel="iteration", ylabel="level (standard deviations)")
    ax.grid(axis="y")
    return fig


def level_occupancy(history: History, ax: Axes | None = None) -> Figure:
    """Share of a batch's pairs that each level holds over training, from "occupancy_0", ... of the rows."""
    x, shares = _level_series(history, "occupancy_")
    levels = [history[-1].get(f"level_{k}", k) for k in range(shares.shape[1])]
    fig, ax = figure(WIDTH, 3.4) if ax is None else (ax.figure, ax)
    order, colors = np.argsort(levels), level_colors(len(levels))
    shares = 100 * shares.T[order]
    ax.stackplot(x, shares, colors=colors, edgecolor=ax.get_facecolor(), linewidth=1)
    for share, top, color, k in zip(shares[:, -1], shares.cumsum(0)[:, -1], colors, order, strict=True):
        if share >= 6:  # a thinner band has no room for its name
            _label_end(ax, x[-1], top - share / 2, f"level {k}\n{share:.0f} %", color)
    ax.set(xlabel="iteration", ylabel="share of the pairs", ylim=(0, 100), xlim=(x[0], max(x[-1], x[0] + 1)))
    ax.yaxis.set_major_formatter("{x:.0f} %")
    return fig


def _label_end(ax: Axes, x: float, y: float, text: str, color: Any) -> None:
    where = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
    ax.annotate(text, (x, y), (8, 0), color=color, fontweight="bold", **where)


def metric_bars(metrics: Mapping[str, Mapping[str, float]], keys: Sequence[str]) -> Figure:
    """The metrics of 0..1 named by `keys` of each run by name, as groups of bars with their percentages."""
    missing = [f"{key} of {name}" for name, values in metrics.items() for key in keys if key not in values]
    if not metrics or not keys or missing:
        raise ValueError(
            f"metric_bars needs one or more runs and keys, and of each run each key; missing {missing}"
        )
    fig, ax = figure(WIDTH, 3.4)
    width = 0.84 / len(metrics)
    for i, (name, style) in enumerate(method_styles(metrics).items()):
        bars = ax.bar(
            np.arange(len(keys)) + (i - (len(metrics) - 1) / 2) * width,
            [100 * metrics[name][key] for key in keys],
            0.92 * width,
            label=style["label"],
            color=style["color"],
            hatch=style["hatch"],
            edgecolor=ax.get_facecolor(),
            linewidth=0,
        )
        ax.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
    ax.set_xticks(range(len(keys)), [metric_name(key) for key in keys])
    ax.set(ylim=(0, 107), yticks=range(0, 101, 20))
    ax.yaxis.set_major_formatter("{x:.0f} %")
    ax.tick_params(axis="x", length=0, labelcolor=text_color())
    fig.legend(loc="outside upper left", ncols=4)
    return fig
