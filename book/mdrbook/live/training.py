"""Distances of several runs during training, side by side: played in a page, and as a still figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import HTML
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mdrbook.live import live
from mdrbook.plots import shown_range
from mdrbook.runs import stored_arrays
from mdrbook.style import NEGATIVE, POSITIVE, WIDTH, figure, image, level_colors, method_styles, text_color
from mdrlib.comparison import signed
from mdrlib.results import load_run


@dataclass(frozen=True)
class Distances:
    """Counts of the pairs of test images by normalized distance, at T evaluations of a run.

    name: the method's; edges (B + 1,); iterations (T,); positive, negative (T, B): pairs of one class and of
    two; levels (T, S), sorted, with S = 0 for a run without MDR.
    """

    name: str
    edges: np.ndarray
    iterations: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    levels: np.ndarray


def stored_distances(folders: Mapping[str, str | Path]) -> list[Distances]:
    """Read distances.npz and the history of runs, evaluated at the same iterations.

    Args:
        folders: Of the runs, by name or method.

    Raises:
        ValueError: Their iterations or bins differ, so that one slider could not move them all.
    """
    runs = []
    for name, folder in folders.items():
        counts, history = stored_arrays(folder, "distances.npz"), load_run(folder).history
        names = [key for key in history[0] if key.startswith("level_") and history[0][key] is not None]
        levels = np.sort(np.array([[row[key] for key in names] for row in history], dtype=float), axis=1)
        parts = (counts["edges"], counts["iterations"], counts["test_positive"], counts["test_negative"])
        runs.append(Distances(method_styles([name])[name]["label"], *parts, levels))
    for run in runs[1:]:
        same = np.array_equal(run.iterations, runs[0].iterations) and np.array_equal(run.edges, runs[0].edges)
        if not same:
            raise ValueError(
                f"Expected runs evaluated at the same iterations, in the same bins; {runs[0].name} was at "
                f"{runs[0].iterations.tolist()}, {run.name} at {run.iterations.tolist()}."
            )
    return runs


def overlap(positive: Any, negative: Any) -> float:
    """Return the area that the distributions of counts (B,) and (B,) share, 0 to 1; 0 if either is empty."""
    one, two = np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)
    return float(np.minimum(one / max(one.sum(), 1), two / max(two.sum(), 1)).sum())


def limits(runs: Sequence[Distances]) -> list[float]:
    """Return the range of the axis of distances to show: `plots.shown_range` of all runs."""
    levels = np.concatenate([run.levels.ravel() for run in runs])
    counts = [part for run in runs for part in (run.positive, run.negative)]
    return shown_range(runs[0].edges, counts, levels if len(levels) else None)


def training_figure(runs: Sequence[Distances], at: int) -> Figure:
    """Draw evaluation `at` of runs side by side: levels, pairs of one class up, and of two classes down."""
    shares = [
        [100 * c / np.maximum(c.sum(1, keepdims=True), 1) for c in (run.positive, run.negative)]
        for run in runs
    ]
    peak = 1.15 * max(part.max() for pair in shares for part in pair)
    fig, axes = figure(WIDTH, 3, 1, len(runs), sharex=True, sharey=True, squeeze=False)
    for ax, run, (up, down) in zip(axes[0], runs, shares, strict=True):
        ax.stairs(up[at], run.edges, fill=True, color=POSITIVE)
        ax.stairs(-down[at], run.edges, fill=True, color=NEGATIVE)
        ax.axhline(0, color=text_color(muted=True), linewidth=0.8)
        for level, color in zip(run.levels[at], _colors(run), strict=True):
            ax.axvline(level, color=text_color(), linewidth=1, linestyle=(0, (1, 2)))
            ax.plot(level, 0.97 * peak, "v", color=color, markersize=7)
        ax.set(xlim=limits(runs), ylim=(-peak, peak), title=run.name, xlabel="normalized distance z")
    axes[0, 0].set_ylabel("share of these pairs")
    axes[0, 0].yaxis.set_major_formatter(lambda y, _: f"{abs(y):g} %")
    fig.suptitle(f"iteration {runs[0].iterations[at]}", fontsize=11)
    return fig


def describe(runs: Sequence[Distances], at: int) -> str:
    """Describe `training_figure` in words: the overlap of each run, and the levels."""
    parts = []
    for run in runs:
        text = f"{run.name}: overlap {overlap(run.positive[at], run.negative[at]):.0%}"
        if len(run.levels[at]):
            text += f", levels {', '.join(signed(level, 2) for level in run.levels[at])}"
        parts.append(text)
    return f"Iteration {runs[0].iterations[at]}. {'; '.join(parts)}."


def training_live(folders: Mapping[str, str | Path], caption: str = "") -> HTML:
    """Return histograms of runs side by side during training, with a slider and a button that plays.

    Without scripts the last evaluation is shown. Nothing plays before the button is pressed, and nothing is
    interpolated between evaluations.

    Args:
        folders: Of the runs, by method, as `stored_distances` reads them.
    """
    runs = stored_distances(folders)
    last = len(runs[0].iterations) - 1
    alt = f"Histograms of normalized distances. {describe(runs, last)}"
    data = {
        "edges": runs[0].edges.astype(float).round(6).tolist(),
        "iterations": runs[0].iterations.tolist(),
        "limits": limits(runs),
        "colors": [POSITIVE, NEGATIVE],
        "runs": [
            {
                "name": run.name,
                "counts": [run.positive.tolist(), run.negative.tolist()],
                "levels": run.levels.round(4).tolist(),
                "colors": _colors(run),
            }
            for run in runs
        ],
    }
    label = caption or "Distances through training"
    values = [["iteration", *(f"overlap, {run.name}" for run in runs)]]
    for at, iteration in enumerate(runs[0].iterations.tolist()):
        shared = (overlap(run.positive[at], run.negative[at]) for run in runs)
        values.append([iteration, *(f"{share:.1%}" for share in shared)])
    return live("training", data, image(training_figure(runs, last), alt), label, caption, values)


def _colors(run: Distances) -> list[str]:
    count = run.levels.shape[1]
    return [to_hex(c) for c in level_colors(count)] if count else []
