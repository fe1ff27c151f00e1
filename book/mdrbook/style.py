"""Common parts of all figures: colours, the light and dark themes, widths, and images for a page.

Pages invert light figures in dark mode (book/_static/custom.css) and show narrow variants on a phone
(`mdrbook.narrow`, `mdrbook.page`).
"""

import base64
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from mdrbook.narrow import MEDIA, NARROW_DPI, narrowed, png, register
from mdrlib.comparison import metric_name as metric_name
from mdrlib.comparison import signed as signed

# Each colour has a contrast of 3:1 or more with white, with DARK, and with DARK after the filter by which the
# book's pages invert light figures in dark mode. Colours that meet in a figure stay apart for colour-blind
# readers, by 20 or more in CIE76. tests/mdrbook/test_style.py computes both.
POSITIVE, NEGATIVE = "#0072B2", "#D55E00"  # pairs of one class, of two classes; right, wrong
LEVELS = ("#7A5CCB", "#2A9D6A", "#B07D00")  # from the nearest level to the farthest
METHODS = {  # Config.method: its name in the paper, colour, line style, marker, hatch
    "triplet": ("Triplet", "#808080", (0, (1, 1.2)), "s", ".."),
    "triplet+l2": ("Triplet+L2Norm", "#5782D9", (0, (5, 2)), "^", "//"),
    "triplet+mdr": ("Triplet+MDR", "#CC0044", "solid", "o", ""),
}
LOSSES = {"triplet": "#4B78FF", "mdr": "#CC0044"}  # pulls and gradients of a loss
METHOD_OF = {"mdr": "triplet+mdr", "l2": "triplet+l2", "triplet": "triplet"}  # by a part of a run's name
# Line style, marker and hatch of further runs of one method.
AGAIN = (((0, (6, 2, 1, 2)), "D", "xx"), ((0, (2, 2)), "v", "++"), ((0, (8, 1)), "P", "\\\\"))
# The first five differ for every eye; further ones need their marker, of which there are as many.
GROUPS = ("#0072B2", "#D55E00", "#2A9D6A", "#6969FF", "#4B96A5", "#CC0044", "#808080", "#B07D00", "#B84FA8",
          "#8C6A4F")  # fmt: skip
MARKERS = "os^DvPX*<>"
LINES = ("solid", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
LIGHT, DARK = "#FFFFFF", "#121212"  # backgrounds
WIDTH = 8.0  # inches; a page shows it 700 pixels wide, so that 10.5 points become 13 pixels


class BookFigure(Figure):
    """A figure that a notebook shows with its narrow variant for a phone.

    on_phone: Draws that variant; None: `mdrbook.narrow` stacks the panels.
    """

    on_phone: Callable[[], Figure] | None = None


def theme(dark: bool = False) -> None:
    """Set matplotlib's rcParams for light or dark pages; within `plt.rc_context()`, until it ends."""
    register(BookFigure)
    back, text, muted, line = LIGHT, "#1A1A1A", "#555555", "#BBBBBB"
    if dark:
        back, text, muted, line = DARK, "#EDEDED", "#B8B8B8", "#5A5A5A"
    plt.rcParams.update({
        "figure.facecolor": back, "axes.facecolor": back, "savefig.facecolor": "auto", "figure.dpi": 144,
        "text.color": text, "axes.labelcolor": text, "axes.titlecolor": text, "axes.edgecolor": muted,
        "xtick.color": muted, "ytick.color": muted, "grid.color": line, "grid.linewidth": 0.6,
        "font.size": 10.5, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "axes.labelsize": 10.5, "xtick.labelsize": 10, "ytick.labelsize": 10, "legend.fontsize": 10,
        "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
        "axes.axisbelow": True, "lines.linewidth": 2.0, "lines.markersize": 5, "hatch.linewidth": 0.6,
        "grid.alpha": 0.6, "axes.prop_cycle": plt.cycler(color=GROUPS),
    })  # fmt: skip


def figure(width: float, height: float, *grid: int, **options: Any) -> tuple[Figure, Any]:
    """Make a figure and its axes, which pyplot does not keep, so that a notebook shows it once.

    Args:
        width, height: In inches.
        *grid: Rows and columns of axes.
        **options: Of `pyplot.subplots`.
    """
    words = {"figsize": (width, height), "layout": "constrained", "FigureClass": BookFigure}
    fig, axes = plt.subplots(*grid, **words, **options)
    plt.close(fig)
    return fig, axes


def text_color(muted: bool = False) -> str:
    """Return the theme's colour of text, or of text and lines in the background."""
    return plt.rcParams["xtick.color" if muted else "text.color"]


def level_colors(count: int) -> list[tuple[float, float, float]]:
    """Return `count` colours, from the nearest level's to the farthest's, as RGB in [0, 1]."""
    anchors = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in LEVELS])
    where = np.linspace(0, len(LEVELS) - 1, count) if count > 1 else np.array([(len(LEVELS) - 1) / 2])
    return [tuple(float(np.interp(w, range(len(LEVELS)), c)) for c in anchors.T) for w in where]


def method_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return label, color, linestyle, marker and hatch for each run.

    Args:
        names: Methods or runs. A name that contains "mdr", "l2" or "triplet" gets its method's colour; runs
            of one method differ in line style, marker and hatch. Other names get other colours.
    """
    styles: dict[str, dict[str, Any]] = {}
    others = [c for c in GROUPS if c not in [style[1] for style in METHODS.values()]]
    taken: list[str] = []
    for name in names:
        method = next((m for part, m in METHOD_OF.items() if part in name.lower()), "")
        own = (name, others[taken.count("") % len(others)], "solid", "o", "")
        label, color, *shape = METHODS.get(method, own)
        if method in taken:
            shape = AGAIN[(taken.count(method) - 1) % len(AGAIN)]
        taken.append(method)
        line, marker, hatch = shape
        styles[name] = {
            "label": label if name.lower() in METHODS else name,
            "color": color,
            "linestyle": line,
            "marker": marker,
            "hatch": hatch,
        }
    return styles


def group_style(k: int) -> dict[str, str]:
    """Return color and marker of group k; the first hundred groups all differ."""
    ten = len(GROUPS)
    return {"color": GROUPS[k % ten], "marker": MARKERS[(k + k // ten) % ten]}


def line_style(style: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a style of `method_styles` that `Axes.plot` takes: all except the hatch."""
    return {part: value for part, value in style.items() if part != "hatch"}


def legend(figure: Figure, columns: int) -> None:
    """Name the lines of all panels above them, each name once."""
    handles = {h.get_label(): h for ax in figure.axes for h in ax.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles, loc="outside upper left", ncols=columns, handlelength=2.8)


def image(figure: Figure, alt: str, label: str = "", shown: bool = True, narrow: bool = True) -> str:
    """Return the figure as an <img> that contains its PNG; the same drawing has the same bytes.

    Args:
        figure: Drawn at 144 dots per inch.
        alt: Its description for those who do not see it.
        label: Kept as the attribute data-label.
        shown: Whether it is visible at first.
        narrow: Whether it has a variant for a phone, in a <picture> with the <img>.
    """
    width, display = figure.get_figwidth() * 96, "block" if shown else "none"
    written = (
        f'<img src="{_address(png(figure))}" alt="{escape(alt)}" data-label="{escape(label)}" '
        f'style="display:{display};width:{width:.0f}px;max-width:100%;height:auto">'
    )
    if not narrow:
        return written
    small = _address(png(narrowed(figure), NARROW_DPI))
    return f'<picture><source media="{MEDIA}" srcset="{small} 2x">{written}</picture>'


def _address(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
