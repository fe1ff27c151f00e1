"""The annotations of the four benchmarks: what is read from them, and how wrong ones are refused."""

import numpy as np
import pytest

from mdrlib.datasets import cars, cub, inshop, load, sop


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
    ("cub", "images.txt", 5, "5 007.Bird_7/Bird_7_00", 5, "a path <class>/<name>.jpg"),
    ("cub", "images.txt", 5, "5 ../007.Bird_7/x.jpg", 5, "a path <class>/<name>.jpg"),
    ("cub", "images.txt", 5, "5 /etc/x.jpg", 5, "a path <class>/<name>.jpg"),
    ("cub", "images.txt", 5, "4 007.Bird_7/x.jpg", 5, "an image's id and its path"),
    ("cub", "images.txt", 1, "<html>", 1, "an image's id and its path"),
    ("cub", "image_class_labels.txt", 20, None, 20, "the class of image 20"),
    ("cub", "image_class_labels.txt", 20, "20 101", 20, "the class of 200.Bird_200"),
    ("cub", "image_class_labels.txt", 3, "3 201", 3, "a class 1-200"),
    ("cub", "image_class_labels.txt", 3, "3 0", 3, "a class 1-200"),
    ("cub", "image_class_labels.txt", 3, "3 three", 3, "a class 1-200"),
    ("sop", "Ebay_train.txt", 1, None, 1, "the header 'image_id class_id super_class_id path'"),
    ("sop", "Ebay_train.txt", 1, "id path", 1, "the header"),
    ("sop", "Ebay_train.txt", 13, "12 30 1 coffee_maker_final/10", 13, "three numbers and a path"),
    ("sop", "Ebay_train.txt", 13, "12 30 1", 13, "three numbers and a path"),
    ("sop", "Ebay_train.txt", 4, "12 x 1 a/b.JPG", 4, "three numbers and a path"),
    ("sop", "Ebay_train.txt", 4, "12 1 1 a/../../b.JPG", 4, "three numbers and a path"),
    ("inshop", "list_eval_partition.txt", 1, None, 1, "the number of images"),
    ("inshop", "list_eval_partition.txt", 1, "202599", 23, "202599 rows, as line 1 says"),
    ("inshop", "list_eval_partition.txt", 1, "000001.jpg 0", 1, "the number of images"),
    ("inshop", "list_eval_partition.txt", 2, "image_name evaluation_status", 2, "the header"),
    ("inshop", "list_eval_partition.txt", 22, None, 22, "20 rows, as line 1 says"),
    ("inshop", "list_eval_partition.txt", 1, "19", 22, "19 rows, as line 1 says"),
    ("inshop", "list_eval_partition.txt", 9, "img/a/b.jpg id_00000001 val", 9, "train, query or gallery"),
    ("inshop", "list_eval_partition.txt", 9, "img/a/b.jpg id_1x train", 9, "an item id_<number>"),
    ("inshop", "list_eval_partition.txt", 9, "img/a/b id_00000001 train", 9, "a path img/"),
    ("cars csv", "anno_train.csv", 3, "00003.jpg,1,2,3", 3, "a name, four corners and a class 1-196"),
    ("cars csv", "anno_train.csv", 3, "00003.jpg,1,2,3,4,197", 3, "a class 1-196"),
    ("cars csv", "anno_test.csv", 3, "../3.jpg,1,2,3,4,6", 3, "a name, four corners"),
    ("cars csv", "names.csv", 150, None, 174, "the name of class 174"),
]


@pytest.mark.parametrize("layout, file, at, text, named, expected", WRONG)
def test_a_wrong_annotation_is_refused(make_tree, layout, file, at, text, named, expected):
    path = make_tree(layout) / file
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[: at - 1] + ([] if text is None else [text, *lines[at:]])) + "\n")
    with pytest.raises(ValueError) as caught:
        load(layout.split()[0], "train")
    assert f"{path}, line {named}: expected " in str(caught.value), caught.value
    assert expected in str(caught.value)


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
        with pytest.raises(ValueError, match=f"{path}: expected a structure annotations"):
            load("cars", "train")
    columns = [(column, "O") for column in "abcdefg"]
    good = ("car_ims/1.jpg", 1, 2, 3, 4, 5, 0)
    for at, value in ((5, 197), (5, 0), (5, "five"), (0, "car_ims/1"), (0, "../1.jpg"), (0, [1, 2])):
        bad = tuple(value if k == at else field for k, field in enumerate(good))
        savemat(path, {"annotations": np.array([[good, bad]], dtype=columns)})
        with pytest.raises(ValueError, match=f"{path}, annotation 2: expected a path"):
            load("cars", "train")


