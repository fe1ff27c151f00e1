"""From files as phones, scanners and editors store them to the pixels that a network sees."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from mdrlib.config import Config
from mdrlib.datasets import ImageFiles
from mdrlib.datasets.loader import Photographs
from mdrlib.datasets.preprocessing import Preprocessing, open_image

ORIENTATION = 0x0112


def picture(size=(60, 40), seed=0):
    """Smooth colours, so that JPEG changes little, different in each corner."""
    small = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def difference(one, other):
    return np.abs(np.asarray(one).astype(int) - np.asarray(other)).max()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_photographs_are_turned_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    picture().save(path, exif=exif, quality=100)
    with Image.open(path) as image:
        wanted = ImageOps.exif_transpose(image).convert("RGB")
    got = open_image(path)
    assert got.mode == "RGB" and got.size == ((40, 60) if orientation > 4 else (60, 40))
    assert difference(got, wanted) == 0
    see = Preprocessing(32, 32)
    assert torch.equal(see(got), see(wanted)), "it is not turned again"
    with Image.open(path) as image:
        assert torch.equal(see(image), see(wanted))


def test_damaged_exif_data_do_not_matter(tmp_path):
    path = tmp_path / "a.jpg"
    picture().save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(50), quality=100)
    assert open_image(path).size == (60, 40)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_16_bits_is_scaled_by_its_range(tmp_path, suffix):
    grey = np.linspace(0, 65535, 6 * 4).astype(np.uint16).reshape(4, 6)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 6 4 65535\n" + grey.astype(">u2").tobytes())
    else:
        Image.fromarray(grey).save(path)
    got = np.asarray(open_image(path))
    assert got.shape == (4, 6, 3) and (got == got[:, :, :1]).all()
    assert np.abs(got[:, :, 0] - grey / 257).max() <= 0.5 + 1e-9


def tiff(path, bits, photometric, data):
    """A file of two grey pixels next to each other, as scanners write them and pillow does not."""
    short = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 1}
    tags = {key: struct.pack("<HHIHH", key, 3, 1, value, 0) for key, value in short.items()}
    tags |= {key: struct.pack("<HHII", key, 4, 1, value) for key, value in ((273, 8), (279, len(data)))}
    header = b"II*\0" + struct.pack("<I", 8 + 4) + data.ljust(4, b"\0")
    path.write_bytes(
        header + struct.pack("<H", len(tags)) + b"".join(tags[key] for key in sorted(tags)) + bytes(4)
    )


@pytest.mark.parametrize("bits, data", [(8, b"\xff\x00"), (12, b"\xff\xf0\x00"), (16, b"\xff\xff\x00\x00")])
def test_scans_of_12_bits_and_those_whose_white_is_0(tmp_path, bits, data):
    for photometric, wanted in ((1, [255, 0]), (0, [0, 255]))[: 1 if bits == 12 else 2]:
        tiff(tmp_path / "scan.tif", bits, photometric, data)
        assert np.asarray(open_image(tmp_path / "scan.tif"))[0, :, 0].tolist() == wanted


def test_numbers_of_unknown_range_are_refused_by_path(tmp_path):
    for name, kind in (("float.tif", np.float32), ("whole.tif", np.int32)):
        Image.fromarray(np.ones((4, 6), kind)).save(tmp_path / name)
        with pytest.raises(
            OSError, match=rf"{name} cannot be read .*of unknown range: save it with 8"
        ):
            open_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "1"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    image = Image.new("RGBA", (6, 4), (200, 200, 200, 255))
    image.paste((0, 0, 0, 0), (0, 0, 3, 4))
    path = tmp_path / "a.png"
    if mode in ("RGB", "L", "1"):  # one colour stands for transparent
        image = image.convert("RGB").convert(mode)
        image.save(path, transparency={"RGB": (0, 0, 0), "L": 0, "1": 0}[mode])
    elif mode == "P":
        image = image.convert("RGB").quantize(2)
        image.save(path, transparency=image.getpixel((0, 0)))
    else:
        image.convert(mode).save(path)
    got = open_image(path)
    assert got.getpixel((0, 0)) == (255, 255, 255)
    assert got.getpixel((5, 0)) == ((255,) * 3 if mode == "1" else (200,) * 3)


@pytest.mark.parametrize("suffix", ["webp", "bmp", "gif", "tif"])
def test_other_formats_are_read(tmp_path, suffix):
    path = tmp_path / f"Ein Bild.{suffix.upper()}"
    picture().save(path, quality=100)
    assert open_image(path).size == (60, 40) and difference(open_image(path), picture()) < 60


def test_it_stretches_or_takes_the_middle_square():
    image = Image.new("RGB", (90, 30))  # three squares: red, green, blue
    for k, colour in enumerate(("red", "lime", "blue")):
        image.paste(colour, (30 * k, 0, 30 * k + 30, 30))
    stretched, middle = Preprocessing(12, 12)(image), Preprocessing(12, 12, keep_aspect=True)(image)
    assert stretched.dtype == torch.uint8 and stretched.shape == middle.shape == (3, 12, 12)
    assert stretched[:, 6, 0].tolist() == [255, 0, 0] and stretched[:, 6, 11].tolist() == [0, 0, 255]
    assert (middle[:, :, 4:-4] == torch.tensor([0, 255, 0])[:, None, None]).all()
    for size in ((90, 30), (30, 90), (91, 64), (64, 64), (50, 300)):
        image = picture(size)
        lanczos = v2.InterpolationMode.LANCZOS
        recipe = v2.Compose([v2.Resize(24, interpolation=lanczos), v2.CenterCrop(24), v2.PILToTensor()])
        assert difference(Preprocessing(24, 24, keep_aspect=True)(image), recipe(image)) <= 4, size


def test_the_network_sees_the_middle_of_the_stored_square():
    image = picture((50, 70))
    for size, stored in ((12, 12), (12, 16), (12, 15), (224, 256)):
        whole, seen = Preprocessing(stored, stored)(image), Preprocessing(size, stored)(image)
        left = round((stored - size) / 2)
        assert torch.equal(seen, whole[:, left : left + size, left : left + size])


def test_sizes_are_those_of_the_recipe_unless_said():
    assert Preprocessing() == Preprocessing(224, 256) and Preprocessing(112).stored_size == 128
    config = Config(image_size=112, stored_size=120, keep_aspect=True)
    assert Preprocessing.of(config) == Preprocessing(112, 120, True)
    assert Preprocessing.of(replace(config, stored_size=0)).stored_size == 128
    with pytest.raises(ValueError, match="stored_size must be 0 or at least image_size, got 100 and 112"):
        replace(config, stored_size=100)


@pytest.mark.parametrize("keep_aspect", [False, True])
@pytest.mark.parametrize("cache", [False, True])
def test_evaluation_is_fed_what_it_makes(tmp_path, monkeypatch, keep_aspect, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture().save(tmp_path / "a.jpg", exif=exif)
    picture((30, 80), 1).convert("L").save(tmp_path / "b.png")
    files = ImageFiles("toy", "test", tmp_path, ["a.jpg", "b.png"], torch.tensor([0, 1]), ["a", "b"])
    see = Preprocessing(24, 28, keep_aspect)
    for _ in range(2):
        (batch,) = Photographs(files, torch.arange(2), see, 0, cache, torch.device("cpu"))
        assert torch.equal(batch, torch.stack([see(open_image(path)) for path in files.paths]))


@pytest.mark.parametrize("pair", [(0, 1), (0.5, 0.4), (0.5,), (0.2, 0.3, 0.4), (0.5, 1.01)])
def test_a_crop_that_cannot_be_is_refused(pair):
    with pytest.raises(ValueError, match="crop_scale must be two increasing numbers above 0 and at most 1"):
        Config(crop_scale=pair)
    if pair[-1] <= 1:
        with pytest.raises(ValueError, match="crop_ratio must be two increasing numbers above 0"):
            Config(crop_ratio=pair)
