"""Means over seeds with their confidence intervals, in rows or against a varied setting."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdrbook.style import WIDTH, figure, legend, line_style, method_styles, metric_name, text_color

Triple = Sequence[float]  # mean, low, high; further values are ignored


def interval_rows(
    means: Mapping[str, Triple],
    differences: Mapping[str, Triple] | None = None,
    metric: str = "recall@1",
    baseline: str = "the baseline",
) -> Figure:
    """Draw means with their intervals in percent, a row per group, the first at the top.

    Args:
        means: (mean, low, high) of a metric of 0..1 by name of the group.
        differences: The same for the paired difference from `baseline`, drawn to the right with a line at 0,
            for groups that have one. Open marks: the interval covers 0.
        metric: Its key in `Result.metrics`.
    """
    panels = 1 if differences is None else 2
    fig, axes = figure(WIDTH, 1.1 + 0.38 * len(means), 1, panels, sharey=True, squeeze=False)
    _points(axes[0, 0], means, means)
    axes[0, 0].set(xlabel=metric_name(metric), yticks=range(len(means)))
    axes[0, 0].set_yticklabels([style["label"] for style in method_styles(means).values()])
    axes[0, 0].set_ylim(len(means) - 0.5, -0.5)
    axes[0, 0].xaxis.set_major_formatter("{x:g} %")
    if differences is not None:
        _points(axes[0, 1], differences, means, open_over_0=True)
        axes[0, 1].axvline(0, color=text_color(muted=True), linewidth=1.2, zorder=1)
        axes[0, 1].set_xlabel(f"points more than {baseline}")
        axes[0, 1].xaxis.set_major_formatter(
            lambda x, _: (f"{x:+g}" if x else "0").replace("-", "\N{MINUS SIGN}")
        )
    for ax in axes[0]:
        ax.tick_params(axis="y", length=0, labelcolor=text_color())
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
    return fig


def _points(
    ax: Axes, triples: Mapping[str, Triple], rows: Mapping[str, Triple], open_over_0: bool = False
) -> None:
    """Draw a mark at each mean and a line from end to end, in the row of the name in `rows`."""
    for row, (name, style) in enumerate(method_styles(rows).items()):
        if name in triples:
            mean, low, high = _percent(triples[name])
            face = ax.get_facecolor() if open_over_0 and low <= 0 <= high else style["color"]
            ax.plot([low, high], [row, row], color=style["color"], solid_capstyle="butt")
            look = {"marker": style["marker"], "markersize": 7, "markeredgewidth": 1.6}
            ax.plot([mean], [row], color=style["color"], markerfacecolor=face, **look)


def metric_over(
    panels: Mapping[str, Mapping[str, Mapping[float | str, Triple]]], metric: str = "recall@1"
) -> Figure:
    """Draw a metric of 0..1 against a varied setting, with its intervals as bands, in percent.

    Methods of all panels share colours, legend and the vertical axis.

    Args:
        panels: Setting, written below its panel -> method -> value -> (mean, low, high). Values are evenly
            spaced: numbers in order, texts as given. A method with one value, such as a baseline that does
            not depend on the setting, is a horizontal line.
        metric: Its key in `Result.metrics`.
    """
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    fig, axes = figure(WIDTH, 0.5 + 2.6 * lines, lines, columns, sharey=True, squeeze=False)
    styles = method_styles(dict.fromkeys(name for series in panels.values() for name in series))
    for ax, (label, series) in zip(axes.flat, panels.items(), strict=False):
        _lines(ax, series, styles)
        ax.set_xlabel(label)
    for ax in axes[:, 0]:
        ax.set_ylabel(metric_name(metric))
        ax.yaxis.set_major_formatter("{x:g} %")
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    legend(fig, 4)
    return fig


def _lines(ax: Axes, series: Mapping[str, Mapping[float | str, Triple]], styles: Mapping[str, dict]) -> None:
    """Draw one panel of `metric_over`."""
    every = list(dict.fromkeys(at for values in series.values() for at in values))
    if not any(isinstance(at, str) for at in every):
        every.sort()
    for name, values in series.items():
        style = line_style(styles[name])
        x = [every.index(at) for at in every if at in values]
        table = np.array([_percent(values[every[k]]) for k in x])
        if len(x) == 1:
            x, table, style["marker"] = [0, len(every) - 1], table.repeat(2, axis=0), ""
        mean, low, high = table.T
        ax.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
        ax.plot(x, mean, **style)
    ax.set_xticks(range(len(every)), [at if isinstance(at, str) else f"{at:g}" for at in every])
    ax.grid(axis="y")


def _percent(triple: Triple) -> np.ndarray:
    """Return mean, low and high (3,) in percent."""
    mean, low, high = triple[:3]
    if not low <= mean <= high:
        raise ValueError(f"Expected (mean, low, high) with low <= mean <= high, got {tuple(triple)}.")
    return 100 * np.array([mean, low, high])
