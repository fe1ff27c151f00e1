"""A map of embeddings in a page that shows the drawing of the point under a pointer, finger or arrow key."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdrlib.live import live
from mdrlib.palette import GROUPS, MARKERS, array, method_styles
from mdrlib.pictures import embedding_map, on_paper, unit_images
from mdrlib.player import image

SIDE = 35  # pixels: larger images are made smaller, so that a page stays light
COLUMNS = 25  # of the picture that holds all drawings
SCALE = 1000  # coordinates are whole numbers from 0 to this


def hover_map(
    maps: Mapping[str, Any],
    images: Any,
    labels: Any,
    classes: Sequence[str],
    groups: Any = None,
    group_names: Sequence[str] = (),
    most: int = 600,
    caption: str = "",
    start: str | None = None,
) -> Any:
    """An IPython HTML object: maps of the same images by method, one at a time, and the image of a point.

    maps: coordinates (N, 2) such as UMAP's, by method; images (N, C, H, W), shown in grey, at most 35 pixels
    wide; labels (N,), named by classes; groups (N,), named by group_names, choose colour and marker, and are
    the labels where there are none; most: at most so many points can be chosen, see `spread_over_classes`;
    start: the method shown first, else the last. Mouse, touch and arrow keys choose a point. Without scripts
    the map of `start` is a picture of all N points. Raises ValueError when shapes differ.
    """
    labels = array(labels, "labels", 1, int)
    found = {name: array(xy, "maps", 2) for name, xy in maps.items()}
    start = start or (list(found)[-1] if found else "")
    wrong = {name: xy.shape for name, xy in found.items() if xy.shape != (len(labels), 2)}
    if start not in found or wrong or not len(labels) or not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"hover_map needs maps of shape ({len(labels)}, 2), one of them {start!r}, and classes that name "
            f"each label; got {list(found)}, wrong {wrong}, and {len(classes)} names"
        )
    pictures = unit_images(images, len(labels))
    groups, named = (labels, classes) if groups is None else (array(groups, "groups", 1, int), group_names)
    chosen = spread_over_classes(labels, most)
    sprite, size = sprite_of(pictures[chosen])
    titles = [method_styles([name])[name]["label"] for name in found]
    present = np.unique(groups).tolist()
    data = {
        "names": titles,
        "start": list(found).index(start),
        "xy": [scaled(xy[chosen]).tolist() for xy in found.values()],
        "index": chosen.tolist(),
        "label": labels[chosen].tolist(),
        "classes": list(classes),
        "group": [present.index(g) for g in groups[chosen].tolist()],
        "groups": [named[g] for g in present] if len(named) else [str(g) for g in present],
        "colors": GROUPS,
        "markers": MARKERS,
        "sprite": {"source": sprite, "columns": COLUMNS, "size": size},
    }
    words = f"Map of {len(labels)} images by {titles[data['start']]}, coloured by group"
    still = image(embedding_map(found[start], groups, named or None, images), words)
    return live("hover_map", data, still, caption or "Map of embeddings", caption)


def spread_over_classes(labels: np.ndarray, most: int) -> np.ndarray:
    """Indices (M,), M <= most, of labels (N,): as many of each class, evenly spaced within it.

    A class with fewer gives all. Where there are more classes than `most`, every other, third, ... is left
    out, so that those kept are evenly spaced by number.
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    if len(labels) <= most:
        return np.arange(len(labels))
    present = np.unique(labels)
    kept = present[np.linspace(0, len(present) - 1, min(len(present), most)).round().astype(int)]
    each = most // len(kept)
    members = [np.flatnonzero(labels == label) for label in kept]
    return np.sort(
        np.concatenate([m[np.arange(min(each, len(m))) * len(m) // min(each, len(m))] for m in members])
    )


def scaled(xy: np.ndarray) -> np.ndarray:
    """Coordinates (M, 2) as whole numbers in 0..1000, both axes alike, in the middle, y downwards."""
    low, high = xy.min(0), xy.max(0)
    middle, reach = (low + high) / 2, max((high - low).max(), 1e-12)
    return (((xy - middle) * [1, -1] / reach + 0.5) * SCALE).round().astype(int)


def sprite_of(pictures: np.ndarray) -> tuple[str, int]:
    """Images (M, H, W, C), floats in 0..1, in one grey PNG, rows of 25: its data URI and the side of each.

    Strokes are dark on light paper. Images are squares of their own height, or of 35 pixels if higher.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("hover_map needs pillow: pip install mdrlib[plots]") from error
    side = min(SIDE, pictures.shape[1])
    sheet = Image.new("L", (COLUMNS * side, -(-len(pictures) // COLUMNS) * side), 255)
    for k, picture in enumerate(pictures):
        grey = np.asarray(on_paper(picture))
        grey = grey.mean(2) if grey.ndim == 3 else grey
        # 16 shades do for a thumbnail and take half the space
        drawn = Image.fromarray((np.round(grey * 15) * 17).astype(np.uint8))
        sheet.paste(drawn.resize((side, side)), (k % COLUMNS * side, k // COLUMNS * side))
    file = io.BytesIO()
    sheet.save(file, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", side
