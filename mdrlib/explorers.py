"""Widgets for a notebook with a kernel: levels and lambda, distances through training, nearest neighbours.

In a page, where there is none, `live_levels`, `live_training` and `hover_map` do alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdrlib.live_training import stored_distances, told, training_figure
from mdrlib.palette import WIDTH, array, figure, level_array, level_colors, signed, text_color
from mdrlib.player import image
from mdrlib.plots import distance_histogram, nearest_level, retrieval_gallery
from mdrlib.retrieval import search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 5.0  # of the sliders of the levels, in standard deviations


def levels_figure(
    distances: Any, same_class: Any, levels: Sequence[float] = (-3.0, 0.0, 3.0), weight: float = 0.1
) -> Figure:
    """Distances by level, above the pull of lambda L_MDR on a distance: -lambda sign(z - s), s nearest to z.

    distances (P,), of pairs of a batch, normalized here by their own mean and standard deviation; same_class
    (P,) bool; levels (S,); weight: lambda, at least 0. The title gives L_MDR, the mean of |z - s|.
    """
    z, levels = normalized(distances), level_array(levels)
    value = regularizer(z, levels)
    if not weight >= 0:
        raise ValueError(f"weight (lambda) must be at least 0, got {weight}")
    fig, (ax, pull) = figure(WIDTH, 5.2, 2, 1, sharex=True, height_ratios=(3, 1.1))
    distance_histogram(z, same_class, levels, ax=ax)
    ax.set(xlabel="", xlim=(-REACH - 0.2, REACH + 0.2))
    mean = rf"$L_{{MDR}}$ = mean |z $-$ nearest level| = {value:.3f}"
    fig.suptitle(rf"{mean}        $\lambda L_{{MDR}}$ = {weight * value:.3f}", fontsize=11.5)
    _draw_pull(pull, levels, weight)
    fig.align_ylabels()
    return fig


def _draw_pull(ax: Any, levels: np.ndarray, weight: float) -> None:
    """The pull as steps in each level's colour, with arrows that point to the level."""
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


def regularizer(z: Any, levels: Any) -> float:
    """L_MDR for given levels (S,): the mean over normalized distances z (P,) of |z - nearest level|."""
    z, levels = array(z, "z", 1), level_array(levels)
    return float(np.abs(z - levels[nearest_level(z, levels)]).mean())


def levels_and_lambda(distances: Any, same_class: Any, levels: Sequence[float] = (-3.0, 0.0, 3.0)) -> Any:
    """A widget with a slider for each level and for lambda, above `levels_figure` drawn for them.

    Parameters as there. Returns an ipywidgets VBox: the sliders, then the picture with its alt text.
    Raises ImportError when ipywidgets is missing. Needs a kernel; `live_levels.levels_live` does not.
    """
    widgets = _widgets()
    z, start = normalized(distances), level_array(levels)
    if np.abs(start).max() > REACH:
        raise ValueError(f"levels must lie within {REACH} standard deviations, got {start.tolist()}")
    look = {"style": {"description_width": "70px"}, "layout": {"width": "360px"}}
    sliders = [
        widgets.FloatSlider(float(level), min=-REACH, max=REACH, step=0.1, description=f"level {k}", **look)
        for k, level in enumerate(start)
    ]
    weight = widgets.FloatSlider(0.1, min=0.0, max=1.0, step=0.05, description="lambda", **look)
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        levels = [slider.value for slider in sliders]
        fig = levels_figure(z, same_class, levels, weight.value)
        picture.value = image(fig, describe(z, same_class, levels, weight.value))

    for slider in (*sliders, weight):
        slider.observe(redraw, names="value")
    redraw()
    return widgets.VBox([widgets.VBox([*sliders, weight]), picture])


