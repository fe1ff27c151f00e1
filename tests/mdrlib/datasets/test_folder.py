"""Folders of photographs as people have them, and everything that can be wrong with them in one error."""

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mdrlib import __main__ as command
from mdrlib.config import Config
from mdrlib.datasets import folder, load, split_names
from mdrlib.experiment import run


@pytest.fixture(autouse=True)
def quiet(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("MDR_PROGRESS", "off")


@pytest.fixture
def make(tmp_path):
    """make("class/image.jpg", ...) -> the folder that holds these images, each of another colour."""

    def made(*paths, top="photos"):
        for path in paths:
            suffix = path.rpartition(".")[2].lower()
            place = tmp_path / top / path
            place.parent.mkdir(parents=True, exist_ok=True)
            colours = np.random.default_rng(list(path.encode())).integers(0, 256, (9, 12, 3), np.uint8)
            kind = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
            Image.fromarray(colours).save(place, kind)
        return tmp_path / top

    return made


def two_each(*classes):
    return [f"{name}/{k}.jpg" for name in classes for k in range(2)]


def problems(place, class_split=0, code=1):
    with pytest.raises(ValueError) as caught:
        load("folder", "train", place, class_split)
    text = str(caught.value)
    assert text.startswith(f"{place} cannot be used: ") and "\n" not in text
    assert text.endswith(f"see `mdrlib data check {place}`")
    return text.removeprefix(f"{place} cannot be used: ").rpartition("; ")[0].split("; ")


def test_a_folder_of_images_is_a_class_and_the_first_half_trains(make):
    place = make(*two_each("d", "b/deep/er", "a", "c", "b/x"))
    train, test = (load("folder", split, place) for split in split_names("folder", place))
    assert train.classes == ["a", "b/deep/er"] and test.classes == ["b/x", "c", "d"]
    assert train.files == ["a/0.jpg", "a/1.jpg", "b/deep/er/0.jpg", "b/deep/er/1.jpg"]
    assert train.labels.tolist() == [0, 0, 1, 1] and train.groups is None
    image, label = test[3]
    assert torch.equal(
        (image * 255).byte(), torch.from_numpy(np.array(Image.open(place / "c/1.jpg"))).permute(2, 0, 1)
    )
    assert label == 1 and repr(train) == "ImageFiles(folder train: 4 images, 2 classes)"


def test_names_and_formats_are_as_people_have_them(make):
    names = ["Käse & Brot", "猫", "UPPER case", "two  spaces", "a;b", "c#d%20"]
    place = make(
        *(
            f"{name}/{k}{s}"
            for name in names
            for k in "01"
            for s in (".JPG", ".webp", ".Bmp", ".tif", " 2.png")
        )
    )
    train, test = (load("folder", split, place) for split in ("train", "test"))
    assert sorted(train.classes + test.classes) == sorted(names)
    assert len(train) == len(test) == 3 * 10 and all(
        data[k][0].shape == (3, 9, 12) for data in (train, test) for k in range(30)
    )


def test_what_systems_leave_behind_is_no_image(make):
    place = make(*two_each("a", "b", "c", "d"))
    before = load("folder", "train", place)
    hidden = ".DS_Store a/._0.jpg a/Thumbs.db .git/x.jpg __MACOSX/a/0.jpg c/@eaDir/0.jpg a/desktop.ini"
    hidden += " b/.ipynb_checkpoints/0-checkpoint.jpg notes.txt a/list.csv"
    for name in hidden.split():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"no image")
    assert load("folder", "train", place).fingerprint == before.fingerprint


@pytest.mark.parametrize("capital", [False, True])
def test_folders_at_the_top_are_splits(make, capital):
    place = make(*two_each("train/z", "train/y/1", "test/a", "test/b"))
    if capital:
        (place / "train").rename(place / "Train")
    train, test = (load("folder", split, place) for split in split_names("folder", place))
    assert (train.classes, test.classes) == (["y/1", "z"], ["a", "b"])
    assert all(path.is_file() for path in train.paths)


def test_queries_and_gallery_have_the_same_labels(make):
    place = make(*two_each("train/a", "train/b", "query/m", "query/x", "gallery/m", "gallery/x", "gallery/c"))
    assert split_names("folder", place) == ("train", "query", "gallery")
    query, gallery = load("folder", "query", place), load("folder", "gallery", place)
    assert query.classes == ["m", "x"] and gallery.classes == ["m", "x", "c"]
    assert gallery.labels.tolist() == [2, 2, 0, 0, 1, 1]
    halved = load("folder", "gallery", place, class_split=1)
    assert not set(halved.classes) & set(load("folder", "train", place, class_split=1).classes)
    with pytest.raises(ValueError, match="folder has no split 'test'"):
        load("folder", "test", place)


