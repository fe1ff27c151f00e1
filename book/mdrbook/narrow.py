"""Figures for a phone: the same drawing with stacked panels and readable labels.

A figure's PNG carries the PNG of its narrow variant in a text chunk, through a notebook into the pages, where
`mdrbook.page` separates the two, and the browser chooses by the width of the window.
"""

import base64
import copy
import io
import struct
import textwrap
from functools import partial
from typing import Any

import numpy as np
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.category import StrCategoryLocator
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

NARROW = 3.6  # inches: 346 pixels, of which a page shows 342 in a window of 390
LEAST = 8.6  # points: 11.3 pixels of the page
MEDIA = "screen and (max-width: 680px)"  # windows that show the narrow variant
DPI, NARROW_DPI = 144, 192  # a phone has two or three pixels to one of the page
KEY = "Narrow"  # of the text chunk
SIGNATURE = 8  # bytes at the beginning of a PNG


def narrowed(wide: Figure) -> Figure:
    """Return a variant of a figure for a phone; the figure itself is unchanged.

    Panels are stacked, legends move above them, long words wrap, and no text is below 8.6 points. A figure
    with an attribute `on_phone`, a function without arguments, is drawn by that instead.
    """
    draw = getattr(wide, "on_phone", None)
    fig = draw() if draw else copy.deepcopy(wide)
    if not draw:
        _stack(fig)
    for text in fig.findobj(Text):
        text.set_fontsize(max(text.get_fontsize(), LEAST))
    _raise_legends(fig, list(fig.legends))
    _wrap_rows(fig)
    fig.draw_without_rendering()
    _raise_legends(fig, [legend for legend in map(Axes.get_legend, fig.axes) if legend and _is_wide(legend)])
    _wrap(fig)
    _keep_inside(fig)
    return fig


def png(figure: Figure, dpi: float = DPI, **options: Any) -> bytes:
    """Return a figure as PNG; the same drawing has the same bytes."""
    data = io.BytesIO()
    metadata = {"Software": None} | options.pop("metadata", {})
    figure.savefig(data, format="png", dpi=dpi, metadata=metadata, **options)
    return data.getvalue()


def two_in_one(figure: Figure, **options: Any) -> bytes:
    """Return a figure as PNG, as `png` does, that carries the PNG of its narrow variant."""
    small = base64.b64encode(png(narrowed(figure), NARROW_DPI)).decode()
    return png(figure, metadata={KEY: small}, **options)


