"""Pictures of images: maps of embeddings, galleries of neighbours, contact sheets."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle

from mdrbook.narrow import NARROW
from mdrbook.style import LIGHT, NEGATIVE, POSITIVE, WIDTH, BookFigure, figure, group_style, text_color
from mdrlib.datasets.preprocessing import open_image

if TYPE_CHECKING:
    from mdrlib.datasets import ImageFiles

LEGEND = 35  # groups; with more, colours and markers repeat too often to tell them apart


def embedding_map(
    xy: Any,
    groups: Any,
    names: Sequence[str] | None = None,
    images: Any = None,
    thumbnails: int = 24,
) -> Figure:
    """Draw a scatter of points in the plane, such as UMAP's, with a colour and a marker per group.

    Args:
        xy: Coordinates (N, 2).
        groups: (N,) integers, such as alphabets.
        names: Names of the groups, by number, for the legend, which up to 35 groups have.
        images: (N, C, H, W) as `unit_images` takes them.
        thumbnails: Number of images to draw, far from each other.
    """
    xy, groups = np.asarray(xy), np.asarray(groups)
    present = np.unique(groups)
    fig, ax = figure(WIDTH, 5.2)
    for k, group in enumerate(present):
        ax.scatter(
            *xy[groups == group].T,
            s=float(np.clip(30000 / len(xy), 5, 40)),
            linewidths=0,
            label=str(group) if names is None else names[group],
            **group_style(k),
        )
    if images is not None:
        _thumbnails(ax, xy, unit_images(images), thumbnails)
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_visible(False)
    if 1 < len(present) <= LEGEND:
        small = {"fontsize": 8, "labelspacing": 0.15} if len(present) > 20 else {}
        fig.legend(loc="outside right upper", markerscale=1.5, handletextpad=0.2, **small)
    return fig


def _thumbnails(ax: Axes, xy: np.ndarray, images: np.ndarray, count: int) -> None:
    """Draw `count` images at points far from each other, by farthest-point sampling."""
    gap = np.linalg.norm(xy - xy.mean(0), axis=1)
    for _ in range(min(count, len(xy))):
        i = int(gap.argmax())
        gap = np.minimum(gap, np.linalg.norm(xy - xy[i], axis=1))
        picture = OffsetImage(on_paper(images[i]), zoom=24 / max(images.shape[1:3]), cmap="gray", clim=(0, 1))
        frame = {"edgecolor": text_color(muted=True), "linewidth": 0.6}
        ax.add_artist(AnnotationBbox(picture, xy[i], pad=0.08, bboxprops=frame))


def retrieval_gallery(images: Any, labels: Any, queries: Any, neighbours: Any, k: int = 8) -> Figure:
    """Draw a row per query: its image, then its k nearest.

    Neighbours of the query's class have a solid frame and a tick, others a dashed frame and a cross.

    Args:
        images: (N, C, H, W) as `unit_images` takes them.
        labels: (N,).
        queries: Indices of images, (Q,).
        neighbours: Indices of images, (N, K), K >= k; row i has the nearest of image i, nearest first.
    """
    images, labels = unit_images(images), np.asarray(labels)
    queries, neighbours = np.asarray(queries), np.asarray(neighbours)
    if (neighbours[queries, :k] < 0).any():  # as a search marks missing ones; -1 would be the last image
        raise ValueError(f"Expected indices from 0 to {len(images) - 1}, got negative neighbours: lower k.")
    rows = [(query, neighbours[query, :k]) for query in queries]
    fig = _gallery(images, labels, rows, WIDTH, k)
    fig.on_phone = partial(_gallery, images, labels, rows, NARROW, -(-k // 2))
    return fig


def _gallery(images: np.ndarray, labels: np.ndarray, rows: list, width: float, across: int) -> BookFigure:
    """Draw rows of a query and its neighbours, `across` rows in a line."""
    height, k = images.shape[1] / images.shape[2], len(rows[0][1])
    step, lines = height + 0.16, -(-k // across)
    right, muted = 1.4 + 1.16 * across - 0.16, text_color(muted=True)
    end = len(rows) * lines * step - 0.16
    fig, ax = figure(width, width * (end + 0.46) / (right + 0.08))
    for row, (query, near) in enumerate(rows):
        top = row * lines * step
        _draw(ax, images[query], 0, top)
        _frame(ax, 0, top, height, muted, "solid", "")
        for rank, index in enumerate(near):
            x, y = 1.4 + 1.16 * (rank % across), top + step * (rank // across)
            _draw(ax, images[index], x, y)
            if labels[index] == labels[query]:
                _frame(ax, x, y, height, POSITIVE, "solid", "\N{CHECK MARK}")
            else:
                _frame(ax, x, y, height, NEGATIVE, (0, (2.5, 1.5)), "\N{BALLOT X}")
    heads = {0.5: "query", (1.4 + right) / 2: f"the {k} nearest, line by line"}
    if lines == 1:
        heads = {0.5: "query"} | {1.9 + 1.16 * rank: str(rank + 1) for rank in range(k)}
    for x, text in heads.items():
        ax.text(x, -0.08, text, ha="center", va="bottom", color=muted)
    _bare(ax, right, end, top=0.4)
    return fig


def photograph_gallery(
    queries: "ImageFiles", gallery: "ImageFiles", chosen: Any, neighbours: Any, k: int = 8, size: int = 96
) -> Figure:
    """Draw `retrieval_gallery` of photographs, read from disk and resized to squares.

    Args:
        queries, gallery: Splits whose classes are numbered alike; they may be one.
        chosen: Indices of queries, (Q,).
        neighbours: Indices of gallery, (N, K), K >= k; row i has the nearest of query i.
        size: Of a square, in pixels.
    """
    chosen = np.asarray(chosen)
    near = np.asarray(neighbours)[chosen, :k]
    paths = [queries.paths[i] for i in chosen] + [gallery.paths[j] for j in near.ravel()]
    images = np.stack([np.asarray(open_image(path).resize((size, size))) for path in paths])
    labels = np.concatenate([queries.labels[chosen], gallery.labels[near.ravel()]])
    rows = np.zeros((len(paths), near.shape[1]), dtype=int)  # those of neighbours are not drawn
    rows[: len(chosen)] = np.arange(len(chosen), len(paths)).reshape(near.shape)
    return retrieval_gallery(np.moveaxis(images, 3, 1), labels, np.arange(len(chosen)), rows, k)


def image_grid(images: Any, rows: int, titles: Sequence[str] | None = None) -> Figure:
    """Draw a contact sheet, filled row by row.

    Args:
        images: (N, C, H, W) as `unit_images` takes them.
        rows: 1 to N.
        titles: N of them, one over each image, or `rows`, one before each row.
    """
    images = unit_images(images)
    columns = math.ceil(len(images) / rows)
    over = titles is not None and len(titles) == len(images)
    fig = _grid(images, columns, columns, titles, over, WIDTH)
    most = 4 if over else max(round(6 * min(1, images.shape[1] / images.shape[2])), 1)
    lines = math.ceil(columns / most)
    fig.on_phone = partial(_grid, images, columns, -(-columns // lines), titles, over, NARROW)
    return fig


def _grid(
    images: np.ndarray, columns: int, across: int, titles: Sequence[str] | None, over: bool, width: float
) -> BookFigure:
    """Draw rows of `columns` images, `across` in a line, with titles over images, before or over rows."""
    height, lines, rows = images.shape[1] / images.shape[2], -(-columns // across), -(-len(images) // columns)
    point = 1.08 * across / (72 * width)  # in widths of an image
    before = titles is not None and not over and width == WIDTH
    aside = 0.75 * 10.5 * point * max(map(len, titles)) if before else 0.0
    above = 15 * point if titles is not None and not before else 0.0
    step = height + 0.08 + (above if over else 0.0)
    each = lines * step + (0.0 if over else above)
    fig, ax = figure(width, width * (each * rows + 0.04) / (1.08 * across + aside))
    for i, image in enumerate(images):
        row, place = divmod(i, columns)
        x, y = 1.08 * (place % across), each * row + step * (place // across)
        _draw(ax, image, x, y)
        if over:
            ax.text(x + 0.5, y - 0.04, titles[i], ha="center", va="bottom", fontsize=9)
    for row in range(0 if titles is None or over else rows):
        y = each * row
        if before:
            ax.text(-0.1, y + height / 2, titles[row], ha="right", va="center")
        else:
            ax.text(0, y - 0.05, titles[row], ha="left", va="bottom")
    _bare(ax, 1.08 * across - 0.08, each * (rows - 1) + (lines - 1) * step + height, top=above)
    return fig


def unit_images(images: Any) -> np.ndarray:
    """Return images (N, C, H, W), C 1 or 3, uint8 or float in 0..1, as float (N, H, W, C) in 0..1."""
    raw = np.asarray(images)
    unit = raw / np.float32(255) if raw.dtype == np.uint8 else raw.astype(np.float32)
    if not (unit.min() >= 0 and unit.max() <= 1):
        raise ValueError(f"Expected images as uint8 or float in 0..1, got values {raw.min()} to {raw.max()}.")
    return np.moveaxis(unit, 1, 3)


def on_paper(image: np.ndarray) -> np.ndarray:
    """Return a grey image (H, W, 1) as (H, W), inverted if mostly dark: dark strokes on light paper."""
    if image.shape[2] == 3:
        return image
    return 1 - image[..., 0] if np.median(image) < 0.5 else image[..., 0]


def _draw(ax: Axes, image: np.ndarray, x: float, y: float) -> None:
    """Draw an image one unit wide with its upper left corner at (x, y), y downwards."""
    bottom = y + image.shape[0] / image.shape[1]
    ax.imshow(on_paper(image), cmap="gray", vmin=0, vmax=1, extent=(x, x + 1, bottom, y))


def _frame(ax: Axes, x: float, y: float, height: float, color: str, line: Any, sign: str) -> None:
    ax.add_patch(Rectangle((x, y), 1, height, fill=False, edgecolor=color, linestyle=line, linewidth=2.2))
    if sign:
        box = {"facecolor": color, "edgecolor": "none", "pad": 1.2}
        ax.text(x + 0.97, y + 0.96 * height, sign, color=LIGHT, fontsize=9, ha="right", va="bottom", bbox=box)


def _bare(ax: Axes, right: float, bottom: float, top: float) -> None:
    ax.set(xlim=(-0.04, right + 0.04), ylim=(bottom + 0.04, -top - 0.04), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
