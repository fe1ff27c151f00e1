"""The Grocery Store Dataset: the real one where it is, and a small tree that is laid out like it."""

import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdrlib import __main__ as command
from mdrlib.datasets import grocery, load, split_names
from mdrlib.datasets.benchmarks import BENCHMARKS, GROCERY
from mdrlib.datasets.download import state

ROOT = Path(os.environ.get("MDR_DATA_ROOT", "/nowhere")).expanduser()
REAL = pytest.mark.skipif(not (ROOT / "grocery/classes.csv").is_file(), reason="the photographs are not here")
KINDS = [(0, "Red", 0, "Apple"), (1, "Green", 0, "Apple"), (2, "Lime", 1, "Lime"), (3, "Leek", 21, "Leek")]
KINDS += [(4, "Tall", 22, "Onion"), (5, "Flat", 22, "Onion")]
SIZES = {"train": (24, 3), "query": (12, 3), "gallery": (12, 3)}


@pytest.fixture(autouse=True)
def quiet(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("MDR_PROGRESS", "off")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The folder of a small tree, which passes as the published set."""
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    monkeypatch.setitem(BENCHMARKS, "grocery", replace(BENCHMARKS["grocery"], sizes=SIZES))
    place = tmp_path / "grocery"
    rng, marks = np.random.default_rng(0), {}
    for part, count in (("train", 3), ("val", 1), ("test", 4)):
        lines = []
        for fine, name, coarse, group in KINDS:
            for k in range(count):
                path = f"{part}/Fruit/{group}/{name}_{k:03d}.jpg"
                lines.append(f"{path}, {fine}, {coarse}\n")
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (8, 9, 3), np.uint8)
                image = Image.fromarray(pixels).resize((90, 80), Image.Resampling.NEAREST)
                image.save(place / path, quality=95)
                marks[path] = grocery.mark(place / path)
        (place / f"{part}.txt").write_text("".join(lines))
    rows = "".join(f"{name},{fine},{group},{coarse},/a.jpg,/a.txt\n" for fine, name, coarse, group in KINDS)
    (place / "classes.csv").write_text("Class Name (str),Class ID (int),...\n" + rows)
    monkeypatch.setattr(grocery, "published", lambda: np.stack([marks[path] for path in sorted(marks)]))
    return place


def test_coarse_classes_split_it_and_lists_make_queries_and_gallery(small):
    sets = {split: load("grocery", split) for split in split_names("grocery")}
    assert {split: (len(data), len(data.classes)) for split, data in sets.items()} == SIZES
    assert sets["train"].classes == ["Red", "Green", "Lime"]
    assert sets["query"].classes == sets["gallery"].classes == ["Leek", "Tall", "Flat"]
    assert sets["train"].groups.tolist() == [0, 0, 1] and sets["query"].groups.tolist() == [2, 3, 3]
    assert sets["gallery"].group_names == ["Apple", "Lime", "Leek", "Onion"]
    assert all(file.startswith("test/") for file in sets["query"].files)
    assert {file.partition("/")[0] for file in sets["gallery"].files} == {"train", "val"}
    assert {file.partition("/")[0] for file in sets["train"].files} == {"train", "val", "test"}
    for k in range(1, 11):
        halved = {split: load("grocery", split, class_split=k) for split in sets}
        trained = {halved["train"].group_names[g] for g in halved["train"].groups}
        tested = {halved["query"].group_names[g] for g in halved["query"].groups}
        assert len(trained) == len(tested) == 2 and not trained & tested, "sisters are on one side"
        assert all(file.startswith("test/") for file in halved["query"].files)
        assert not any(file.startswith("test/") for file in halved["gallery"].files)
        assert sum(map(len, halved.values())) == 48


def test_a_wrong_line_is_refused_by_file_and_line(small):
    path = small / "val.txt"
    for wrong in ("../x.jpg, 0, 0", "val/a.jpg, 0", "val/a.jpg, 0, 1", "val/a.jpg, 9, 0"):
        path.write_text(path.read_text().partition("\n")[0] + f"\n{wrong}\n")
        with pytest.raises(
            ValueError, match=r"val.txt, line 2: expected a path, a class and its coarse class"
        ):
            load("grocery", "train")


def test_all_images_that_cannot_be_read_are_listed(small):
    broken = load("grocery", "query").paths[:2]
    broken[0].unlink()
    broken[1].write_bytes(broken[1].read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"2 images cannot be read: test.*No such file.*; test.*truncated"):
        load("grocery", "train")


def test_its_archive_is_unpacked_and_each_image_verified(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("no_proxy", "*")
    archive = tmp_path / "server.zip"

    def pack():
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(f"{GROCERY}/README.md", "more")
            file.writestr(f"{GROCERY}/dataset/iconic-images-and-descriptions/a.jpg", "more")
            for path in sorted(small.rglob("*")):
                file.write(path, f"{GROCERY}/dataset/{path.relative_to(small).as_posix()}")

    pack()
    published = BENCHMARKS["grocery"].archives[0]
    changed = replace(published, url=archive.as_uri())
    monkeypatch.setitem(BENCHMARKS, "grocery", replace(BENCHMARKS["grocery"], archives=(changed,)))
    wanted = load("grocery", "query").fingerprint
    shutil.rmtree(small)
    assert command.main(["data", "grocery"]) == 0
    assert f"grocery: complete (48 images) in {small}" in capsys.readouterr().out
    names = sorted(path.name for path in small.iterdir())
    assert names == [
        published.name,
        "classes.csv",
        "test",
        "test.txt",
        "train",
        "train.txt",
        "val",
        "val.txt",
    ]
    assert load("grocery", "query").fingerprint == wanted
    # A smaller copy passes, another photograph under the same name does not.
    for path in small.rglob("*.jpg"):
        Image.open(path).resize((72, 64), Image.Resampling.BICUBIC).save(path, quality=80)
    assert state("grocery")[1] == "complete"
    one, other = load("grocery", "query").paths[:2]
    shutil.copy(one, other)
    _, kind, words = state("grocery")
    assert (
        kind == "incomplete" and f"1 images are not the published ones: {other.relative_to(small)}" in words
    )


@REAL
def test_the_real_set_has_the_published_counts_and_its_images(monkeypatch):
    monkeypatch.setenv("MDR_DATA_ROOT", str(ROOT))
    sets = {split: load("grocery", split) for split in split_names("grocery")}
    sizes = {split: (len(data), len(data.classes)) for split, data in sets.items()}
    assert (
        sizes
        == {"train": (3237, 44), "query": (985, 37), "gallery": (1199, 37)}
        == BENCHMARKS["grocery"].sizes
    )
    assert set(sets["train"].groups.tolist()) == set(range(21))
    assert set(sets["query"].groups.tolist()) == set(sets["gallery"].groups.tolist()) == set(range(21, 43))
    assert sets["query"].classes == sets["gallery"].classes and len(sets["train"].group_names) == 43
    assert sum(len(load("grocery", split, class_split=3)) for split in sets) == 5421
    image, label = sets["query"][0]
    assert image.shape[0] == 3 and min(image.shape[1:]) == 128 and label == sets["query"].labels[0]
    torch.testing.assert_close(sets["query"].labels.unique(), torch.arange(37))


@pytest.mark.slow
@REAL
def test_the_real_images_have_their_marks_and_turned_ones_have_not(monkeypatch, tmp_path):
    monkeypatch.setenv("MDR_DATA_ROOT", str(ROOT))
    assert state("grocery")[1:] == ("complete", "5,421 images")
    files = sorted(
        path.relative_to(ROOT / "grocery").as_posix() for path in (ROOT / "grocery").rglob("*.jpg")
    )
    for index in range(0, 5421, 200):
        image = Image.open(ROOT / "grocery" / files[index])
        image.resize([2 * side // 5 for side in image.size], Image.Resampling.BICUBIC).save(
            tmp_path / "a.jpg"
        )
        different = (grocery.mark(tmp_path / "a.jpg") != grocery.published()).sum(1)
        assert different[index] <= grocery.TOLERANCE < np.median(different)
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png")
        assert (grocery.mark(tmp_path / "b.png") != grocery.published()[index]).sum() > grocery.TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, sizes", [("cub-50", ((1402, 25), (1487, 25))), ("cars-half", ((4052, 98), (4092, 98)))]
)
def test_parts_of_benchmarks_are_folders(name, sizes):
    if not (ROOT / name).is_dir():
        pytest.skip("the photographs are not here")
    sets = [load("folder", split, ROOT / name) for split in ("train", "test")]
    assert tuple((len(data), len(data.classes)) for data in sets) == sizes
    assert (sets[0].classes[-1] < sets[1].classes[0]) and sets[0].classes[0].startswith("001.")
