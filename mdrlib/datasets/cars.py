"""Cars-196: photographs of cars by make, model and year, in either of two layouts."""

import csv
import io
from pathlib import Path

from mdrlib.datasets.files import Row, is_image_path, refuse, require
from mdrlib.datasets.sources import Archive

TITLE = "Cars-196"
FOLDER = "Cars196"
PAGE = "http://ai.stanford.edu/~jkrause/cars/car_dataset.html"
HINT = (
    "The original links are dead. A copy with names.csv, anno_train.csv, anno_test.csv and "
    "car_data/car_data/{train,test}/<class name>/ will do as well."
)
SIZES = {"train": (8054, 98), "test": (8131, 98)}  # images and classes
CLASSES, TRAIN = 196, 98  # classes 1-98 are for training
CSV = ("names.csv", "anno_train.csv", "anno_test.csv")
ARCHIVES = (
    Archive("cars_annos.mat", md5="b407c6086d669747186bd1d764ff9dbc", unpack=False),
    Archive("car_ims.tgz", md5="d5c8f0aa497503f355e17dc7886c3f14", last=("car_ims",)),
)


def read(folder: Path) -> tuple[Path, dict[str, list[Row]]]:
    """The folder of images and the rows of each split: classes 1-98 are "train", 99-196 "test".

    Source: J. Krause, M. Stark, J. Deng, L. Fei-Fei, "3D Object Representations for Fine-Grained
    Categorization", 3dRR workshop, 2013. The split for zero-shot retrieval: the test flag of the annotation
    and the folders train and test of the second layout, which are for classification, are not looked at.
    Layouts: cars_annos.mat with car_ims/; or names.csv and anno_{train,test}.csv (file, four corners, class)
    with car_data/car_data/{train,test}/<class name>/. The first, where both are there.
    Raises FileNotFoundError without either, ValueError naming file and line (in the .mat, annotation) for
    anything else in them, ImportError without scipy, which reads the .mat.
    """
    if not (folder / "cars_annos.mat").is_file() and any((folder / name).is_file() for name in CSV):
        require(TITLE, "cars", folder, *CSV)
        found = _read_csv(folder)
    else:
        require(TITLE, "cars", folder, "cars_annos.mat")
        found = _read_mat(folder / "cars_annos.mat")
    return folder, {
        "train": [row for row in found if row.number <= TRAIN],
        "test": [row for row in found if row.number > TRAIN],
    }


def _read_mat(path: Path) -> list[Row]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(f"reading {path} needs scipy: pip install mdrlib[data]") from error

    data = io.BytesIO(path.read_bytes())
    try:
        content = loadmat(data)
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise ValueError(f"{path}: expected a MATLAB file, scipy cannot read it: {error}") from error
    annotations = content.get("annotations")
    columns = annotations.dtype.names or () if annotations is not None else ()
    if len(columns) < 6:
        raise ValueError(f"{path}: expected a structure annotations of 6 or 7 fields, found {len(columns)}")
    names = [str(name.item()) for name in content["class_names"].ravel()] if "class_names" in content else []
    rows = []
    for line, record in enumerate(annotations.ravel(), 1):
        try:
            file, number = str(record[0].item()), int(record[5].item())
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}, annotation {line}: expected a path and a class, found {record}"
            ) from error
        if not is_image_path(file) or not 1 <= number <= CLASSES:
            raise ValueError(
                f"{path}, annotation {line}: expected a path car_ims/<name>.jpg and a class 1-{CLASSES}, "
                f"found {file!r} and {number}"
            )
        rows.append(Row(file, number, names[number - 1] if number <= len(names) else f"{number:03d}"))
    return rows


def _read_csv(folder: Path) -> list[Row]:
    names = [",".join(fields).strip() for fields in _records(folder / "names.csv")]
    rows = []
    for part in ("train", "test"):
        path = folder / f"anno_{part}.csv"
        for line, fields in enumerate(_records(path), 1):
            numeric = len(fields) == 6 and all(field.strip().isdecimal() for field in fields[1:])
            if not numeric or not is_image_path(fields[0].strip()) or not 1 <= int(fields[5]) <= CLASSES:
                refuse(path, line, f"a name, four corners and a class 1-{CLASSES}", ",".join(fields))
            number = int(fields[5])
            if number > len(names) or not names[number - 1]:
                refuse(folder / "names.csv", number, f"the name of class {number} of {path.name}", "none")
            name = names[number - 1].replace("/", "-")  # as the folder of Ram C/V Cargo Van is called
            rows.append(Row(f"car_data/car_data/{part}/{name}/{fields[0].strip()}", number, name))
    return rows


def _records(path: Path) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            return list(csv.reader(file))
    except csv.Error as error:
        raise ValueError(f"{path}: expected comma-separated values, found {error}") from error