def taken_apart(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG without the narrow variant that it may carry, and that variant or None."""
    kept, small, at = [data[:SIGNATURE]], None, SIGNATURE
    while at < len(data):  # a chunk is its length, its kind, its content and a sum
        end = at + 12 + struct.unpack(">I", data[at : at + 4])[0]
        kind, content = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if kind == b"tEXt" and content.startswith(KEY.encode() + b"\0"):
            small = base64.b64decode(content.split(b"\0", 1)[1])
        else:
            kept.append(data[at:end])
        at = end
    return b"".join(kept), small


def _stack(fig: Figure) -> None:
    """Stack the panels of a grid, row by row, in the narrow width."""
    panels = [ax for ax in fig.axes if ax.get_subplotspec() is not None]
    for ax in panels:
        ax.autoscale_view()  # an equal aspect may have widened the limits to a wider panel
    width, height = fig.get_size_inches()
    if not panels:
        fig.set_size_inches(NARROW, height * NARROW / width)
        return
    grid = panels[0].get_subplotspec().get_gridspec()
    share = np.asarray(grid.get_height_ratios()) / sum(grid.get_height_ratios())
    # A panel that loses width loses some height; one that gains width keeps its height.
    factor = float(np.clip(np.sqrt(NARROW * grid.ncols / width), 0.65, 1))
    shown = [ax for ax in panels if ax.get_visible()]
    heights = [factor * height * share[list(ax.get_subplotspec().rowspan)].sum() for ax in shown]
    if grid.ncols == 1:
        fig.set_size_inches(NARROW, factor * height)
        return
    for ax in set(panels) - set(shown):
        fig.delaxes(ax)
    for ax in shown:
        _own_labels(ax, shown)
    fig.set_size_inches(NARROW, sum(heights))
    column = GridSpec(len(shown), 1, figure=fig, height_ratios=heights)
    for row, ax in enumerate(shown):
        ax.set_subplotspec(column[row])


def _own_labels(ax: Axes, panels: list[Axes]) -> None:
    """Give a panel the tick labels and names that it shared with its neighbours."""
    for name, shared in (("x", ax.get_shared_x_axes()), ("y", ax.get_shared_y_axes())):
        siblings = [other for other in panels if other is not ax and shared.joined(ax, other)]
        if siblings:
            axis = getattr(ax, f"{name}axis")
            axis.set_tick_params(which="both", **{"labelbottom" if name == "x" else "labelleft": True})
            axis.offsetText.set_visible(True)
            names = [getattr(other, f"get_{name}label")() for other in siblings]
            if not axis.get_label_text():
                axis.set_label_text(next(filter(None, names), ""))


def _is_wide(legend: Legend) -> bool:
    """Return whether a panel's legend takes half of its width or extends beyond it."""
    box, frame = legend.get_window_extent(), legend.axes.bbox
    inside = frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1 and box.y0 >= frame.y0 - 1
    return not inside or box.width > 0.45 * frame.width


def _raise_legends(fig: Figure, legends: list[Legend]) -> None:
    """Put legends above all panels as one, in as many columns as fit."""
    pairs = [pair for own in legends for pair in zip(own.texts, own.legend_handles, strict=True)]
    handles = {text.get_text(): handle for text, handle in pairs}
    for legend in legends:  # in a copied figure `legend.remove` still means the original's list
        fig.legends.remove(legend) if legend in fig.legends else legend.remove()
    for columns in (3, 2, 1) if legends else ():
        look = {"handlelength": 2.2, "columnspacing": 1.2, "fontsize": LEAST + 0.4, "ncols": columns}
        made = fig.legend(handles.values(), handles, loc="outside upper left", **look)
        if columns == 1 or made.get_window_extent().width <= fig.bbox.width:
            break
        fig.legends.remove(made)


def _wrap_rows(fig: Figure) -> None:
    """Wrap names of rows that would leave a panel no room, before the layout."""
    for ax in fig.axes:
        if isinstance(ax.yaxis.get_major_locator(), FixedLocator | StrCategoryLocator):
            labels = ax.yaxis.get_ticklabels()
            if max((label.get_window_extent().width for label in labels), default=0) > 0.36 * fig.bbox.width:
                lines = [label.get_text().splitlines() for label in labels]
                names = ["\n".join(map(_in_lines, its)) for its in lines]
                ax.set_yticks(ax.get_yticks(), names)
                added = max(name.count("\n") + 1 - len(its) for name, its in zip(names, lines, strict=True))
                fig.set_figheight(fig.get_figheight() + 0.17 * added * len(labels))


def _in_lines(name: str) -> str:
    """Wrap the name of a row at spaces, and at the plus signs of a method rather than within a word."""
    return textwrap.fill(name.replace("+", "+ "), 17).replace("+ ", "+")


def _wrap(fig: Figure) -> None:
    """Wrap long titles and names of axes, and turn crowded tick labels."""
    width = fig.bbox.width
    if fig._suptitle is not None:
        _fit(fig._suptitle, width)
    for ax in fig.axes:
        for title in (ax.title, ax._left_title, ax._right_title):
            _fit(title, width - ax.bbox.x0 if title is ax._left_title else width)
        middle = (ax.bbox.x0 + ax.bbox.x1) / 2
        _fit(ax.xaxis.label, 2 * min(middle, width - middle))
        _fit(ax.yaxis.label, max(ax.bbox.height, 110), vertical=True)
        boxes = [label.get_window_extent() for label in ax.xaxis.get_ticklabels() if label.get_text()]
        boxes = sorted((box for box in boxes if box.width), key=lambda box: box.x0)
        if any(b.x0 < a.x1 + 3 for a, b in zip(boxes, boxes[1:], strict=False)):
            ax.tick_params(axis="x", labelrotation=40)
            for label in ax.xaxis.get_ticklabels():
                label.set(ha="right", rotation_mode="anchor")


def _fit(text: Text, room: float, vertical: bool = False) -> None:
    """Wrap a text that is longer than `room` pixels, at wide gaps if it has some."""
    words, box = text.get_text(), text.get_window_extent()
    length = box.height if vertical else box.width
    if not words.strip() or length <= room:
        return
    if "    " in words:
        text.set_text("\n".join(part.strip() for part in words.split("    ") if part.strip()))
    elif "$" not in words:
        longest = max(map(len, words.splitlines()))
        text.set_text(textwrap.fill(words, max(int(0.95 * longest * room / length), 8)))


def _keep_inside(fig: Figure) -> None:
    """Make room within the figure for what extends beyond it, such as labels at the ends of lines."""
    if fig.stale:
        fig.draw_without_rendering()
    over = fig.get_tightbbox().transformed(fig.dpi_scale_trans)
    width, height = fig.bbox.size
    left, bottom = max(-over.x0, 0) / width, max(-over.y0, 0) / height
    right, top = max(over.x1 - width, 0) / width, max(over.y1 - height, 0) / height
    if max(left, bottom, right, top) > 0.003 and fig.get_layout_engine() is not None:
        fig.get_layout_engine().set(rect=(left, bottom, 1 - left - right, 1 - bottom - top))


def register(kind: type[Figure]) -> None:
    """Let the notebook that calls this show figures of a kind with their narrow variants."""
    shell = get_ipython()
    if shell is not None:
        draw = partial(two_in_one, bbox_inches="tight")
        shell.display_formatter.formatters["image/png"].for_type(kind, draw)