def test_everything_that_is_wrong_is_said_at_once(make):
    place = make(*two_each("a", "b", "c", "d", "e"), "one/0.jpg", *two_each("Same", "same"), "stray.jpg")
    (place / "b/0.jpg").write_bytes((place / "b/0.jpg").read_bytes()[:-30])
    (place / "c/1.jpg").write_bytes(b"<html>not an image</html>")
    (place / "c/empty.png").write_bytes(b"")
    (place / "d/lost.jpg").symlink_to(place / "nowhere.jpg")
    (place / "e/loop").symlink_to(place)
    (place / "nothing/at all").mkdir(parents=True)
    Image.fromarray(np.ones((4, 4), np.float32)).save(place / "e/depth.tif")
    found = "\n".join(problems(place))
    for words in (
        "class one has one image",
        "class Same differs from another only by capitals",
        "class same differs from another only by capitals",
        "1 images, such as stray.jpg, are in no folder of a class",
        "b/0.jpg cannot be read as an image (image file is truncated",
        "c/1.jpg cannot be read as an image (unknown or damaged format",
        "c/empty.png cannot be read as an image (unknown or damaged format",
        "d/lost.jpg cannot be read as an image (No such file or directory)",
        "e/depth.tif cannot be read as an image (it holds numbers of unknown range",
        "e/loop is a link to a folder that is listed already",
        "nothing/at all is an empty folder",
    ):
        assert words in found, words
    assert found.count("\n") == 10


def test_a_long_list_is_cut(make):
    place = make(*(f"{k}/0.jpg" for k in range(50)))
    found = problems(place)
    assert len(found) == 21 and found[-1] == "and 30 more" and "class 0 has one image" in found[0]


