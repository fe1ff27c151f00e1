"""Distances of several runs through training, side by side: a figure of one evaluation, and all in a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdrlib.live import live
from mdrlib.palette import (
    NEGATIVE,
    POSITIVE,
    WIDTH,
    figure,
    level_colors,
    method_styles,
    signed,
    text_color,
)
from mdrlib.player import image
from mdrlib.results import load_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Distances:
    """Counts of the pairs of test images by normalized distance, at T evaluations of a run.

    name: the method's; edges (B+1,); iterations (T,); positive, negative (T, B): pairs of one class and of
    two; levels (T, S), sorted, or None for a run without MDR.
    """

    name: str
    edges: np.ndarray
    iterations: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    levels: np.ndarray | None


def stored_distances(folders: Mapping[str, str | Path]) -> list[Distances]:
    """What runs, by name or method, have left in distances.npz and history.csv of their folders.

    Raises ValueError where there are none, or their iterations or bins differ: one slider moves them all.
    """
    runs = []
    for name, folder in folders.items():
        counts, history = np.load(Path(folder) / "distances.npz"), load_run(folder).history
        levels = None
        if history[0].get("level_0") is not None:
            names = [key for key in history[0] if key.startswith("level_") and key[6:].isdigit()]
            levels = np.sort([[row[key] for key in names] for row in history], axis=1)
        parts = (counts["edges"], counts["iterations"], counts["test_positive"], counts["test_negative"])
        runs.append(Distances(method_styles([name])[name]["label"], *parts, levels))
    if not runs:
        raise ValueError("stored_distances needs one or more folders of runs, got none")
    for run in runs[1:]:
        same = np.array_equal(run.iterations, runs[0].iterations) and np.array_equal(run.edges, runs[0].edges)
        if not same:
            raise ValueError(
                f"runs must be evaluated at the same iterations, in the same bins; {runs[0].name} was at "
                f"{runs[0].iterations.tolist()}, {run.name} at {run.iterations.tolist()}"
            )
    return runs


def overlap(positive: Any, negative: Any) -> float:
    """The area that the distributions of counts (B,) and (B,) share, in 0..1: 0 where no bin has both.

    0 if either has no pairs.
    """
    one, two = np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)
    return float(np.minimum(one / max(one.sum(), 1), two / max(two.sum(), 1)).sum())


def limits(runs: Sequence[Distances]) -> tuple[float, float]:
    """What to show of the axis: bins with a thousandth of a kind's pairs in some run, and the levels."""
    shown = sum(c.sum(0) > 1e-3 * c.sum() for run in runs for c in (run.positive, run.negative)) > 0
    edges, inside = runs[0].edges, np.flatnonzero(shown)
    ends = [edges[inside.min(initial=len(shown) - 1)], edges[inside.max(initial=0) + 1]]
    levels = [run.levels for run in runs if run.levels is not None]
    return (
        float(min([ends[0], *(found.min() - 0.3 for found in levels)])),
        float(max([ends[1], *(found.max() + 0.3 for found in levels)])),
    )


def shares(runs: Sequence[Distances]) -> list[list[np.ndarray]]:
    """Of each run the shares (T, B) of the pairs of one class, and of two, in percent."""
    return [
        [100 * c / np.maximum(c.sum(1, keepdims=True), 1) for c in (r.positive, r.negative)] for r in runs
    ]


def training_figure(runs: Sequence[Distances], at: int) -> Figure:
    """Evaluation `at` (0..T-1) of runs side by side: pairs of one class up, of two classes down, levels."""
    heights, ends = shares(runs), limits(runs)
    peak = 1.15 * max(part.max() for pair in heights for part in pair)
    fig, axes = figure(WIDTH, 3, 1, len(runs), sharex=True, sharey=True, squeeze=False)
    for ax, run, (up, down) in zip(axes[0], runs, heights, strict=True):
        ax.stairs(up[at], run.edges, fill=True, color=POSITIVE)
        ax.stairs(-down[at], run.edges, fill=True, color=NEGATIVE)
        ax.axhline(0, color=text_color(muted=True), linewidth=0.8)
        levels = [] if run.levels is None else run.levels[at]
        for level, color in zip(levels, level_colors(max(len(levels), 1)), strict=False):
            ax.axvline(level, color=text_color(), linewidth=1, linestyle=(0, (1, 2)))
            ax.plot(level, 0.97 * peak, "v", color=color, markersize=7)
        ax.set(xlim=ends, ylim=(-peak, peak), title=run.name, xlabel="normalized distance z")
    axes[0, 0].set_ylabel("share of these pairs")
    axes[0, 0].yaxis.set_major_formatter(lambda y, _: f"{abs(y):g} %")
    fig.suptitle(f"iteration {runs[0].iterations[at]}", fontsize=11)
    return fig


def told(runs: Sequence[Distances], at: int) -> str:
    """`training_figure` in words: the overlap of each run, and the levels."""
    parts = []
    for run in runs:
        text = f"{run.name}: overlap {overlap(run.positive[at], run.negative[at]):.0%}"
        if run.levels is not None:
            text += f", levels {', '.join(signed(level, 2) for level in run.levels[at])}"
        parts.append(text)
    return f"Iteration {runs[0].iterations[at]}. {'; '.join(parts)}."


def training_live(folders: Mapping[str, str | Path], caption: str = "") -> Any:
    """Histograms of runs side by side through training, with a slider and a button that plays: no kernel.

    folders: of runs, by method, as `stored_distances` reads them. Without scripts the last evaluation is
    shown. Nothing plays before the button is pressed; between evaluations nothing is made up.
    """
    runs = stored_distances(folders)
    last, (low, high) = len(runs[0].iterations) - 1, limits(runs)
    still = image(training_figure(runs, last), f"Histograms of normalized distances. {told(runs, last)}")
    from matplotlib.colors import to_hex  # the figure above has said it if matplotlib is missing

    data = {
        "edges": runs[0].edges.astype(float).round(6).tolist(),
        "iterations": runs[0].iterations.tolist(),
        "limits": [low, high],
        "colors": [POSITIVE, NEGATIVE],
        "runs": [
            {
                "name": run.name,
                "counts": [run.positive.tolist(), run.negative.tolist()],
                "levels": None if run.levels is None else run.levels.round(4).tolist(),
                "colors": []
                if run.levels is None
                else [to_hex(c) for c in level_colors(run.levels.shape[1])],
            }
            for run in runs
        ],
    }
    return live("live_training", data, still, caption or "Distances through training", caption)
