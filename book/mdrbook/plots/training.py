"""Charts of training: loss, metrics and levels along it, and metrics at its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D

from mdrbook.style import WIDTH, figure, level_colors, line_style, method_styles, text_color
from mdrlib.comparison import metric_name, signed

History = Sequence[Mapping[str, Any]]  # rows with "iteration" and values by name; None and NaN are left out


def loss_curves(histories: Mapping[str, History]) -> Figure:
    """Draw the training loss of each run by name, and next to it the regularizer if a run has one."""
    panels = {"loss": "metric-learning loss"}
    if any(len(_series(history, "regularizer")[0]) for history in histories.values()):
        panels["regularizer"] = "mean |z \N{MINUS SIGN} nearest level|"
    return _curves(histories, panels)


def recall_curves(histories: Mapping[str, History], key: str = "recall@1") -> Figure:
    """Draw a metric of 0..1, named by `key`, of each run by name during training, in percent."""
    return _curves(histories, {key: metric_name(key)}, percent=True)


def _curves(histories: Mapping[str, History], panels: Mapping[str, str], percent: bool = False) -> Figure:
    """Draw a line for each history in a panel for each key."""
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
        label_ends(ax)
    return fig


def label_ends(ax: Axes) -> None:
    """Write the label of each line at its end, in its colour; no legend is needed."""
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in lines]
    for k, line in enumerate(lines):
        look = {"color": line.get_color(), "fontweight": "bold", "va": "center", "annotation_clip": False}
        ax.annotate(line.get_label(), ends[k], (0, 0), textcoords=_End(ax, ends, k), **look)


@dataclass
class _End:
    """Where label k begins: at the height of its line's end, or as near as other labels allow."""

    ax: Axes
    ends: list[tuple[float, float]]
    k: int

    def __call__(self, renderer: Any) -> Affine2D:
        x, y = self.ax.transData.transform(self.ends).T
        order = np.argsort(y, kind="stable")
        places = y[order].copy()
        for i in range(1, len(places)):
            places[i] = max(places[i], places[i - 1] + renderer.points_to_pixels(13))
        places += (y[order] - places).mean()
        at = places[order.tolist().index(self.k)]
        return Affine2D().translate(x[self.k] + renderer.points_to_pixels(8), at)


def _series(history: History, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return iterations and values of the rows that have a value of `key`."""
    rows = [(row["iteration"], row[key]) for row in history if row.get(key) is not None]
    table = np.array(rows, dtype=float).reshape(-1, 2)
    x, y = table[np.isfinite(table[:, 1])].T
    return x, y


def _level_series(history: History, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Return iterations (T,) and values (T, S) of "<prefix>0", "<prefix>1", ... of complete rows."""
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
        ax.plot(x, y, color=color, marker="o", label=signed(y[-1], 2))
    label_ends(ax)
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
    names = ("near", "middle", "far") if len(levels) == 3 else [f"level {k}" for k in order]
    for share, top, color, name in zip(shares[:, -1], shares.cumsum(0)[:, -1], colors, names, strict=True):
        if share >= 6:  # a thinner band has no room for its name
            look = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
            words = f"{name}\n{share:.0f} %"
            ax.annotate(words, (x[-1], top - share / 2), (8, 0), color=color, fontweight="bold", **look)
    ax.set(xlabel="iteration", ylabel="share of the pairs", ylim=(0, 100), xlim=(x[0], max(x[-1], x[0] + 1)))
    ax.yaxis.set_major_formatter("{x:.0f} %")
    return fig


def metric_bars(
    metrics: Mapping[str, Mapping[str, float]],
    keys: Sequence[str],
    intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> Figure:
    """Draw metrics of 0..1 as dots with their percentages, a panel for each metric and a row for each run.

    All panels show equally many points, so that differences compare.

    Args:
        metrics: By run, then by key.
        keys: Of the metrics to draw.
        intervals: (low, high) by run, then by key, drawn as lines.
    """
    fig, axes = figure(WIDTH, 0.9 + 0.42 * len(metrics), 1, len(keys), sharey=True, squeeze=False)
    styles = method_styles(metrics).values()
    values = 100 * np.array([[metrics[name][key] for key in keys] for name in metrics])
    ends = values[:, :, None]
    if intervals is not None:
        ends = 100 * np.array([[intervals[name][key] for key in keys] for name in metrics])
    span = max(1.7 * np.ptp(ends, axis=(0, 2)).max(), 4)
    for k, (ax, key) in enumerate(zip(axes[0], keys, strict=True)):
        for row, style in enumerate(styles):
            ax.hlines(row, *ends[row, k, [0, -1]], color=style["color"])
            ax.plot(values[row, k], row, style["marker"], color=style["color"], markersize=8)
            look = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 9}
            ax.annotate(f"{values[row, k]:.1f}", (values[row, k], row), (0, 6), **look)
        middle = (ends[:, k].min() + ends[:, k].max()) / 2
        ax.set(title=metric_name(key), xlim=(middle - span / 2, min(middle + span / 2, 100 + span / 8)))
        ax.set(yticks=range(len(metrics)), ylim=(len(metrics) - 0.5, -0.8))
        ax.set_yticklabels([style["label"] for style in styles])
        ax.xaxis.set_major_locator(MaxNLocator(3, prune="upper"))
        ax.xaxis.set_major_formatter("{x:g} %")
        ax.tick_params(axis="y", length=0, labelcolor=text_color())
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
    return fig
