"""What all figures share: one palette, the light and the dark theme, and the checks of what is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each colour has a contrast of 3:1 or more with white, with DARK, and with DARK after the filter by which the
# book's pages turn light figures in dark mode; colours that meet in a figure stay apart for colour-blind
# readers (tests/test_plots.py computes both).
POSITIVE, NEGATIVE = "#0072B2", "#D55E00"  # pairs of one class, of two classes; right, wrong
LEVELS = ("#7A5CCB", "#2A9D6A", "#B07D00")  # from the nearest level to the farthest
METHODS = {  # Config.method: its name in the paper, colour, line style, marker, hatch
    "triplet": ("Triplet", "#808080", (0, (1, 1.2)), "s", ".."),
    "triplet+l2": ("Triplet+L2Norm", "#5782D9", (0, (5, 2)), "^", "//"),
    "triplet+mdr": ("Triplet+MDR", "#CC0044", "solid", "o", ""),
}
# Line style, marker and hatch of further runs of one method.
AGAIN = (((0, (6, 2, 1, 2)), "D", "xx"), ((0, (2, 2)), "v", "++"), ((0, (8, 1)), "P", "\\\\"))
GROUPS = ("#0072B2", "#D55E00", "#2A9D6A", "#CC0044", "#7A5CCB", "#B07D00", "#808080", "#00838F", "#B84FA8",
          "#8C6A4F")  # fmt: skip
MARKERS = "os^DvPX"
LIGHT, DARK = "#FFFFFF", "#121212"  # backgrounds
METRICS = {"r_precision": "R-Precision", "map@r": "MAP@R"}
WIDTH = 8.0  # inches; shown 700 pixels wide, 10.5 points become 13 pixels


def theme(dark: bool = False) -> ExitStack:
    """Set matplotlib's rcParams for light or dark pages; as a context manager, restore them at the end."""
    plt = pyplot()
    back, text, muted, line = LIGHT, "#1A1A1A", "#555555", "#BBBBBB"
    if dark:
        back, text, muted, line = DARK, "#EDEDED", "#B8B8B8", "#5A5A5A"
    style = {
        "figure.facecolor": back, "axes.facecolor": back, "savefig.facecolor": "auto", "figure.dpi": 144,
        "text.color": text, "axes.labelcolor": text, "axes.titlecolor": text, "axes.edgecolor": muted,
        "xtick.color": muted, "ytick.color": muted, "grid.color": line, "grid.linewidth": 0.6,
        "font.size": 10.5, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "axes.labelsize": 10.5, "xtick.labelsize": 10, "ytick.labelsize": 10, "legend.fontsize": 10,
        "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
        "axes.axisbelow": True, "lines.linewidth": 2.0, "lines.markersize": 5, "hatch.linewidth": 0.6,
        "grid.alpha": 0.6, "axes.prop_cycle": plt.cycler(color=GROUPS),
    }  # fmt: skip
    restore = ExitStack()
    restore.callback(plt.rcParams.update, {key: plt.rcParams[key] for key in style})
    plt.rcParams.update(style)
    return restore


def level_colors(count: int) -> list[tuple[float, float, float]]:
    """`count` colours from the nearest level's to the farthest's, as RGB in [0, 1]."""
    anchors = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in LEVELS])
    where = np.linspace(0, len(LEVELS) - 1, count) if count > 1 else np.array([(len(LEVELS) - 1) / 2])
    return [tuple(float(np.interp(w, range(len(LEVELS)), c)) for c in anchors.T) for w in where]


def method_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Label, color, linestyle, marker and hatch for each run by name.

    A name that holds "mdr", "l2" or "triplet" gets its method's colour; where runs share a method, line
    styles, markers and hatches tell them apart. Other names get other colours.
    """
    styles: dict[str, dict[str, Any]] = {}
    others = [c for c in GROUPS if c not in [style[1] for style in METHODS.values()]]
    taken: list[str] = []
    for name in names:
        lower = name.lower()
        method = next((m for part, m in _METHOD_OF.items() if part in lower), "")
        label, color, *shape = METHODS.get(
            method, (name, others[taken.count("") % len(others)], "solid", "o", "")
        )
        if method in taken:
            shape = AGAIN[(taken.count(method) - 1) % len(AGAIN)]
        taken.append(method)
        label = label if lower in METHODS else name
        styles[name] = dict(
            zip(("label", "color", "linestyle", "marker", "hatch"), (label, color, *shape), strict=True)
        )
    return styles


_METHOD_OF = {"mdr": "triplet+mdr", "l2": "triplet+l2", "triplet": "triplet"}


def metric_name(key: str) -> str:
    """The written form of a key of `Result.metrics`: "recall@1" -> "Recall@1"."""
    return METRICS.get(key, key.replace("recall", "Recall"))


def pyplot() -> Any:
    """matplotlib.pyplot, or an ImportError that says what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("mdrlib.plots needs matplotlib: pip install mdrlib[plots]") from error
    return plt


def figure(width: float, height: float, *grid: int, **options: Any) -> tuple[Figure, Any]:
    """A figure of width x height inches and its axes, which pyplot does not keep, so that a notebook shows
    it once. `grid`: rows and columns; `options` go to `pyplot.subplots`."""
    plt = pyplot()
    fig, axes = plt.subplots(*grid, figsize=(width, height), layout="constrained", **options)
    plt.close(fig)
    return fig, axes


def text_color(muted: bool = False) -> str:
    """The theme's colour of text, or of text and lines that step back."""
    return pyplot().rcParams["xtick.color" if muted else "text.color"]


def array(values: Any, name: str, ndim: int, dtype: type = float) -> np.ndarray:
    """`values` as an array of `ndim` dimensions of float (finite), int or bool; ValueError otherwise."""
    found = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if found.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got shape {found.shape}")
    kinds = {float: "fiub", int: "iu", bool: "b"}[dtype]
    if found.size and found.dtype.kind not in kinds:
        raise ValueError(f"{name} must be {dtype.__name__}, got {found.dtype}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return found.astype(dtype)


def level_array(levels: Any) -> np.ndarray:
    """Levels (S,), S >= 1, sorted from near to far."""
    found = np.sort(array(levels, "levels", 1))
    if len(found) == 0:
        raise ValueError("levels must be one or more numbers, got none")
    return found


def signed(value: float, digits: int = 1) -> str:
    """A number with a true minus sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")  # + 0.0: no minus zero
