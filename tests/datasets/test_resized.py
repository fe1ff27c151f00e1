"""Images resized and kept: the same pixels, and never those of another image."""

import contextlib
import errno
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mdrlib.datasets import ImageFiles, resized
from mdrlib.datasets.files import open_image
from mdrlib.datasets.resized import ResizedImages, prepare, row_bytes

EDGE = 16


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


def decoded(monkeypatch):
    """The names of the images that are decoded from here on."""
    seen = []

    def watched(path):
        seen.append(path.name)
        return open_image(path)

    monkeypatch.setattr(resized, "open_image", watched)
    return seen


def test_pixels_are_those_of_pillow_and_each_image_is_decoded_once(files, monkeypatch):
    seen = decoded(monkeypatch)
    images = ResizedImages(files, EDGE)
    assert len(images) == 4
    for _ in range(2):
        for i in (2, 0, 1, 3):
            np.testing.assert_array_equal(pixels(images[i]), wanted(files.paths[i]))
    assert seen == ["2.jpg", "0.jpg", "1.jpg", "3.jpg"]
    again = ResizedImages(files, EDGE)  # as another process would
    np.testing.assert_array_equal(pixels(again[1]), wanted(files.paths[1]))
    assert len(seen) == 4


def test_without_the_cache_nothing_is_kept(files, monkeypatch, tmp_path):
    seen = decoded(monkeypatch)
    images = ResizedImages(files, EDGE, cache=False)
    for _ in range(2):
        np.testing.assert_array_equal(pixels(images[0]), wanted(files.paths[0]))
    assert len(seen) == 2 and not (tmp_path / "cache").exists()


def test_a_replaced_image_is_read_anew(files, monkeypatch):
    images = ResizedImages(files, EDGE)
    before = pixels(images[0]).copy()
    images[1]
    seen = decoded(monkeypatch)
    noise(files.paths[0], 99)
    after = pixels(images[0])
    assert (after != before).any()
    np.testing.assert_array_equal(after, wanted(files.paths[0]))
    # The same time and another size, then the same size and another time.
    status = files.paths[1].stat()
    noise(files.paths[1], 98, (40, 40))
    os.utime(files.paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(pixels(images[1]), wanted(files.paths[1]))
    os.utime(files.paths[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    images[1], images[1]
    assert seen == ["0.jpg", "1.jpg", "1.jpg"]


@pytest.mark.parametrize("first, last", [(0, 8), (8, 16), (16, 20), (20, 21), (400, 600), (787, 788)])
def test_a_row_that_was_half_written_or_has_a_flipped_bit_is_read_anew(files, monkeypatch, first, last):
    assert row_bytes(EDGE) == 788
    images = ResizedImages(files, EDGE)
    images[1]
    path = prepare(files, EDGE)
    content = bytearray(path.read_bytes())
    for at in range(788 + first, 788 + last):
        content[at] ^= 16
    path.write_bytes(content)
    seen = decoded(monkeypatch)
    for _ in range(2):
        np.testing.assert_array_equal(pixels(images[1]), wanted(files.paths[1]))
    assert seen == ["1.jpg"], "decoded once, and written again"


def test_a_file_that_was_cut_short_grows_again(files, monkeypatch):
    images = ResizedImages(files, EDGE)
    images[3]
    os.truncate(prepare(files, EDGE), 100)
    images = ResizedImages(files, EDGE)
    seen = decoded(monkeypatch)
    np.testing.assert_array_equal(pixels(images[3]), wanted(files.paths[3]))
    images[3]
    assert seen == ["3.jpg"]


def test_a_file_that_cannot_be_opened_any_more_is_done_without(files):
    images = ResizedImages(files, EDGE)
    prepare(files, EDGE).unlink()
    np.testing.assert_array_equal(pixels(images[0]), wanted(files.paths[0]))


def test_a_missing_image_is_named_although_it_is_kept(files):
    images = ResizedImages(files, EDGE)
    images[0]
    files.paths[0].unlink()
    with pytest.raises(FileNotFoundError, match=f"{files.paths[0]} is missing"):
        images[0]


def test_the_file_is_sparse_told_of_once_and_names_what_it_is_of(files, capsys, tmp_path):
    path = prepare(files, 256)
    assert path.parent == tmp_path / "cache" / "mdrlib"
    assert path.name == f"toy-train-{files.fingerprint}-256-v2.rows"
    assert path.stat().st_size == 4 * (20 + 256 * 256 * 3) and path.stat().st_blocks * 512 < 10_000
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"toy train are kept in {path}, which grows to 0.0 GB" in err
    assert prepare(files, 256) == path and prepare(files, 64) != path
    assert str(path) not in capsys.readouterr().err


def test_a_full_disk_is_seen_before_it_is_full(files, monkeypatch, capsys):
    free = resized.RESERVE + 4 * row_bytes(EDGE) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))
    assert prepare(files, EDGE) is None
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "toy train cannot be kept in" in err and "1.1 GB are free" in err
    np.testing.assert_array_equal(pixels(ResizedImages(files, EDGE)[2]), wanted(files.paths[2]))
    free += 1
    assert prepare(files, EDGE) is not None
    images = ResizedImages(files, EDGE)
    for i in range(4):
        images[i]
    free = 0
    assert prepare(files, EDGE) is not None, "all of it is there already"


def test_a_disk_that_fills_up_later_ends_keeping_and_not_the_run(files, monkeypatch, capsys):
    class Full(contextlib.nullcontext):
        def seek(self, at):
            pass

        def readinto(self, row):
            return 0

        def write(self, row):
            raise OSError(errno.ENOSPC, "No space left on device")

    images = ResizedImages(files, EDGE)
    monkeypatch.setattr(resized, "open", lambda *_, **__: Full(Full()), raising=False)
    capsys.readouterr()
    for i in (0, 1, 0):
        np.testing.assert_array_equal(pixels(images[i]), wanted(files.paths[i]))
    assert capsys.readouterr().err == (
        "mdrlib: resized images are kept no more ([Errno 28] No space left on device)\n"
    )


def test_a_folder_that_cannot_be_made_is_done_without(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    np.testing.assert_array_equal(pixels(ResizedImages(files, EDGE)[0]), wanted(files.paths[0]))
    assert "cannot be kept in" in capsys.readouterr().err
