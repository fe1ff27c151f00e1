"""Levels and lambda moved by hand, and what MDR makes of them: live in a notebook, as frames in a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdrlib.palette import WIDTH, array, figure, level_array, level_colors, signed, text_color
from mdrlib.player import frames, image
from mdrlib.plots import distance_histogram, nearest_level

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
    z, levels = _normalized(distances), level_array(levels)
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
    Raises ImportError when ipywidgets is missing. Needs a kernel; `levels_frames` does not.
    """
    try:
        import ipywidgets as widgets
    except ImportError as error:
        raise ImportError("the explorers need ipywidgets: pip install mdrlib[notebooks]") from error
    z, start = _normalized(distances), level_array(levels)
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
        picture.value = image(fig, _describe(z, same_class, levels, weight.value))

    for slider in (*sliders, weight):
        slider.observe(redraw, names="value")
    redraw()
    return widgets.VBox([widgets.VBox([*sliders, weight]), picture])


def levels_frames(
    distances: Any,
    same_class: Any,
    settings: Sequence[Sequence[float]],
    weight: float = 0.1,
    caption: str = "",
) -> Any:
    """`levels_figure` for each of several `settings` of the levels, behind a slider that needs no kernel."""
    z = _normalized(distances)
    return frames(
        [levels_figure(z, same_class, levels, weight) for levels in settings],
        ["levels " + ", ".join(signed(s) for s in levels) for levels in settings],
        [_describe(z, same_class, levels, weight) for levels in settings],
        caption,
    )


def _describe(z: Any, same_class: Any, levels: Any, weight: float) -> str:
    """The picture in words, for those who do not see it."""
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


def _normalized(distances: Any) -> np.ndarray:
    """z of the distances (P,); a second time it changes nothing."""
    d = array(distances, "distances", 1)
    if len(d) < 2 or d.std() == 0:
        raise ValueError(f"distances must be 2 or more and not all equal, got {len(d)}")
    return (d - d.mean()) / d.std(ddof=1)
