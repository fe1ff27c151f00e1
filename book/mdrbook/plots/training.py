"""What changes in training: loss, metrics, levels; and the metrics at its end."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdrbook.style import (
    WIDTH,
    figure,
    level_colors,
    line_style,
    method_styles,
    metric_name,
    signed,
    text_color,
)

History = Sequence[Mapping[str, Any]]  # rows with "iteration" and values by name; None and NaN are left out


def loss_curves(histories: Mapping[str, History]) -> Figure:
    """Draw the training loss of each run by name and, where some have one, the regularizer next to it."""
    panels = {"loss": "metric-learning loss"}
    if any(len(_series(history, "regularizer")[0]) for history in histories.values()):
        panels["regularizer"] = "mean |z \N{MINUS SIGN} nearest level|"
    return _curves(histories, panels)


def recall_curves(histories: Mapping[str, History], key: str = "recall@1") -> Figure:
    """Draw a metric of 0..1, named by `key`, of each run by name during training, in percent."""
    return _curves(histories, {key: metric_name(key)}, percent=True)


def _curves(histories: Mapping[str, History], panels: Mapping[str, str], percent: bool = False) -> Figure:
    """A line for each history in a panel for each key."""
    fig, axes = figure(WIDTH, 3.4, 1, len(panels), squeeze=False)
    for ax, (key, label) in zip(axes[0], panels.items(), strict=True):
        for name, style in method_styles(histories).items():
            x, y = _series(histories[name], key)
            if len(x):
                ax.plot(x, 100 * y if percent else y, **line_style(style))
        if not ax.lines:
            raise ValueError(f"No history has a value of {key!r}; choose a key of its rows.")
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
    """Iterations (T,) and values (T, S) of "<prefix>0", "<prefix>1", ... in the rows that have them all."""
    count = 0
    while any(f"{prefix}{count}" in row for row in history):
        count += 1
    values = [[row.get(f"{prefix}{k}") for k in range(count)] for row in history]
    table = np.array(values, dtype=float).reshape(len(values), count)
    kept = np.isfinite(table).all(axis=1)
    if count == 0 or not kept.any():
        raise ValueError(f"The history has no {prefix}0: draw a run with MDR.")
    return np.array([row["iteration"] for row in history], dtype=float)[kept], table[kept]


def level_trajectories(history: History, ax: Axes | None = None) -> Figure:
    """Draw the levels during training, from "level_0", "level_1", ... of the rows."""
    x, levels = _level_series(history, "level_")
    fig, ax = figure(WIDTH, 3.4) if ax is None else (ax.figure, ax)
    for y, color in zip(levels.T[np.argsort(levels[-1])], level_colors(levels.shape[1]), strict=True):
        ax.plot(x, y, color=color, marker="o")
        _label_end(ax, x[-1], y[-1], signed(y[-1], 2), color)
    ax.set(xlabel="iteration", ylabel="level (standard deviations)")
    ax.grid(axis="y")
    return fig


def level_occupancy(history: History, ax: Axes | None = None) -> Figure:
    """Draw the share of a batch's pairs that each level owns, from "occupancy_0", ... of the rows."""
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
    """Draw the metrics of 0..1 named by `keys` of each run by name, as groups of bars with percentages."""
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
