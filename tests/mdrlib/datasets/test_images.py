"""Photographs on disk, and the cache of their resized pixels."""

import hashlib
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mdrlib.datasets import ImageFiles, images, load
from mdrlib.datasets.images import StoredImages, cache_folder
from mdrlib.datasets.preprocessing import Preprocessing, open_image

EDGE = 16
SQUARE = Preprocessing(8, EDGE)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "RGB"])
def test_whatever_an_image_is_stored_as_it_comes_as_rgb(tmp_path, mode):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image = Image.new("RGB", (5, 4), (200, 100, 50))
    image.paste((0, 0, 0), (0, 0, 2, 4))
    image.convert(mode).save(path)
    got = open_image(path)
    assert got.mode == "RGB" and got.size == (5, 4)
    right, left = got.getpixel((4, 2)), got.getpixel((0, 2))
    if mode in ("RGB", "RGBA", "P"):
        assert np.abs(np.subtract(right, (200, 100, 50))).max() <= 26 and max(left) < 26
    if mode in ("L", "LA"):
        assert right[0] == right[1] == right[2] > left[0]


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"<html>no image</html>"]
)
def test_a_damaged_and_a_missing_image_are_named(make_tree, damage):
    make_tree("cub")
    data = load("cub", "train")
    data.paths[2].write_bytes(damage(data.paths[2].read_bytes()))
    assert data[1][1] == 0
    with pytest.raises(OSError, match=f"{data.paths[2]} cannot be read as an image"):
        data[2]
    data.paths[2].unlink()
    with pytest.raises(OSError, match=f"{data.paths[2]} cannot be read as an image.*mdrlib data check"):
        data[2]


def test_items_are_opened_as_asked(make_tree):
    make_tree("cub")
    data = load("cub", "train")
    image, label = data[7]
    assert image.shape == (3, 9, 12) and image.dtype == torch.float32 and type(label) is int and label == 1
    want = torch.tensor(list(Image.open(data.paths[7]).convert("RGB").getpixel((5, 4)))) / 255
    torch.testing.assert_close(image[:, 4, 5], want)


def test_the_fingerprint_is_of_relative_paths_and_labels(make_tree, tmp_path):
    folder = make_tree("cub")
    data = load("cub", "train")
    names = [str(path.relative_to(folder / "images")) for path in data.paths]
    content = "\n".join(names).encode() + data.labels.numpy().tobytes()
    assert data.fingerprint == hashlib.sha256(content).hexdigest()[:16]
    folder.parent.joinpath("moved").mkdir()
    folder.rename(tmp_path / "moved" / folder.name)
    assert load("cub", "train", tmp_path / "moved").fingerprint == data.fingerprint
    assert pickle.loads(pickle.dumps(data)).fingerprint == data.fingerprint


def noise(path, seed, size=(30, 21), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, quality=90)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for k, mode in enumerate(("RGB", "L", "CMYK", "RGB")):
        noise(tmp_path / f"{k}.jpg", k, (30 + 20 * k, 21), mode)
    names = [f"{k}.jpg" for k in range(4)]
    return ImageFiles("toy", "train", tmp_path, names, torch.tensor([0, 0, 1, 1]), ["a", "b"])


def pixels(image):
    assert image.mode == "RGB" and image.size == (EDGE, EDGE)
    return np.asarray(image)


def wanted(path):
    return np.asarray(open_image(path).resize((EDGE, EDGE), Image.Resampling.LANCZOS))


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that are decoded from here on."""
    seen = []

    def watched(path):
        seen.append(path.name)
        return open_image(path)

    monkeypatch.setattr(images, "open_image", watched)
    return seen


def test_pixels_are_those_of_pillow_and_each_image_is_decoded_once(files, decoded):
    resized = StoredImages(files, SQUARE, cache=True)
    for _ in range(2):
        for i in (2, 0, 1, 3):
            np.testing.assert_array_equal(pixels(resized[i]), wanted(files.paths[i]))
    assert decoded == ["2.jpg", "0.jpg", "1.jpg", "3.jpg"]
    again = StoredImages(files, SQUARE, cache=True)  # as another process would
    np.testing.assert_array_equal(pixels(again[1]), wanted(files.paths[1]))
    assert len(decoded) == 4


def test_without_the_cache_nothing_is_kept(files, decoded, tmp_path):
    resized = StoredImages(files, SQUARE, cache=False)
    for _ in range(2):
        np.testing.assert_array_equal(pixels(resized[0]), wanted(files.paths[0]))
    assert len(decoded) == 2 and not (tmp_path / "cache").exists()


def test_a_replaced_image_is_decoded_again(files, decoded):
    resized = StoredImages(files, SQUARE, cache=True)
    before = pixels(resized[0]).copy()
    resized[1]
    noise(files.paths[0], 99)
    assert (pixels(resized[0]) != before).any()
    np.testing.assert_array_equal(pixels(resized[0]), wanted(files.paths[0]))
    # The same time and another size, then the same size and another time.
    status = files.paths[1].stat()
    noise(files.paths[1], 98, (40, 40))
    os.utime(files.paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(pixels(resized[1]), wanted(files.paths[1]))
    os.utime(files.paths[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    resized[1], resized[1]
    assert decoded == ["0.jpg", "1.jpg", "0.jpg", "1.jpg", "1.jpg"]


@pytest.mark.parametrize("left", [0, 1, 767])
def test_a_file_written_in_part_is_decoded_again_and_one_that_vanished_is_not_needed(files, decoded, left):
    resized = StoredImages(files, SQUARE, cache=True)
    resized[1]
    (kept,) = cache_folder(files, SQUARE).iterdir()
    assert kept.stat().st_size == 3 * EDGE * EDGE
    os.truncate(kept, left)
    for _ in range(2):
        np.testing.assert_array_equal(pixels(resized[1]), wanted(files.paths[1]))
    assert decoded == ["1.jpg", "1.jpg"], "decoded once more, and written again"
    shutil.rmtree(cache_folder(files, SQUARE))
    np.testing.assert_array_equal(pixels(resized[1]), wanted(files.paths[1]))


def test_a_missing_image_is_named_although_it_is_kept(files):
    resized = StoredImages(files, SQUARE, cache=True)
    resized[0]
    files.paths[0].unlink()
    with pytest.raises(OSError, match=f"{files.paths[0]} cannot be read"):
        resized[0]


def test_the_folder_is_announced_once_and_named_by_its_place(files, capsys, tmp_path):
    path = cache_folder(files, Preprocessing())
    place = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]
    assert path == tmp_path / "cache" / "mdrlib" / f"toy-{place}-256-v4"
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{path} keeps resized images, now up to 0.0 GB" in err
    others = {cache_folder(files, Preprocessing(224, *more)) for more in [(), (240,), (256, True)]}
    assert path in others and len(others) == 3
    assert str(path) not in capsys.readouterr().err


def test_the_cache_folder_follows_the_environment(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder(files, SQUARE).parent == tmp_path / ".cache" / "mdrlib"


def test_a_disk_is_not_filled(files, monkeypatch):
    free = images.RESERVE + 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))
    resized = StoredImages(files, SQUARE, True)
    resized[0]
    free -= 1
    for _ in range(2):
        np.testing.assert_array_equal(pixels(resized[1]), wanted(files.paths[1]))
    assert len(list(resized.kept.iterdir())) == 1, "nothing more is kept"


def test_a_folder_that_cannot_be_made_is_not_needed(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    np.testing.assert_array_equal(pixels(StoredImages(files, SQUARE, True)[0]), wanted(files.paths[0]))
    assert "cannot hold resized images" in capsys.readouterr().err