def distances_through_training(folders: Mapping[str, str | Path]) -> Any:
    """A widget with a slider over the evaluations of runs, and a button that plays, above `training_figure`.

    folders: of runs, by method, as `live_training.stored_distances` reads them. Returns an ipywidgets VBox:
    the row of play button and slider, then the picture with its alt text. Needs a kernel.
    """
    widgets = _widgets()
    runs = stored_distances(folders)
    last = len(runs[0].iterations) - 1
    slider = widgets.IntSlider(last, min=0, max=last, description="evaluation", layout={"width": "360px"})
    play = widgets.Play(last, min=0, max=last, interval=900, show_repeat=False)
    widgets.jslink((play, "value"), (slider, "value"))
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        picture.value = image(training_figure(runs, slider.value), told(runs, slider.value))

    slider.observe(redraw, names="value")
    redraw()
    return widgets.VBox([widgets.HBox([play, slider]), picture])


def embedding_explorer(embeddings: Any, images: Any, labels: Any, classes: Sequence[str]) -> Any:
    """A widget that chooses an image, by class and number, and shows its nearest neighbours of all.

    embeddings (N, D) tensor; images (N, C, H, W); labels (N,), named by classes. Returns an ipywidgets VBox:
    the class, the number within it and the number of neighbours, then a row of `retrieval_gallery` with its
    alt text. The query itself is left out by its index. Needs a kernel. Raises ValueError when counts differ.
    """
    widgets = _widgets()
    labels = array(labels, "labels", 1, int)
    if not len(embeddings) == len(images) == len(labels) >= 2:
        raise ValueError(
            f"embeddings, images and labels must be as many, 2 or more; got {len(embeddings)}, {len(images)} "
            f"and {len(labels)}"
        )
    present = [(classes[label], label) for label in np.unique(labels).tolist()]
    name = widgets.Dropdown(options=present, description="class")
    number = widgets.IntSlider(0, min=0, max=int((labels == name.value).sum()) - 1, description="image")
    most = min(12, len(labels) - 1)
    count = widgets.IntSlider(min(8, most), min=1, max=most, description="neighbours")
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        members = np.flatnonzero(labels == name.value)
        number.max = len(members) - 1  # may lower its value
        query, k = int(members[number.value]), count.value
        distances, found = (part[0].numpy() for part in search(embeddings[[query]], embeddings, k=k + 1))
        others = np.flatnonzero(found != query)[:k]
        shown = [query, *found[others]]
        row = np.broadcast_to(np.arange(1, k + 1), (k + 1, k))
        fig = retrieval_gallery(images[shown], labels[shown], [0], row, k)
        right = int((labels[found[others]] == name.value).sum())
        picture.value = image(
            fig,
            f"{classes[name.value]}, image {query}: {right} of the {k} nearest are of its class. "
            f"Nearest {found[others[0]]} at distance {distances[others[0]]:.3f}.",
        )

    for control in (name, number, count):
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([name, number, count, picture])


def _widgets() -> Any:
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError("the explorers need ipywidgets: pip install mdrlib[notebooks]") from error
    return ipywidgets


def describe(z: Any, same_class: Any, levels: Any, weight: float) -> str:
    """`levels_figure` of normalized distances z (P,) in words, for those who do not see it."""
    levels, same = level_array(levels), array(same_class, "same_class", 1, bool)
    nearest = nearest_level(z, levels)
    parts = []
    for k, level in enumerate(levels):
        share, ours = (nearest == k).mean(), (nearest[same] == k).sum() / max(same.sum(), 1)
        parts.append(
            f"{share:.0%} of all pairs and {ours:.0%} of those of one class at level {signed(level)}"
        )
    value = regularizer(z, levels)
    return (
        f"Histogram of normalized distances: {'; '.join(parts)}. "
        f"L_MDR {value:.3f}, lambda times L_MDR {weight * value:.3f}."
    )


def normalized(distances: Any) -> np.ndarray:
    """z of the distances (P,); a second time it changes nothing."""
    d = array(distances, "distances", 1)
    if len(d) < 2 or d.std() == 0:
        raise ValueError(f"distances must be 2 or more and not all equal, got {len(d)}")
    return (d - d.mean()) / d.std(ddof=1)
