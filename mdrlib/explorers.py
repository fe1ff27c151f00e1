"""Widgets for a notebook with a kernel: levels and lambda, distances through training, nearest neighbours.

In a page, where there is none, `live_levels`, `live_training` and `hover_map` do alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdrlib.live_levels import REACH, describe, levels_figure, normalized
from mdrlib.live_training import stored_distances, told, training_figure
from mdrlib.palette import array, level_array
from mdrlib.player import image
from mdrlib.plots import retrieval_gallery
from mdrlib.retrieval import search


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
