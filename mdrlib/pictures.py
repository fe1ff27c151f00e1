"""Figures of embeddings and images: maps, retrieval galleries, contact sheets. Use them as `plots.<name>`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdrlib.datasets.images import open_image
from mdrlib.palette import GROUPS, LIGHT, MARKERS, NEGATIVE, POSITIVE, WIDTH, array, figure, text_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mdrlib.datasets import ImageFiles

LEGEND = 35  # groups; beyond, colours and markers repeat too often to tell them apart


def umap_coordinates(embeddings: Any, seed: int = 0, **options: Any) -> np.ndarray:
    """UMAP of embeddings (N, D), N >= 5: coordinates (N, 2) float32, the same for the same seed and machine.

    `options` go to `umap.UMAP`. Machines differ even with a seed: keep the coordinates of a published figure.
    The first call takes half a minute, in which umap compiles itself.
    """
    x = array(embeddings, "embeddings", 2)
    if len(x) < 5:
        raise ValueError(f"UMAP needs 5 or more embeddings, got {len(x)}")
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError("umap_coordinates needs umap-learn: pip install mdrlib[plots]") from error
    options = {"n_neighbors": min(15, len(x) - 1), "n_jobs": 1} | options  # a seed allows one job only
    return np.asarray(
        UMAP(random_state=seed, **options).fit_transform(x.astype(np.float32)), dtype=np.float32
    )


def embedding_map(
    xy: Any,
    groups: Any,
    names: Sequence[str] | None = None,
    images: Any = None,
    title: str | None = None,
    thumbnails: int = 24,
) -> Figure:
    """Scatter of two-dimensional coordinates, such as UMAP's, coloured and marked by group.

    xy (N, 2); groups (N,) integers, e.g. alphabets; names of the groups by number, for the legend beside
    (left out above 35 groups); images (N, C, H, W), of which `thumbnails` are drawn, spread over the map.
    """
    xy, groups = array(xy, "xy", 2), array(groups, "groups", 1, int)
    if xy.shape != (len(groups), 2) or len(groups) == 0:
        raise ValueError(
            f"xy must have shape (N, 2) and groups (N,), N >= 1; got {xy.shape} and {groups.shape}"
        )
    present = np.unique(groups)
    if names is not None and not 0 <= present[0] <= present[-1] < len(names):
        raise ValueError(f"names must name groups {present[0]} to {present[-1]}, got {len(names)} names")
    fig, ax = figure(WIDTH, 5.2)
    for k, group in enumerate(present):
        ax.scatter(
            *xy[groups == group].T,
            s=float(np.clip(30000 / len(xy), 5, 40)),
            color=GROUPS[k % len(GROUPS)],
            marker=MARKERS[k % len(MARKERS)],
            linewidths=0,
            label=str(group) if names is None else names[group],
        )
    if images is not None:
        _thumbnails(ax, xy, unit_images(images, len(xy)), thumbnails)
    ax.set(xticks=[], yticks=[], title=title or "")
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_visible(False)
    if 1 < len(present) <= LEGEND:
        small = {"fontsize": 8, "labelspacing": 0.15} if len(present) > 20 else {}
        fig.legend(loc="outside right upper", markerscale=1.5, handletextpad=0.2, **small)
    return fig


def _thumbnails(ax: Axes, xy: np.ndarray, images: np.ndarray, count: int) -> None:
    """Draw `count` images at points that are each far from those before: farthest-point sampling."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    gap = np.linalg.norm(xy - xy.mean(0), axis=1)
    for _ in range(min(count, len(xy))):
        i = int(gap.argmax())
        gap = np.minimum(gap, np.linalg.norm(xy - xy[i], axis=1))
        picture = OffsetImage(on_paper(images[i]), zoom=24 / max(images.shape[1:3]), cmap="gray", clim=(0, 1))
        frame = {"edgecolor": text_color(muted=True), "linewidth": 0.6}
        ax.add_artist(AnnotationBbox(picture, xy[i], pad=0.08, bboxprops=frame))


def retrieval_gallery(images: Any, labels: Any, queries: Any, neighbours: Any, k: int = 8) -> Figure:
    """A row for each query: its image, then its k nearest, the right ones framed solid with a tick, the
    wrong ones dashed with a cross.

    images (N, C, H, W); labels (N,); queries (Q,) indices of images; neighbours (N, K) indices, row i the
    nearest of image i, nearest first, K >= k.
    """
    images, labels = unit_images(images), array(labels, "labels", 1, int)
    queries, neighbours = array(queries, "queries", 1, int), array(neighbours, "neighbours", 2, int)
    n = len(images)
    if len(labels) != n or len(neighbours) != n or not 1 <= k <= neighbours.shape[1] or len(queries) == 0:
        raise ValueError(
            f"with {n} images, labels must be ({n},), neighbours ({n}, K) K >= k = {k} >= 1, and queries not "
            f"empty; got {labels.shape}, {neighbours.shape} and {queries.shape}"
        )
    used = np.concatenate([queries, neighbours[queries].ravel()]) if queries.max() < n else queries
    if used.min() < 0 or used.max() >= n:
        raise ValueError(f"queries and neighbours must be indices from 0 to {n - 1}")
    height = images.shape[1] / images.shape[2]
    left = np.concatenate([[0.0], 1.4 + 1.16 * np.arange(k)])  # of each column
    rows = len(queries) * (height + 0.16)
    fig, ax = figure(WIDTH, WIDTH * (rows + 0.3) / (left[-1] + 1.08))
    for row, query in enumerate(queries):
        y = row * (height + 0.16)
        for x, index in zip(left, (query, *neighbours[query, :k]), strict=True):
            _draw(ax, images[index], x, y)
            if x == 0:
                _frame(ax, x, y, height, text_color(muted=True), "solid", "")
            elif labels[index] == labels[query]:
                _frame(ax, x, y, height, POSITIVE, "solid", "\N{CHECK MARK}")
            else:
                _frame(ax, x, y, height, NEGATIVE, (0, (2.5, 1.5)), "\N{BALLOT X}")
    for rank, x in enumerate(left):
        ax.text(x + 0.5, -0.08, rank or "query", ha="center", va="bottom", color=text_color(muted=True))
    _bare(ax, left[-1] + 1, rows - 0.16, top=0.4)
    return fig


