"""Figures of means over seeds with their intervals. Use them as `plots.<name>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mdrlib.palette import WIDTH, array, figure, method_styles, metric_name, text_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Triple = Sequence[float]  # mean, low, high; as `statistics.interval` and, without its n, `paired` return them


def interval_rows(
    means: Mapping[str, Triple],
    differences: Mapping[str, Triple] | None = None,
    metric: str = "recall@1",
    baseline: str = "the baseline",
) -> Figure:
    """Means with their intervals, a row for each group by name, the first on top, in percent.

    means: (mean, low, high) of a metric of 0..1. differences: the same of the paired difference to
    `baseline`, beside them with a line at 0, for those groups that have one; open marks are those whose
    interval covers 0. Further values of a triple, as the n of `paired`, are left out.
    Raises ValueError for no groups, for differences of unknown groups and for ends not around their mean.
    """
    if not means:
        raise ValueError("means is empty; it must map the name of a group to (mean, low, high)")
    unknown = sorted((differences or {}).keys() - means.keys())
    if unknown:
        raise ValueError(f"differences has groups {unknown} that means has not; it has {list(means)}")
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
    """A mark at each mean and a line from end to end, in the row that the name has in `rows`."""
    for row, (name, style) in enumerate(method_styles(rows).items()):
        if name in triples:
            mean, low, high = 100 * _triple(triples[name], name)
            face = ax.get_facecolor() if open_over_0 and low <= 0 <= high else style["color"]
            ax.plot([low, high], [row, row], color=style["color"], solid_capstyle="butt")
            look = {"marker": style["marker"], "markersize": 7, "markeredgewidth": 1.6}
            ax.plot([mean], [row], color=style["color"], markerfacecolor=face, **look)


def metric_over(
    panels: Mapping[str, Mapping[str, Mapping[float | str, Triple]]], metric: str = "recall@1"
) -> Figure:
    """A metric over what was varied: a panel for each, in it a line for each method, its intervals as a band.

    panels: what was varied, written under its panel -> name of a method -> value -> (mean, low, high) of a
    metric of 0..1, drawn in percent. Values stand evenly spaced, numbers in their order, texts as they come.
    One value alone, as of a baseline that does not read what was varied, is drawn as a level line over the
    whole width; the methods of all panels share their colours, a legend and the height of the axis.
    Raises ValueError for no panels, for a panel without methods or a method without values, and for ends not
    around their mean.
    """
    empty = [label for label, series in panels.items() if not series or not all(series.values())]
    if not panels or empty:
        raise ValueError(f"panels must map to methods with one or more values each, got none of {empty}")
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
    handles = {h.get_label(): h for ax in axes.flat for h in ax.get_legend_handles_labels()[0]}
    fig.legend(handles.values(), handles, loc="outside upper left", ncols=4, handlelength=2.8)
    return fig


def _lines(ax: Axes, series: Mapping[str, Mapping[float | str, Triple]], styles: Mapping[str, dict]) -> None:
    """One panel of `metric_over`."""
    every = list(dict.fromkeys(at for values in series.values() for at in values))
    if not any(isinstance(at, str) for at in every):
        every.sort()
    for name, values in series.items():
        style = {key: value for key, value in styles[name].items() if key != "hatch"}
        x = [every.index(at) for at in every if at in values]
        table = 100 * np.array([_triple(values[every[k]], f"{name} at {every[k]}") for k in x])
        if len(x) == 1:
            x, table, style["marker"] = [0, len(every) - 1], table.repeat(2, axis=0), ""
        mean, low, high = table.T
        ax.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
        ax.plot(x, mean, **style)
    ax.set_xticks(range(len(every)), [at if isinstance(at, str) else f"{at:g}" for at in every])
    ax.grid(axis="y")


def _triple(values: Triple, name: str) -> np.ndarray:
    """mean, low, high (3,) with low <= mean <= high."""
    found = array(values, name, 1)
    if len(found) < 3 or not found[1] <= found[0] <= found[2]:
        raise ValueError(f"{name} must be (mean, low, high) with low <= mean <= high, got {tuple(values)}")
    return found[:3]
