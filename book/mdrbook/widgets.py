"""A widget for a notebook with a kernel; for pages without one see `mdrbook.live`."""

from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np

from mdrbook.pictures import retrieval_gallery
from mdrbook.style import image
from mdrlib.retrieval import search


def embedding_explorer(embeddings: Any, images: Any, labels: Any, classes: Sequence[str]) -> ipywidgets.VBox:
    """Return a widget that chooses an image, by class and number, and shows its nearest neighbours.

    Args:
        embeddings: Tensor (N, D), N >= 2.
        images: (N, C, H, W) as `pictures.unit_images` takes them.
        labels: (N,).
        classes: Names by label.

    Returns:
        The controls (class, number within it, number of neighbours), then the picture with its alt text.
    """
    labels = np.asarray(labels)
    present = [(classes[label], label) for label in np.unique(labels).tolist()]
    name = ipywidgets.Dropdown(options=present, description="class")
    number = ipywidgets.IntSlider(0, min=0, max=int((labels == name.value).sum()) - 1, description="image")
    most = min(12, len(labels) - 1)
    count = ipywidgets.IntSlider(min(8, most), min=1, max=most, description="neighbours")
    picture = ipywidgets.HTML()

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
            narrow=False,
        )

    for control in (name, number, count):
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([name, number, count, picture])
