"""CUB-200-2011: photographs of birds."""

from pathlib import Path

from mdrlib.datasets.files import Row, is_image_path, numbered_lines, refuse, require
from mdrlib.datasets.sources import Archive

TITLE = "CUB-200-2011"
FOLDER = "CUB_200_2011"
PAGE = "https://data.caltech.edu/records/65de6-vp158"
HINT = ""
SIZES = {"train": (5864, 100), "test": (5924, 100)}  # images and classes
CLASSES, TRAIN = 200, 100  # classes 1-100 are for training
ARCHIVES = (
    Archive(
        "CUB_200_2011.tgz",
        md5="97eceeb196236b17998738112f37df78",
        url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        inside="CUB_200_2011",
        last=("image_class_labels.txt", "images.txt"),
    ),
)


def read(folder: Path) -> tuple[Path, dict[str, list[Row]]]:
    """The folder of images and the rows of each split: classes 1-100 are "train", 101-200 "test".

    Source: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie, "The Caltech-UCSD Birds-200-2011
    Dataset", 2011. The split for zero-shot retrieval, not the one for classification of train_test_split.txt.
    images.txt has "id path" a line, image_class_labels.txt "id class".
    Raises FileNotFoundError without these files, ValueError naming file and line for anything else in them.
    """
    require(TITLE, "cub", folder, "images.txt", "image_class_labels.txt")
    classes = _values(folder / "image_class_labels.txt", "an image's id and its class 1-200")
    paths = _values(folder / "images.txt", "an image's id and its path <class>/<name>.jpg")
    rows: dict[str, list[Row]] = {"train": [], "test": []}
    folders: dict[int, str] = {}
    for key, (line, path) in paths.items():
        if not is_image_path(path) or path.count("/") != 1:
            refuse(folder / "images.txt", line, "a path <class>/<name>.jpg", path)
        if key not in classes:
            end = len(classes) + 1
            refuse(folder / "image_class_labels.txt", end, f"the class of image {key} of images.txt", "none")
        at, text = classes[key]
        if not (text.isdecimal() and 1 <= int(text) <= CLASSES):
            refuse(folder / "image_class_labels.txt", at, f"a class 1-{CLASSES}", text)
        number, name = int(text), path.split("/")[0]
        if folders.setdefault(number, name) != name:
            expected = f"the class of {path}, other than that of {folders[number]}"
            refuse(folder / "image_class_labels.txt", at, expected, text)
        rows["train" if number <= TRAIN else "test"].append(Row(path, number, name))
    for key, (line, _) in classes.items():
        if key not in paths:
            expected = f"the path of image {key}, line {line} of image_class_labels.txt"
            refuse(folder / "images.txt", len(paths) + 1, expected, "none")
    return folder / "images", rows


def _values(path: Path, expected: str) -> dict[str, tuple[int, str]]:
    """Of each id, its line and its value."""
    values: dict[str, tuple[int, str]] = {}
    for line, text in numbered_lines(path):
        fields = text.split()
        if len(fields) != 2 or not fields[0].isdecimal() or fields[0] in values:
            refuse(path, line, expected, text)
        values[fields[0]] = (line, fields[1])
    return values