def photograph_gallery(
    queries: ImageFiles, gallery: ImageFiles, chosen: Any, neighbours: Any, k: int = 8, size: int = 96
) -> Figure:
    """`retrieval_gallery` of photographs, opened from disk and squeezed into squares of `size` pixels.

    chosen (Q,) indices of queries; neighbours (N, K) indices of gallery, row i the nearest of query i,
    K >= k. queries and gallery may be one split: the classes of both must be numbered alike.
    """
    chosen, neighbours = array(chosen, "chosen", 1, int), array(neighbours, "neighbours", 2, int)
    near = neighbours[chosen, :k]
    paths = [queries.paths[i] for i in chosen] + [gallery.paths[j] for j in near.ravel()]
    images = np.stack([np.asarray(open_image(path).resize((size, size))) for path in paths])
    labels = np.concatenate([queries.labels[chosen], gallery.labels[near.ravel()]])
    rows = np.zeros((len(paths), near.shape[1]), dtype=int)  # those below the queries are not drawn
    rows[: len(chosen)] = np.arange(len(chosen), len(paths)).reshape(near.shape)
    return retrieval_gallery(np.moveaxis(images, 3, 1), labels, np.arange(len(chosen)), rows, k)


def image_grid(images: Any, rows: int, titles: Sequence[str] | None = None) -> Figure:
    """Contact sheet of images (N, C, H, W) in `rows` rows, filled row by row; strokes dark on light paper.

    uint8 in 0..255 or float in 0..1; C is 1 or 3. titles: N of them, one over each image, or `rows`, one
    before each row.
    """
    images = unit_images(images)
    if not 1 <= rows <= len(images):
        raise ValueError(f"rows must be 1 to the number of images {len(images)}, got {rows}")
    if titles is not None and len(titles) not in (rows, len(images)):
        raise ValueError(
            f"titles must be {len(images)}, one an image, or {rows}, one a row; got {len(titles)}"
        )
    columns, height = math.ceil(len(images) / rows), images.shape[1] / images.shape[2]
    over = titles is not None and len(titles) == len(images)
    step = height + (0.035 * columns if over else 0) + 0.08  # 10 points over each image
    before = 0.0 if titles is None or over else 0.012 * columns * max(map(len, titles))
    fig, ax = figure(WIDTH, WIDTH * step * rows / (1.08 * columns + before) + 0.2)
    for i, image in enumerate(images):
        x, y = 1.08 * (i % columns), step * (i // columns)
        _draw(ax, image, x, y)
        if over:
            ax.text(x + 0.5, y - 0.04, titles[i], ha="center", va="bottom", fontsize=9)
    for row in range(0 if titles is None or over else rows):
        ax.text(-0.1, step * row + height / 2, titles[row], ha="right", va="center")
    _bare(ax, 1.08 * columns - 0.08, step * (rows - 1) + height, top=step - height)
    return fig


def unit_images(images: Any, count: int | None = None) -> np.ndarray:
    """Images (N, C, H, W), uint8 or float in 0..1, as float (N, H, W, C) in 0..1."""
    raw = np.asarray(images.detach().cpu() if hasattr(images, "detach") else images)
    if raw.ndim != 4 or raw.shape[1] not in (1, 3) or 0 in raw.shape or len(raw) != (count or len(raw)):
        raise ValueError(f"images must have shape ({count or 'N'}, C, H, W) with C 1 or 3, got {raw.shape}")
    unit = raw / np.float32(255) if raw.dtype == np.uint8 else raw.astype(np.float32)
    if not (unit.min() >= 0 and unit.max() <= 1):
        raise ValueError(f"images must be uint8, or float in 0..1; got values {unit.min()} to {unit.max()}")
    return np.moveaxis(unit, 1, 3)


def on_paper(image: np.ndarray) -> np.ndarray:
    """A grey image (H, W, 1) turned round where it is mostly dark: strokes dark on light paper."""
    if image.shape[2] == 3:
        return image
    return 1 - image[..., 0] if np.median(image) < 0.5 else image[..., 0]


def _draw(ax: Axes, image: np.ndarray, x: float, y: float) -> None:
    """The image one unit wide with its upper left corner at (x, y), y downwards."""
    bottom = y + image.shape[0] / image.shape[1]
    ax.imshow(on_paper(image), cmap="gray", vmin=0, vmax=1, extent=(x, x + 1, bottom, y))


def _frame(ax: Axes, x: float, y: float, height: float, color: str, line: Any, sign: str) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((x, y), 1, height, fill=False, edgecolor=color, linestyle=line, linewidth=2.2))
    if sign:
        box = {"facecolor": color, "edgecolor": "none", "pad": 1.2}
        ax.text(x + 0.97, y + 0.96 * height, sign, color=LIGHT, fontsize=9, ha="right", va="bottom", bbox=box)


def _bare(ax: Axes, right: float, bottom: float, top: float) -> None:
    ax.set(xlim=(-0.04, right + 0.04), ylim=(bottom + 0.04, -top - 0.04), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
