"""Maps, galleries and contact sheets show the images they are given, right and wrong apart."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image

from mdrbook import pictures, style
from mdrlib import mdr_loss

ROOT = Path(__file__).resolve().parents[2]


def drawings(count, height=8, width=8):
    """Light strokes on dark, as the small sets store them."""
    images = torch.zeros(count, 1, height, width, dtype=torch.uint8)
    images[:, :, 2] = 255
    return images


def test_embedding_map():
    xy = np.random.default_rng(0).normal(size=(60, 2))
    fig = pictures.embedding_map(xy, torch.arange(60) % 12, [f"alphabet {k}" for k in range(12)])
    ax = fig.axes[0]
    assert sum(len(part.get_offsets()) for part in ax.collections) == 60
    looks = {
        (to_hex(part.get_facecolor()[0]), part.get_paths()[0].vertices.tobytes()) for part in ax.collections
    }
    assert len(looks) == len(ax.collections) == 12
    assert [text.get_text() for text in fig.legends[0].get_texts()][:2] == ["alphabet 0", "alphabet 1"]
    many = pictures.embedding_map(xy, np.arange(60), images=drawings(60), thumbnails=7)
    assert not many.legends and len(many.axes[0].artists) == 7


NEIGHBOURS = np.array([[1, 2, 3], [0, 2, 5], [3, 4, 0], [2, 4, 1], [2, 3, 5], [0, 1, 2]])


def test_retrieval_gallery_frames_right_and_wrong():
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    ax = pictures.retrieval_gallery(drawings(6, 8, 6), labels, [0, 2], NEIGHBOURS, k=3).axes[0]
    frames = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    looks = [(to_hex(f.get_edgecolor()), f.get_linestyle() == "solid") for f in frames]
    right, wrong = (style.POSITIVE.lower(), True), (style.NEGATIVE.lower(), False)
    assert looks[1:4] == [right, wrong, wrong] and looks[5:8] == [right, right, wrong]
    signs = [text.get_text() for text in ax.texts]
    assert signs.count("\N{CHECK MARK}") == 3 and signs.count("\N{BALLOT X}") == 3
    assert len(ax.images) == 8
    assert signs[-4:] == ["query", "1", "2", "3"]


def test_neighbours_that_a_search_did_not_find_are_not_drawn_as_the_last_image():
    with pytest.raises(ValueError, match="negative neighbours"):
        pictures.retrieval_gallery(drawings(6), np.zeros(6), [0], np.full((6, 3), -1), k=3)


def test_photograph_gallery_opens_what_it_shows(tmp_path):
    """Query and gallery are two splits, numbered alike; each picture is of the colour of its file."""
    from mdrlib.datasets import ImageFiles

    def split(name, colors, labels):
        files = [f"{name}{k}.png" for k in range(len(colors))]
        for file, color in zip(files, colors, strict=True):
            Image.new("RGB", (12, 9), color).save(tmp_path / file)
        return ImageFiles("inshop", name, tmp_path, files, torch.tensor(labels), ["a", "b"])

    red, green, blue = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    queries, gallery = split("query", [red, green, blue], [0, 1, 1]), split("gallery", [blue, green], [1, 0])
    fig = pictures.photograph_gallery(queries, gallery, [2], [[0, 0], [0, 0], [1, 0]], k=2, size=8)
    shown = [np.asarray(image.get_array()) for image in fig.axes[0].images]
    assert [image.shape for image in shown] == [(8, 8, 3)] * 3
    assert [int(image[0, 0].argmax()) for image in shown] == [2, 1, 2]  # the query, then its nearest
    assert [text.get_text() for text in fig.axes[0].texts][:2] == ["\N{BALLOT X}", "\N{CHECK MARK}"]


def test_image_grid_shows_dark_strokes_on_light_paper():
    for images in (drawings(6), drawings(6) / 255, 255 - drawings(6)):
        ax = pictures.image_grid(images, rows=2, titles=["first row", "second row"]).axes[0]
        assert len(ax.images) == 6
        shown = np.asarray(ax.images[0].get_array())
        assert shown[2].max() == 0 and shown[3:].min() == 1
        assert [text.get_text() for text in ax.texts] == ["first row", "second row"]
    photo = torch.rand(3, 3, 8, 8)
    shown = pictures.image_grid(photo, 1, list("abc")).axes[0].images[0].get_array()
    assert np.allclose(shown, photo[0].permute(1, 2, 0))


def test_images_that_were_normalized_for_a_network_are_refused():
    with pytest.raises(ValueError, match="float in 0..1, got values"):
        pictures.image_grid(drawings(6).float(), 2)


def test_the_picture_of_the_welcome_page_is_computed():
    path = ROOT / "book/images/make_mdr_picture.py"
    spec = importlib.util.spec_from_file_location("make_mdr_picture", path)
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    points = picture.random_points()
    after = picture.regularize(points)

    def loss(x):
        d = torch.pdist(x)
        return mdr_loss(x, picture.LEVELS, d.mean(), d.std())

    assert loss(after) < loss(points) / 2
    assert len(picture.draw(points, after).axes) == 3
    assert path.with_name("mdr.png").exists() and path.with_name("mdr-dark.png").exists()