def test_classes_in_train_and_test_are_refused(make_tree):
    folder = make_tree("sop")
    path = folder / "Ebay_test.txt"
    path.write_text(path.read_text().replace(" 31 ", " 30 "))
    with pytest.raises(ValueError, match="class 30 is in both train and test of Stanford Online Products"):
        load("sop", "train")
    path = make_tree("inshop") / "list_eval_partition.txt"
    text = path.read_text()
    path.write_text(text.replace("id_00000010   query", "id_00000001   query"))
    with pytest.raises(ValueError, match="class 1 is in both train and query"):
        load("inshop", "gallery")
    path.write_text(text.replace("id_00000010   query", "id_00000011   query"))
    with pytest.raises(ValueError, match="class 10 .* must be in both query and gallery"):
        load("inshop", "train")


def whole_annotations(root):
    """The annotations of whole sets, in the published sizes, without an image: folder of each."""
    counts = {name: module.SIZES for name, module in (("cub", cub), ("sop", sop), ("inshop", inshop))}
    folders = {m.FOLDER: root / m.FOLDER for m in (cub, sop, inshop)}
    for folder in folders.values():
        folder.mkdir()
    lines, labels, image = [], [], 0
    for first, (images, classes) in zip((1, 101), counts["cub"].values(), strict=True):
        for k in range(images):
            number, image = first + k % classes, image + 1
            lines.append(f"{image} {number:03d}.Bird/{image}.jpg")
            labels.append(f"{image} {number}")
    (root / "CUB_200_2011" / "images.txt").write_text("\n".join(lines))
    (root / "CUB_200_2011" / "image_class_labels.txt").write_text("\n".join(labels))
    first = 1
    for split, (images, classes) in counts["sop"].items():
        lines = [f"{k} {first + k % classes} 1 chair_final/{first + k}.JPG" for k in range(images)]
        (root / sop.FOLDER / f"Ebay_{split}.txt").write_text("\n".join([" ".join(sop.HEADER), *lines]))
        first += classes
    lines, first = ["52712", " ".join(inshop.HEADER)], 1
    for split, (images, classes) in counts["inshop"].items():
        first = 4000 if split != "train" else 1
        lines += [f"img/{split}/{k}.jpg id_{first + k % classes:08d} {split}" for k in range(images)]
    (root / "Inshop" / "list_eval_partition.txt").write_text("\n".join(lines))


def test_whole_sets_have_the_published_sizes_and_none_may_lose_a_line(tmp_path, capsys):
    whole_annotations(tmp_path)
    for name, module in (("cub", cub), ("sop", sop), ("inshop", inshop)):
        split, size = list(module.SIZES.items())[-1]
        data = load(name, split, tmp_path)  # which looks at the sizes of all splits
        assert (len(data), len(data.classes)) == size and data.whole
    assert capsys.readouterr().err == ""
    for folder, files in (
        (cub.FOLDER, ("images.txt", "image_class_labels.txt")),
        (sop.FOLDER, ("Ebay_test.txt",)),
    ):
        for file in files:
            path = tmp_path / folder / file
            path.write_text(path.read_text().rpartition("\n")[0])
    with pytest.raises(ValueError, match="5923 images of 100 classes for test of CUB.*expected 5924 of 100"):
        load("cub", "train", tmp_path)
    with pytest.raises(
        ValueError, match="60501 images of 11316 classes for test of Stanford.*expected 60502"
    ):
        load("sop", "train", tmp_path)


def test_a_whole_cars_csv_has_the_published_sizes(tmp_path):
    folder = tmp_path / cars.FOLDER
    folder.mkdir()
    (folder / "names.csv").write_text("\n".join(f"Car {k}" for k in range(1, 197)))
    lines = [f"{k:05d}.jpg,1,2,3,4,{1 + k % 98}" for k in range(8054)]
    lines += [f"{k:05d}.jpg,1,2,3,4,{99 + k % 98}" for k in range(8054, 8054 + 8131)]
    (folder / "anno_train.csv").write_text("\n".join(lines[::2]))
    (folder / "anno_test.csv").write_text("\n".join(lines[1::2]))
    assert load("cars", "train", tmp_path).whole and len(load("cars", "test", tmp_path)) == 8131
    (folder / "anno_test.csv").write_text("")  # as some converters leave it: half the images
    with pytest.raises(ValueError, match="4027 images of .* for train of Cars-196, expected 8054 of 98"):
        load("cars", "test", tmp_path)


@pytest.mark.parametrize(
    "layout, file, message",
    [
        ("cub", "image_class_labels.txt", "image_class_labels.txt missing"),
        ("sop", "Ebay_test.txt", "Ebay_test.txt missing"),
        ("cars csv", "names.csv", "names.csv missing"),
        ("cars", "cars_annos.mat", "cars_annos.mat missing"),
        ("inshop apart", "Eval/list_eval_partition.txt", "list_eval_partition.txt missing"),
    ],
)
def test_a_missing_annotation_is_named(make_tree, layout, file, message):
    folder = make_tree(layout)
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"is not in {folder}: {message}; `python -m mdrlib data"):
        load(layout.split()[0], "train")
