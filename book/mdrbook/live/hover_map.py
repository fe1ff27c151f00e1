"""A map of embeddings in a page that shows the image of the point that the reader chooses."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import HTML
from PIL import Image

from mdrbook.live import live
from mdrbook.pictures import embedding_map, on_paper, unit_images
from mdrbook.style import group_style, image, method_styles

SIDE = 35  # pixels: larger images are resized, so that a page stays light
COLUMNS = 25  # of the picture that holds all images
SCALE = 1000  # coordinates are whole numbers from 0 to this


def hover_map(
    maps: Mapping[str, Any],
    images: Any,
    labels: Any,
    classes: Sequence[str],
    groups: Any,
    group_names: Sequence[str],
    most: int = 600,
    caption: str = "",
) -> HTML:
    """Return maps of the same images by method, one at a time, and the image of a point.

    Mouse, touch and arrow keys choose a point, and a group's name highlights it. Without scripts the last map
    is a picture of all N points.

    Args:
        maps: Coordinates (N, 2), such as UMAP's, by method; the last is shown first.
        images: (N, C, H, W) as `pictures.unit_images` takes them, shown in grey, at most 35 pixels wide.
        labels: (N,).
        classes: Names by label.
        groups: (N,) integers, which choose colour and marker.
        group_names: Names by group.
        most: At most this many points can be chosen, see `spread_over_classes`.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    chosen = spread_over_classes(labels, most)
    sprite, size = sprite_of(unit_images(images)[chosen])
    titles = [method_styles([name])[name]["label"] for name in maps]
    present = np.unique(groups).tolist()
    data = {
        "names": titles,
        "start": len(maps) - 1,
        "xy": [scaled(np.asarray(xy)[chosen]).tolist() for xy in maps.values()],
        "index": chosen.tolist(),
        "label": labels[chosen].tolist(),
        "classes": list(classes),
        "group": [present.index(g) for g in groups[chosen].tolist()],
        "groups": [group_names[g] for g in present],
        "looks": [group_style(k) for k in range(len(present))],
        "sprite": {"source": sprite, "columns": COLUMNS, "size": size},
    }
    words = f"Map of {len(labels)} images by {titles[-1]}, coloured by group"
    still = image(embedding_map(list(maps.values())[-1], groups, group_names, images), words)
    return live("hover_map", data, still, caption or "Map of embeddings", caption)


def spread_over_classes(labels: np.ndarray, most: int) -> np.ndarray:
    """Return indices (M,), M <= most, of labels (N,): equally many per class, evenly spaced within it.

    A class with fewer gives all. With more classes than `most`, the classes kept are evenly spaced by number.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    present = np.unique(labels)
    kept = present[np.linspace(0, len(present) - 1, min(len(present), most)).round().astype(int)]
    each = most // len(kept)
    chosen = []
    for label in kept:
        members = np.flatnonzero(labels == label)
        count = min(each, len(members))
        chosen.append(members[np.arange(count) * len(members) // count])
    return np.sort(np.concatenate(chosen))


def scaled(xy: np.ndarray) -> np.ndarray:
    """Return coordinates (M, 2) as whole numbers in 0..1000, centred, in one scale, y downwards."""
    low, high = xy.min(0), xy.max(0)
    middle, reach = (low + high) / 2, max((high - low).max(), 1e-12)
    return (((xy - middle) * [1, -1] / reach + 0.5) * SCALE).round().astype(int)


def sprite_of(pictures: np.ndarray) -> tuple[str, int]:
    """Return images (M, H, W, C) in one grey PNG, rows of 25: its data URI and the side of each in pixels.

    Strokes are dark on light paper. Images become squares of their own height, or of 35 pixels if higher.
    """
    side = min(SIDE, pictures.shape[1])
    sheet = Image.new("L", (COLUMNS * side, -(-len(pictures) // COLUMNS) * side), 255)
    for k, picture in enumerate(pictures):
        grey = on_paper(picture)
        grey = grey.mean(2) if grey.ndim == 3 else grey
        # 16 shades are enough for a thumbnail and take half the space
        drawn = Image.fromarray((np.round(grey * 15) * 17).astype(np.uint8))
        sheet.paste(drawn.resize((side, side)), (k % COLUMNS * side, k // COLUMNS * side))
    file = io.BytesIO()
    sheet.save(file, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", side