@pytest.mark.parametrize(
    "paths, words",
    [
        ((), "photos is an empty folder; the classes are too few: 0 in all"),
        (two_each("a"), "the classes are too few: 1 in all, 0 for training and 1 for testing, each needs 2"),
        (("0.jpg", "1.jpg"), "2 images, such as 0.jpg, are in no folder of a class"),
        (two_each("a", "b", "c"), "the classes are too few: 3 in all, 1 for training and 2 for testing"),
        (
            two_each("train/a", "train/b", "test/b", "test/c"),
            "train and test share 1 of the classes, such as b: move each",
        ),
        (
            two_each("train/a", "train/b", "test/c"),
            "the classes are too few: 3 in all, 2 for training and 1 for testing",
        ),
        (two_each("train/a", "test/c", "test/d", "val/e"), "val/e holds 2 images, in none of train, test"),
        (
            two_each("train/a", "train/b", "query/c", "query/d", "gallery/c", "gallery/e"),
            "class d is in query but not in gallery",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(make, tmp_path, paths, words):
    (tmp_path / "photos").mkdir()
    assert words in "; ".join(problems(make(*paths)))


def test_classes_on_both_sides_can_be_split_at_random(make):
    place = make(*two_each("train/a", "train/b", "train/c", "train/d", "test/a", "test/b"))
    assert (
        "train and test share 2 of the classes, such as a: move each to one side, or set class_split"
        in problems(place)[0]
    )
    train, test = (load("folder", split, place, class_split=1) for split in ("train", "test"))
    assert len(train) + len(test) == 12 and not set(train.classes) & set(test.classes)


def test_a_folder_that_is_a_file_or_nowhere_or_not_given(make, tmp_path):
    place = make(*two_each("a", "b", "c", "d"))
    with pytest.raises(OSError, match=r"0.jpg is a file: give the folder that holds"):
        load("folder", "train", place / "a" / "0.jpg")
    with pytest.raises(OSError, match=r"nowhere does not exist: give the folder"):
        load("folder", "train", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="set root, or data_root of the Config"):
        load("folder", "train")


def test_a_folder_below_that_of_data_sets_needs_its_name_alone(make, monkeypatch, tmp_path):
    make(*two_each("a", "b", "c", "d"))
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    assert load("folder", "train", "photos").folder == tmp_path / "photos"
    with pytest.raises(OSError, match="^nowhere does not exist"):
        load("folder", "train", "nowhere")
    (tmp_path / "here" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="^photos cannot be used: photos is an empty folder"):
        load("folder", "train", "photos")


def test_the_fingerprint_is_of_content_and_a_changed_file_is_noticed(make, monkeypatch):
    place = make(*two_each("a", "b", "c", "d"))
    first, test = load("folder", "train", place), load("folder", "test", place).fingerprint
    status = (place / "a/0.jpg").stat()
    read = []
    look = folder.look
    monkeypatch.setattr(folder, "look", lambda path: read.append(path.name) or look(path))
    assert load("folder", "train", place).fingerprint == first.fingerprint and read == [], "read once"
    (place / "a/1.jpg").replace(place / "a/0.jpg")
    make("a/1.jpg")
    changed = load("folder", "train", place)
    assert changed.fingerprint != first.fingerprint and changed.files == first.files
    assert load("folder", "test", place).fingerprint == test, "other files are the same"
    assert sorted(read) == ["0.jpg", "1.jpg"]
    make("a/0.jpg")
    assert load("folder", "train", place).fingerprint == first.fingerprint, "time alone is no change"
    assert status.st_mtime_ns != (place / "a/0.jpg").stat().st_mtime_ns
    moved = place.rename(place.with_name("moved"))
    assert load("folder", "train", moved).fingerprint == first.fingerprint


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"a/0.jpg": 1}', b'{"a/0.jpg": ["x"', b"\xff"])
def test_what_is_kept_of_a_folder_may_be_damaged(make, damage):
    place = make(*two_each("a", "b", "c", "d"))
    first = load("folder", "train", place).fingerprint
    (kept,) = (place.parent / "x" / "..",) and list(folder.cache_root().glob("seen-*"))
    kept.write_bytes(damage)
    assert load("folder", "train", place).fingerprint == first


def test_splits_of_a_folder_share_the_cache(make):
    place = make(*two_each("a", "b", "c", "d"))
    config = Config(dataset="folder", data_root=str(place), backbone="squeezenet1_1", dim=4, image_size=32,
                    batch_size=4, per_class=2, iterations=1, device="cpu")  # fmt: skip
    result = run(config, place.parent / "run")
    (kept,) = [entry for entry in folder.cache_root().iterdir() if entry.is_dir()]
    assert len(list(kept.iterdir())) == 8
    times = {entry.name: entry.stat().st_mtime_ns for entry in kept.iterdir()}
    run(replace(config, class_split=1), place.parent / "other")
    assert {entry.name: entry.stat().st_mtime_ns for entry in kept.iterdir()} == times
    assert result.data["train"]["fingerprint"] == load("folder", "train", place).fingerprint
    assert str(place) not in (place.parent / "run" / "result.json").read_text()
    assert result.config["data_root"] == "photos", "its name says which folder it was"
    assert Config.of(result.config).identity() == config.identity()
    assert replace(config, data_root="other").identity() != config.identity()
    # A finished run is that of other photographs only under another name.
    assert run(config, place.parent / "run") == result
    make("a/0.png")
    with pytest.raises(ValueError, match="holds another experiment .*'images': 4.* there.*'images': 5"):
        run(config, place.parent / "run")
    with pytest.raises(ValueError, match='folder has photographs, which the backbone "small" does not take'):
        Config(dataset="folder")


def test_the_command_tells_what_a_folder_holds(make, capsys):
    place = make(*two_each("a", "b", "c", "d"), "a/2.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(place / "b" / "phone.jpg", exif=exif)
    (place / "notes.txt").write_text("x")
    assert command.main(["data", "check", str(place)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{place}: 10 images, 0 of them unreadable",
        "train: 6 images, 2 classes, 3 to 3 images each",
        "test: 4 images, 2 classes, 2 to 2 images each",
        "width: 12 to 40 pixels, median 12",
        "height: 9 to 30 pixels, median 9",
        "stored as: JPEG RGB 9, PNG RGB 1",
        "left out because they are no images: .txt 1",
        "turned upright as their EXIF data say: 1",
        "  b/phone.jpg",
        "problems: 0",
    ]
    (place / "c/0.jpg").write_bytes(b"x")
    assert command.main(["data", "check", str(place)]) == 1
    said = capsys.readouterr().out
    assert "10 images, 1 of them unreadable" in said and "problems: 1\n  c/0.jpg cannot be read" in said
    assert command.main(["data", "check", str(place / "nowhere")]) == 1
    err = capsys.readouterr().err
    assert (
        err.startswith(f"mdrlib: {place / 'nowhere'} does not exist: give the folder")
        and err.count("\n") == 1
    )
    with pytest.raises(SystemExit):
        command.main(["data", "cub", str(place)])


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_no_unicode_are_listed_and_printed(make, capfdbinary):
    place = make(*two_each("a", "b", "c", "d"))
    os.rename(place / "a", os.fsencode(place) + b"/gr\xfcn")
    os.rename(os.fsencode(place) + b"/gr\xfcn/0.jpg", os.fsencode(place) + b"/gr\xfcn/\xe9.jpg")
    data = load("folder", "test", place)
    assert "gr\ufffdn" in data.classes and data[3][0].shape == (3, 9, 12) and len(data.fingerprint) == 16
    with open(os.fsencode(place) + b"/gr\xfcn/\xe9.jpg", "wb"):
        pass
    assert command.main(["data", "check", str(place)]) == 1
    assert b"problems: 1" in capfdbinary.readouterr().out
