"""Data sets of photographs: what all of them have in common."""

import hashlib
import pickle
import subprocess
import sys

import pytest
import torch
from PIL import Image

from mdrlib.datasets import ImageFiles, PKBatchSampler, cars, cub, inshop, load, sop
from mdrlib.datasets.files import Row, check, open_image, to_tensor

EVERY = ["cub", "cars", "cars csv", "sop", "inshop", "inshop apart"]
SPLITS = {"cub": (3, 2), "cars": (2, 3), "sop": (3, 2), "inshop": (2, 3)}  # classes of the tree


def splits(name):
    return ("train", "query", "gallery") if name == "inshop" else ("train", "test")


@pytest.mark.parametrize("layout", EVERY)
def test_every_layout_loads(make_tree, layout):
    folder, name = make_tree(layout), layout.split()[0]
    seen = set()
    for split in splits(name):
        data = load(name, split)
        classes = SPLITS[name][split != "train"]
        assert (data.name, data.split, len(data.classes)) == (name, split, classes)
        assert len(set(data.classes)) == classes
        each = 2 if split in ("query", "gallery") else 4
        assert data.labels.dtype == torch.int64 and data.labels.bincount().tolist() == [each] * classes
        assert len(data) == len(data.paths) == each * classes
        assert repr(data) == f"ImageFiles({name} {split}: {len(data)} images, {classes} classes, a miniature)"
        assert all(path.is_file() and path.is_relative_to(folder) for path in data.paths)
        assert not seen & set(data.paths)
        seen |= set(data.paths)
        image, label = data[len(data) - 1]
        assert image.shape == (3, 9, 12) and image.dtype == torch.float32 and 0 <= image.min() <= 1
        assert type(label) is int and label == data.labels[-1]
        want = torch.tensor(list(Image.open(data.paths[-1]).convert("RGB").getpixel((5, 4)))) / 255
        torch.testing.assert_close(image[:, 4, 5], want)
    assert len(seen) == 20


@pytest.mark.parametrize("layout", EVERY)
def test_classes_are_not_shared_by_train_and_the_others(make_tree, layout):
    make_tree(layout)
    name = layout.split()[0]
    train, *others = (load(name, split).classes for split in splits(name))
    assert not set(train) & {c for classes in others for c in classes}
    assert name != "inshop" or others[0] == others[1], "query and gallery share one numbering"


@pytest.mark.parametrize("layout", EVERY)
def test_batches_can_be_drawn(make_tree, layout):
    make_tree(layout)
    data = load(layout.split()[0], "train", transform=lambda image: torch.tensor(image.size))
    sampler = PKBatchSampler(data.labels, 4, 2, iterations=3)
    batches = list(torch.utils.data.DataLoader(data, batch_sampler=sampler))
    assert [labels.unique(return_counts=True)[1].tolist() for _, labels in batches] == [[2, 2]] * 3
    assert (batches[0][0] == torch.tensor([12, 9])).all()


def test_a_missing_set_names_folder_and_command(tmp_path, monkeypatch):
    for module, name in ((cub, "cub"), (cars, "cars"), (sop, "sop"), (inshop, "inshop")):
        for root in (tmp_path, None):
            monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
            with pytest.raises(FileNotFoundError) as caught:
                load(name, "train", root)
            for words in (tmp_path / module.FOLDER, f"python -m mdrlib data {name}", "MDR_DATA_ROOT"):
                assert str(words) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_splits_are_those_of_the_set(make_tree):
    for name, split in (("cub", "query"), ("inshop", "test"), ("sop", "")):
        with pytest.raises(ValueError, match=f"{name} has no split '{split}'; choose one of .*'train'"):
            load(name, split)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "RGB", "palette with transparency"])
def test_whatever_an_image_is_stored_as_it_comes_as_rgb(tmp_path, mode, recwarn):
    path = tmp_path / "image.png"
    image = Image.new("RGB", (5, 4), (200, 100, 50))
    image.paste((0, 0, 0), (0, 0, 2, 4))
    if mode == "CMYK":
        path = tmp_path / "image.jpg"
    if mode == "palette with transparency":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE)
        image.save(path, transparency=bytes([0, 100]))
    else:
        image.convert(mode).save(path)
    got = open_image(path)
    assert got.mode == "RGB" and got.size == (5, 4) and not recwarn.list
    tensor = to_tensor(got)
    assert (
        tensor.shape == (3, 4, 5) and tensor.dtype == torch.float32 and 0 <= tensor.min() < tensor.max() <= 1
    )
    if mode in ("RGB", "RGBA", "P"):
        torch.testing.assert_close(tensor[:, 2, 4] * 255, torch.tensor([200.0, 100, 50]), atol=26, rtol=0)
        assert tensor[:, 2, 0].max() < 0.1
    if mode in ("L", "LA"):
        assert tensor[0, 2, 4] == tensor[1, 2, 4] == tensor[2, 2, 4]


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"<html>no image</html>"]
)
def test_a_damaged_image_is_named(make_tree, damage):
    make_tree("cub")
    data = load("cub", "train")
    data.paths[2].write_bytes(damage(data.paths[2].read_bytes()))
    assert data[1][1] == 0
    with pytest.raises(OSError, match=f"{data.paths[2]} cannot be read as an image"):
        data[2]


def test_a_missing_image_is_named(make_tree):
    make_tree("sop")
    data = load("sop", "test")
    data.paths[0].unlink()
    with pytest.raises(FileNotFoundError, match=f"{data.paths[0]} is missing; .*mdrlib data check"):
        data[0]


