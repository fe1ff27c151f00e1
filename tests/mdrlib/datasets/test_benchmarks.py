"""The annotations of the four benchmarks: what is read from them, and how wrong ones are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdrlib.datasets import PKBatchSampler, load
from mdrlib.datasets.benchmarks import BENCHMARKS, Row, check

EVERY = ["cub", "cars", "cars csv", "sop", "inshop", "inshop apart"]
CLASSES = {"cub": (3, 2), "cars": (2, 3), "sop": (3, 2), "inshop": (2, 3)}  # of the tree: train, others


@pytest.mark.parametrize("layout", EVERY)
def test_every_layout_loads_and_shares_no_class_with_training(make_tree, layout):
    folder, name = make_tree(layout), layout.split()[0]
    seen, sets = set(), {split: load(name, split) for split in BENCHMARKS[name].sizes}
    for split, data in sets.items():
        classes = CLASSES[name][split != "train"]
        each = 2 if split in ("query", "gallery") else 4
        assert (data.name, data.split, len(data.classes)) == (name, split, classes)
        assert data.labels.dtype == torch.int64 and data.labels.bincount().tolist() == [each] * classes
        assert len(data) == len(data.paths) == each * classes
        assert repr(data) == f"ImageFiles({name} {split}: {len(data)} images, {classes} classes)"
        assert all(path.is_file() and path.is_relative_to(folder) for path in data.paths)
        assert not seen & set(data.paths)
        seen |= set(data.paths)
        assert split == "train" or not set(data.classes) & set(sets["train"].classes)
    assert len(seen) == 20
    sampler = PKBatchSampler(sets["train"].labels, 4, 2, iterations=3)
    loader = torch.utils.data.DataLoader(sets["train"], batch_sampler=sampler)
    assert [labels.unique(return_counts=True)[1].tolist() for _, labels in loader] == [[2, 2]] * 3


def test_both_layouts_of_inshop_have_one_fingerprint(make_tree):
    folder = make_tree("inshop")
    first = load("inshop", "query").fingerprint
    folder.rename(folder.with_name("elsewhere"))
    make_tree("inshop apart")
    assert load("inshop", "query").fingerprint == first


def names(name, split):
    return [path.name for path in load(name, split).paths]


def test_cub_splits_by_class_in_halves(make_tree):
    make_tree("cub")
    assert load("cub", "train").classes == ["003.Bird_3", "007.Bird_7", "100.Bird_100"]
    assert load("cub", "test").classes == ["101.Bird_101", "200.Bird_200"]
    assert names("cub", "test")[4] == "Bird_200_0000.jpg" and load("cub", "test").labels[4] == 1


@pytest.mark.parametrize("layout, ram", [("cars", "Car 174"), ("cars csv", "Ram C-V Cargo Van")])
def test_cars_split_by_class_in_halves_whatever_the_flag_for_classification(make_tree, layout, ram):
    make_tree(layout)
    assert load("cars", "train").classes == ["Car 2", "Car 98"]
    assert load("cars", "test").classes == ["Car 99", ram, "Car 196"]
    labels = load("cars", "test").labels.tolist()
    assert labels == ([0] * 4 + [1] * 4 + [2] * 4 if layout == "cars" else [0, 0, 1, 1, 2, 2] * 2)


def test_cars_without_names_in_the_file_are_numbered(make_tree):
    from scipy.io import loadmat, savemat

    path = make_tree("cars") / "cars_annos.mat"
    savemat(path, {"annotations": loadmat(path)["annotations"]})
    assert load("cars", "train").classes == ["002", "098"]


def test_sop_and_inshop_split_as_their_files_say(make_tree):
    make_tree("sop"), make_tree("inshop")
    assert load("sop", "train").classes == ["bicycle/1", "coffee_maker/2", "coffee_maker/30"]
    assert load("sop", "test").classes == ["bicycle/31", "coffee_maker/40"]
    assert load("inshop", "train").classes == ["id_00000001", "id_00000002"]
    query, gallery = load("inshop", "query"), load("inshop", "gallery")
    assert query.classes == gallery.classes == ["id_00000010", "id_00000011", "id_00000012"]
    for data in (query, gallery):
        assert [path.parent.name for path in data.paths] == [data.classes[y] for y in data.labels]


# layout, file, line that is changed (counted from 1), what stands there then (None: the file ends before it),
# the line that is named and what was expected
WRONG = [
    ("cub", "images.txt", 20, None, 20, "the path of image 20"),
    ("cub", "images.txt", 5, "5", 5, "an image's id and its path"),
    ("cub", "images.txt", 5, "5 007.Bird_7/Bird_7_00", 5, "its path <class>/<name>.jpg"),
    ("cub", "images.txt", 5, "5 ../007.Bird_7/x.jpg", 5, "its path <class>/<name>.jpg"),
    ("cub", "images.txt", 5, "5 /etc/x.jpg", 5, "its path <class>/<name>.jpg"),
    ("cub", "images.txt", 5, "4 007.Bird_7/x.jpg", 5, "a new id"),
    ("cub", "images.txt", 1, "<html>", 1, "an image's id and its path"),
    ("cub", "image_class_labels.txt", 3, "3 201", 3, "its class 1-200"),
    ("cub", "image_class_labels.txt", 3, "3 three", 3, "its class 1-200"),
    ("sop", "Ebay_train.txt", 1, None, 1, "the header image_id class_id super_class_id path"),
    ("sop", "Ebay_train.txt", 1, "id path", 1, "the header"),
    ("sop", "Ebay_train.txt", 13, "12 30 1 coffee_maker_final/10", 13, "three numbers and a path"),
    ("sop", "Ebay_train.txt", 13, "12 30 1", 13, "three numbers and a path"),
    ("sop", "Ebay_train.txt", 4, "12 x 1 a/b.JPG", 4, "three numbers and a path"),
    ("sop", "Ebay_train.txt", 4, "12 1 1 a/../../b.JPG", 4, "three numbers and a path"),
    ("inshop", "list_eval_partition.txt", 1, None, 1, "the number of images"),
    ("inshop", "list_eval_partition.txt", 1, "202599", 1, "20, the number of rows below"),
    ("inshop", "list_eval_partition.txt", 1, "000001.jpg 0", 1, "the number of images"),
    ("inshop", "list_eval_partition.txt", 2, "image_name evaluation_status", 2, "the header"),
    ("inshop", "list_eval_partition.txt", 22, None, 1, "19, the number of rows below"),
    ("inshop", "list_eval_partition.txt", 9, "img/a/b.jpg id_00000001 val", 9, "train, query or gallery"),
    ("inshop", "list_eval_partition.txt", 9, "img/a/b.jpg id_1x train", 9, "an item id_<number>"),
    ("inshop", "list_eval_partition.txt", 9, "img/a/b id_00000001 train", 9, "a path img/"),
    ("cars csv", "anno_train.csv", 3, "00003.jpg,1,2,3", 3, "a file, four corners and a class 1-196"),
    ("cars csv", "anno_train.csv", 3, "00003.jpg,1,2,3,4,197", 3, "a class 1-196"),
    ("cars csv", "anno_test.csv", 3, "../3.jpg,1,2,3,4,6", 3, "a file, four corners"),
    ("cars csv", "names.csv", 5, "", 5, "the name of a class"),
    # Numbers that Python reads in no time, or that fit into no tensor; a line of a megabyte.
    ("cub", "images.txt", 3, "9" * 5000 + " 003.Bird_3/a.jpg", 3, "an image's id and its path"),
    ("cub", "image_class_labels.txt", 3, "3 " + "9" * 5000, 3, "an image's id and its class"),
    ("sop", "Ebay_train.txt", 4, f"12 {'9' * 5000} 1 a/b.JPG", 4, "three numbers and a path"),
    ("sop", "Ebay_train.txt", 4, f"12 {10**20} 1 a/b.JPG", 4, "three numbers and a path"),
    ("sop", "Ebay_train.txt", 4, f"12 1 1 a/{'b' * 10**6}.JPG", 4, "three numbers and a path"),
    ("inshop", "list_eval_partition.txt", 1, "9" * 5000, 1, "the number of images"),
    ("inshop", "list_eval_partition.txt", 9, f"img/a/b.jpg id_{'1' * 5000} train", 9, "an item id_<number>"),
    ("cars csv", "anno_train.csv", 3, f"00003.jpg,1,2,3,4,{'9' * 5000}", 3, "a class 1-196"),
    ("cars csv", "names.csv", 5, "x" * 10**6, 5, "the name of a class"),
]


@pytest.mark.parametrize("layout, file, at, text, named, expected", WRONG, ids=lambda value: str(value)[:20])
def test_a_wrong_annotation_is_refused(make_tree, layout, file, at, text, named, expected):
    path = make_tree(layout) / file
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[: at - 1] + ([] if text is None else [text, *lines[at:]])) + "\n")
    with pytest.raises(ValueError) as caught:
        load(layout.split()[0], "train")
    assert f"{path}, line {named}: expected " in str(caught.value), caught.value
    assert expected in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("layout", ["cub", "sop", "inshop", "cars csv"])
def test_an_annotation_without_images_is_refused(make_tree, layout):
    folder = make_tree(layout)
    for path in (*folder.glob("image*.txt"), *folder.glob("Ebay_test.txt"), *folder.glob("anno_*.csv")):
        path.write_text("image_id class_id super_class_id path\n" if layout == "sop" else "")
    for path in folder.glob("list_*.txt"):
        path.write_text("0\nimage_name item_id evaluation_status\n")
    message = f"{folder} has no image of (train|test): download the annotation again"
    with pytest.raises(ValueError, match=message):
        load(layout.split()[0], "train")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"<html>" * 99])
def test_a_damaged_mat_is_refused(make_tree, damage):
    path = make_tree("cars") / "cars_annos.mat"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path}.*expected a MATLAB file"):
        load("cars", "train")


def test_a_mat_of_another_kind_is_refused(make_tree):
    from scipy.io import savemat

    path = make_tree("cars") / "cars_annos.mat"
    short = np.array([[("car_ims/1.jpg", 1)]], dtype=[("path", "O"), ("class", "O")])
    for content in ({"other": 1}, {"annotations": np.zeros((1, 3))}, {"annotations": short}):
        savemat(path, content)
        with pytest.raises(ValueError, match=f"{path}: expected a MATLAB file with annotations"):
            load("cars", "train")
    columns = [
        (column, "O") for column in "relative_im_path bbox_x1 bbox_y1 bbox_x2 bbox_y2 class test".split()
    ]
    good = ("car_ims/1.jpg", 1, 2, 3, 4, 5, 0)
    numbers, files = (197, 0, "five", 1.5, "9" * 5000), ("car_ims/1", "../1.jpg", [1, 2])
    for at, value in (*((5, number) for number in numbers), *((0, file) for file in files)):
        bad = tuple(value if k == at else field for k, field in enumerate(good))
        savemat(path, {"annotations": np.array([[good, bad]], dtype=columns)})
        with pytest.raises(ValueError, match=f"{path}, line 2: expected a path"):
            load("cars", "train")


def test_classes_in_train_and_test_are_refused(make_tree):
    folder = make_tree("sop")
    path = folder / "Ebay_test.txt"
    path.write_text(path.read_text().replace(" 31 ", " 30 "))
    with pytest.raises(ValueError, match="must not be in both train and test"):
        load("sop", "train")
    path = make_tree("inshop") / "list_eval_partition.txt"
    text = path.read_text()
    path.write_text(text.replace("id_00000010   query", "id_00000001   query"))
    with pytest.raises(ValueError, match="class id_00000001 must not be in both train and query"):
        load("inshop", "gallery")


def whole_annotations(root):
    """The annotations of whole sets, in the published sizes, without an image."""
    folders = {name: root / BENCHMARKS[name].folder for name in ("cub", "sop", "inshop")}
    for folder in folders.values():
        folder.mkdir()
    lines, labels, image = [], [], 0
    for first, (images, classes) in zip((1, 101), BENCHMARKS["cub"].sizes.values(), strict=True):
        for k in range(images):
            number, image = first + k % classes, image + 1
            lines.append(f"{image} {number:03d}.Bird/{image}.jpg")
            labels.append(f"{image} {number}")
    (folders["cub"] / "images.txt").write_text("\n".join(lines))
    (folders["cub"] / "image_class_labels.txt").write_text("\n".join(labels))
    first = 1
    for split, (images, classes) in BENCHMARKS["sop"].sizes.items():
        lines = [f"{k} {first + k % classes} 1 chair_final/{first + k}.JPG" for k in range(images)]
        header = "image_id class_id super_class_id path"
        (folders["sop"] / f"Ebay_{split}.txt").write_text("\n".join([header, *lines]))
        first += classes
    lines = ["52712", "image_name item_id evaluation_status"]
    for split, (images, classes) in BENCHMARKS["inshop"].sizes.items():
        first = 4000 if split != "train" else 1
        lines += [f"img/{split}/{k}.jpg id_{first + k % classes:08d} {split}" for k in range(images)]
    (folders["inshop"] / "list_eval_partition.txt").write_text("\n".join(lines))
    return folders


def test_whole_sets_have_the_published_sizes_and_none_may_lose_a_line(tmp_path, capsys):
    folders = whole_annotations(tmp_path)
    for name in folders:
        split, size = list(BENCHMARKS[name].sizes.items())[-1]
        data = load(name, split, tmp_path)  # which looks at the sizes of all splits
        assert (len(data), len(data.classes)) == size
    assert capsys.readouterr().err == ""
    for path in (*(folders["cub"]).iterdir(), folders["sop"] / "Ebay_test.txt"):
        path.write_text(path.read_text().rpartition("\n")[0])
    with pytest.raises(ValueError, match=r"'test': \(5923, 100\).*expected .*'test': \(5924, 100\)"):
        load("cub", "train", tmp_path)
    with pytest.raises(ValueError, match=r"'test': \(60501, 11316\).*expected .*\(60502, 11316\)"):
        load("sop", "train", tmp_path)


def test_a_whole_cars_csv_has_the_published_sizes(tmp_path):
    folder = tmp_path / BENCHMARKS["cars"].folder
    folder.mkdir()
    (folder / "names.csv").write_text("\n".join(f"Car {k}" for k in range(1, 197)))
    lines = [f"{k:05d}.jpg,1,2,3,4,{1 + k % 98}" for k in range(8054)]
    lines += [f"{k:05d}.jpg,1,2,3,4,{99 + k % 98}" for k in range(8054, 8054 + 8131)]
    (folder / "anno_train.csv").write_text("\n".join(lines[::2]))
    (folder / "anno_test.csv").write_text("\n".join(lines[1::2]))
    assert len(load("cars", "train", tmp_path)) == 8054 and len(load("cars", "test", tmp_path)) == 8131
    (folder / "anno_test.csv").write_text("")  # as some converters leave it: half the images
    with pytest.raises(ValueError, match=r"'train': \(4027, .*expected .*'train': \(8054, 98\)"):
        load("cars", "test", tmp_path)


@pytest.mark.parametrize(
    "layout, file, message",
    [
        ("cub", "image_class_labels.txt", "image_class_labels.txt is missing"),
        ("sop", "Ebay_test.txt", "Ebay_test.txt is missing"),
        ("cars csv", "names.csv", "cars_annos.mat is missing"),
        ("cars", "cars_annos.mat", "cars_annos.mat is missing"),
        ("inshop apart", "Eval/list_eval_partition.txt", "list_eval_partition.txt is missing"),
    ],
)
def test_a_missing_annotation_is_named(make_tree, layout, file, message):
    folder = make_tree(layout)
    (folder / file).unlink()
    name = layout.split()[0]
    with pytest.raises(FileNotFoundError, match=f"{folder}: {message}; run `python -m mdrlib data {name}`"):
        load(name, "train")


def test_a_missing_set_names_folder_command_and_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    for name, benchmark in BENCHMARKS.items():
        with pytest.raises(FileNotFoundError) as caught:
            load(name, "train")
        for words in (tmp_path / benchmark.folder, f"mdrlib data {name}", "MDR_DATA_ROOT"):
            assert str(words) in str(caught.value)
    assert not list(tmp_path.iterdir())


def rows(images, classes, first=0):
    return [Row(f"{first}/{k}.jpg", first + k % classes, f"{first + k % classes}") for k in range(images)]


TOYS = replace(BENCHMARKS["sop"], title="Toys", sizes={"train": (500, 10), "test": (510, 11)})


def test_the_published_set_is_told_from_a_miniature_and_from_one_that_lost_images(tmp_path):
    assert check(TOYS, tmp_path, {"train": rows(500, 10), "test": rows(510, 11, 50)}) is True
    assert check(TOYS, tmp_path, {"train": rows(50, 10), "test": rows(50, 10, 50)}) is False
    for train, test, message in (
        (rows(499, 10), rows(510, 11, 50), r".*\(499, 10\).*, expected .*\(500, 10\)"),
        (rows(500, 10), rows(510, 12, 50), r".*\(510, 12\).*, expected .*\(510, 11\)"),
        (rows(500, 10), rows(1, 1, 50), r".*\(1, 1\)"),
        (rows(51, 10), rows(50, 10, 50), r".*\(51, 10\)"),
        (rows(900, 10), rows(900, 10, 50), r".*\(900, 10\)"),
    ):
        with pytest.raises(ValueError, match=f"{tmp_path} has {message}"):
            check(TOYS, tmp_path, {"train": train, "test": test})


def test_sets_that_are_not_zero_shot_are_refused(tmp_path):
    named = [row._replace(name="3") for row in rows(20, 10, 50)]
    for test, message in (
        (rows(20, 10, 9), "class 9 must not be in both train and test"),
        (named, "class 3 must not be in both train and test"),
    ):
        with pytest.raises(ValueError, match=message):
            check(TOYS, tmp_path, {"train": rows(20, 10), "test": test})


def test_a_miniature_says_so_and_a_whole_set_is_silent(make_tree, monkeypatch, capsys):
    make_tree("cub")
    load("cub", "train")
    assert "holds a miniature of CUB-200-2011" in capsys.readouterr().err
    whole = replace(BENCHMARKS["cub"], sizes={"train": (12, 3), "test": (8, 2)})
    monkeypatch.setitem(BENCHMARKS, "cub", whole)
    data = load("cub", "train")
    assert capsys.readouterr().err == ""
    assert repr(data) == "ImageFiles(cub train: 12 images, 3 classes)"