def test_an_error_of_the_transform_is_its_own(make_tree):
    make_tree("cub")
    with pytest.raises(ZeroDivisionError):
        load("cub", "train", transform=lambda image: 1 / 0)[0]


def test_the_fingerprint_is_of_relative_paths_and_labels(make_tree, tmp_path):
    folder = make_tree("cub")
    data = load("cub", "train")
    files = [str(path.relative_to(folder / "images")) for path in data.paths]
    content = "\n".join(files).encode() + data.labels.numpy().tobytes()
    assert data.fingerprint == hashlib.sha256(content).hexdigest()[:16]
    folder.parent.joinpath("moved").mkdir()
    folder.rename(tmp_path / "moved" / folder.name)
    assert load("cub", "train", tmp_path / "moved").fingerprint == data.fingerprint
    assert load("cub", "test", tmp_path / "moved").fingerprint != data.fingerprint
    other = ImageFiles("cub", "train", folder, files, data.labels.flip(0), data.classes)
    assert other.fingerprint != data.fingerprint
    assert pickle.loads(pickle.dumps(data)).fingerprint == data.fingerprint


def test_both_layouts_of_inshop_have_one_fingerprint(make_tree):
    folder = make_tree("inshop")
    first = load("inshop", "query").fingerprint
    folder.rename(folder.with_name("elsewhere"))
    make_tree("inshop apart")
    assert load("inshop", "query").fingerprint == first


@pytest.mark.parametrize(
    "labels, classes, message",
    [
        (torch.tensor([0, 1, 1]), ["a", "b"], r"labels must be int64 \(2,\)"),
        (torch.tensor([0.0, 1.0]), ["a", "b"], "labels must be int64"),
        (torch.tensor([0, 2]), ["a", "b"], "labels must use each of 0..1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        ImageFiles("toy", "train", tmp_path, ["a.jpg", "b.jpg"], labels, classes)


def rows(images, classes, first=0):
    return [Row(f"{first}/{k}.jpg", first + k % classes, f"{first + k % classes}") for k in range(images)]


SIZES = {"train": (500, 10), "test": (510, 11)}


def test_the_real_set_is_told_from_a_miniature_and_from_one_that_lost_something(tmp_path):
    assert check("Toys", tmp_path, {"train": rows(500, 10), "test": rows(510, 11, 50)}, SIZES) is True
    assert check("Toys", tmp_path, {"train": rows(50, 10), "test": rows(50, 10, 50)}, SIZES) is False
    for train, test, message in (
        (rows(499, 10), rows(510, 11, 50), "499 images of 10 classes for train of Toys, expected 500 of 10"),
        (rows(500, 10), rows(510, 12, 50), "510 images of 12 classes for test of Toys, expected 510 of 11"),
        (rows(500, 10), rows(1, 1, 50), "1 images of 1 classes for test"),
        (rows(51, 10), rows(50, 10, 50), "51 images of 10 classes for train"),
        (rows(900, 10), rows(900, 10, 50), "900 images of 10"),
    ):
        with pytest.raises(ValueError, match=f"{tmp_path} gives {message}"):
            check("Toys", tmp_path, {"train": train, "test": test}, SIZES)


def test_sets_that_are_not_zero_shot_are_refused(tmp_path):
    with pytest.raises(ValueError, match="class 9 is in both train and test of Toys"):
        check("Toys", tmp_path, {"train": rows(20, 10), "test": rows(20, 10, 9)}, SIZES)
    named = [row._replace(name="3") for row in rows(20, 10, 50)]
    with pytest.raises(ValueError, match="class 3 is in both train and test"):
        check("Toys", tmp_path, {"train": rows(20, 10), "test": named}, SIZES)
    with pytest.raises(ValueError, match="no image of the split test of Toys"):
        check("Toys", tmp_path, {"train": rows(20, 10), "test": []}, SIZES)
    sizes = {"train": (500, 10), "query": (500, 10), "gallery": (500, 10)}
    found = {"train": rows(20, 10), "query": rows(20, 10, 50), "gallery": rows(18, 9, 50)}
    with pytest.raises(ValueError, match="class 59 of Toys must be in both query and gallery"):
        check("Toys", tmp_path, found, sizes)


def test_a_miniature_says_so_and_a_whole_set_is_silent(make_tree, monkeypatch, capsys):
    make_tree("cub")
    assert not load("cub", "train").whole
    assert "20 images, a miniature of the 11788 of CUB-200-2011" in capsys.readouterr().err
    monkeypatch.setattr(cub, "SIZES", {"train": (12, 3), "test": (8, 2)})
    data = load("cub", "train")
    assert data.whole and capsys.readouterr().err == ""
    assert repr(data) == "ImageFiles(cub train: 12 images, 3 classes)"


def test_the_sizes_are_the_published_ones():
    assert cub.SIZES == {"train": (5864, 100), "test": (5924, 100)}
    assert cars.SIZES == {"train": (8054, 98), "test": (8131, 98)}
    assert sop.SIZES == {"train": (59551, 11318), "test": (60502, 11316)}
    assert inshop.SIZES == {"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)}


def test_loading_needs_neither_pillow_nor_scipy_until_they_are_used(make_tree, tmp_path):
    make_tree("cub"), make_tree("cars")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['PIL', 'scipy', 'scipy.io', 'torchvision']))\n"
        "from mdrlib.datasets import load\n"
        "data = load('cub', 'train')\n"
        "for use in (lambda: data[0], lambda: load('cars', 'train')):\n"
        "    try: use()\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert "needs pillow: pip install mdrlib[data]" in first
    assert "needs scipy: pip install mdrlib[data]" in second
