"""The published sets of photographs: CUB-200-2011, Cars-196, Stanford Online Products and In-Shop.

The splits are those of zero-shot retrieval: training shares no class with any other split.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from mdrlib.datasets.images import ImageFiles

# A set with fewer images than this share of the published one is a miniature, made to try things out.
# Anything between the two has lost images, and is refused.
MINIATURE = 0.1
# A path that stays in the folder and ends like an image, so was not cut short; and the folder it starts with.
IMAGE = r"(?!/|\S*\.\./)([^\s\\\0/]+)/[^\s\\\0]+\.(?i:jpe?g|png)"
PARTITION = "list_eval_partition.txt"


class Row(NamedTuple):
    """One image of an annotation: its path below the folder of images, the number and name of its class."""

    path: str
    number: int
    name: str


Rows = dict[str, list[Row]]  # of each split


@dataclass(frozen=True)
class Archive:
    """A file that a data set is published as."""

    name: str
    checksum: str | None = None  #: md5 (32 hex digits) or sha256 (64); None if none is published
    url: str | None = None  #: None if it has to be fetched by hand
    last: tuple[str, ...] = ()  #: entries it must have, moved into place last; () for a file used as it is


@dataclass(frozen=True)
class Benchmark:
    """A published set of photographs.

    `read` is called with its folder and returns the folder of images and the rows of each split. It raises
    FileNotFoundError without the annotation and ValueError, naming file and line, for a wrong one.
    """

    title: str
    folder: str  #: its name below the data root
    page: str
    sizes: dict[str, tuple[int, int]]  #: of each split, the numbers of images and classes
    archives: tuple[Archive, ...]
    read: Callable[[Path], tuple[Path, Rows]]


def read_cub(folder: Path) -> tuple[Path, Rows]:
    """Read images.txt ("id path") and image_class_labels.txt ("id class"): classes 1-100 are for training.

    Source: C. Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", 2011.
    """
    images, labels = folder / "images.txt", folder / "image_class_labels.txt"
    require("cub", images, labels)
    classes: dict[str, int] = {}
    for line, (key, number) in matches(labels, (r"(\d+) (\d+)", "an image's id and its class 1-200")):
        if key in classes or not 1 <= int(number) <= 200:
            refuse(labels, line, "a new id and a class 1-200", f"{key} {number}")
        classes[key] = int(number)
    rows = []
    names: dict[int, str] = {}
    wanted = (rf"(\d+) ({IMAGE})", "an image's id and its path <class>/<name>.jpg")
    for line, (key, path, name) in matches(images, wanted):
        number = classes.pop(key, 0)
        if not number or names.setdefault(number, name) != name:
            refuse(images, line, f"a new id, and the folder of its class in {labels.name}", f"{key} {path}")
        rows.append(Row(path, number, name))
    if classes:
        refuse(images, len(rows) + 1, f"the path of image {min(classes)} of {labels.name}", "")
    return folder / "images", _halves(rows, 100)


def read_cars(folder: Path) -> tuple[Path, Rows]:
    """Read cars_annos.mat, or else names.csv and anno_{train,test}.csv: classes 1-98 are for training.

    The test flag and the folders train and test of the second layout are for classification and not used.
    Source: J. Krause et al., "3D Object Representations for Fine-Grained Categorization", 3dRR 2013.
    """
    mat = folder / "cars_annos.mat"
    tables = [folder / name for name in ("names.csv", "anno_train.csv", "anno_test.csv")]
    if mat.is_file() or not any(path.is_file() for path in tables):
        require("cars", mat)
        return folder, _halves(_cars_mat(mat), 98)
    require("cars", *tables)
    # "/" is "-" in the folder of Ram C/V Cargo Van.
    names = [name.replace("/", "-") for _, (name,) in matches(tables[0], (r"(.*\S)", "the name of a class"))]
    expected = "a file, four corners and a class 1-196 that names.csv has"
    wanted = (r"([^,\\/\0]+\.(?i:jpe?g|png)),\d+,\d+,\d+,\d+,(\d+)", expected)
    rows = []
    for path in tables[1:]:
        images = f"car_data/car_data/{path.stem.removeprefix('anno_')}"
        for line, (file, number) in matches(path, wanted):
            if not 1 <= int(number) <= min(196, len(names)):
                refuse(path, line, expected, number)
            name = names[int(number) - 1]
            rows.append(Row(f"{images}/{name}/{file}", int(number), name))
    return folder, _halves(rows, 98)


def _cars_mat(path: Path) -> list[Row]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(f"reading {path} needs scipy: pip install 'mdrlib[data]'") from error

    try:
        content = loadmat(path, simplify_cells=True)
        found = [(record["relative_im_path"], record["class"]) for record in content["annotations"]]
    except Exception as error:  # scipy raises many kinds for a damaged file
        expected = "a MATLAB file with annotations of relative_im_path and class"
        raise ValueError(f"{path}: expected {expected}, found {type(error).__name__}: {error}") from error
    names = list(content.get("class_names", []))
    numbers = {str(number) for number in range(1, 197)}
    rows = []
    for line, (file, number) in enumerate(found, 1):
        if not re.fullmatch(IMAGE, str(file)) or str(number) not in numbers:
            expected = "a path car_ims/<name>.jpg and a class 1-196"
            raise ValueError(f"{path}, annotation {line}: expected {expected}, found {file!r}, {number!r}")
        rows.append(Row(file, int(number), names[number - 1] if number <= len(names) else f"{number:03d}"))
    return rows


def _halves(rows: list[Row], first: int) -> Rows:
    """Return the classes up to the number `first` for training, and the rest for testing."""
    return {
        "train": [row for row in rows if row.number <= first],
        "test": [row for row in rows if row.number > first],
    }


def read_sop(folder: Path) -> tuple[Path, Rows]:
    """Read Ebay_train.txt and Ebay_test.txt. A class is named by its kind of goods and its number.

    Source: H. Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016.
    """
    paths = {split: folder / f"Ebay_{split}.txt" for split in ("train", "test")}
    require("sop", *paths.values())
    header = "image_id class_id super_class_id path"
    wanted = (rf"\d+ (\d+) \d+ ({IMAGE})", "three numbers and a path <kind>/<name>.JPG")
    rows: Rows = {}
    for split, path in paths.items():
        _, *found = matches(path, (header, f"the header {header}"), wanted)
        rows[split] = [
            Row(file, int(number), f"{kind.removesuffix('_final')}/{number}")
            for _, (number, file, kind) in found
        ]
    return folder, rows


def read_inshop(folder: Path) -> tuple[Path, Rows]:
    """Read list_eval_partition.txt, at the top or in Eval/; img is at the top or in Img/. A class is an item.

    Source: Z. Liu et al., "DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich
    Annotations", CVPR 2016.
    """
    path = folder / "Eval" / PARTITION
    if not path.is_file():
        path = folder / PARTITION
    require("inshop", path)
    header = "image_name item_id evaluation_status"
    wanted = [
        (r"(\d+)", "the number of images"),
        (header, f"the header {header}"),
        (
            rf"({IMAGE}) (id_(\d+)) (train|query|gallery)",
            "a path img/<...>.jpg, an item id_<number> and train, query or gallery",
        ),
    ]
    (_, (count,)), _, *found = matches(path, *wanted)
    if int(count) != len(found):
        refuse(path, 1, f"{len(found)}, the number of rows below", count)
    rows: Rows = {"train": [], "query": [], "gallery": []}
    for _, (file, _, item, number, split) in found:
        rows[split].append(Row(file, int(number), item))
    return folder / "Img" if (folder / "Img" / "img").is_dir() else folder, rows


def matches(path: Path, *wanted: tuple[str, str]) -> list[tuple[int, tuple[str, ...]]]:
    """Return number and groups of each line of an annotation.

    Line i has to match the i-th of `wanted`, all further lines the last: a pattern, where a space stands for
    any white space, and what it is in words.
    """
    lines = path.read_text(encoding="utf-8-sig", errors="replace").rstrip().splitlines()
    lines += [""] * (len(wanted) - 1 - len(lines))
    patterns = [(re.compile(pattern.replace(" ", r"\s+")), words) for pattern, words in wanted]
    found = []
    for number, text in enumerate(lines, 1):
        pattern, words = patterns[min(number, len(patterns)) - 1]
        match = pattern.fullmatch(text.strip())
        if match is None:
            refuse(path, number, words, text)
        found.append((number, match.groups()))
    return found


def refuse(path: Path, line: int, expected: str, found: object) -> NoReturn:
    """Raise the ValueError of a wrong line."""
    raise ValueError(f"{path}, line {line}: expected {expected}, found {found!r}")


def require(name: str, *paths: Path) -> None:
    """Raise FileNotFoundError, saying what to do, unless all files of the annotation exist."""
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        title, folder = BENCHMARKS[name].title, BENCHMARKS[name].folder
        raise FileNotFoundError(
            f"{title} is not in {paths[0].parent}: {' and '.join(missing)} missing; run `python -m "
            f"mdrlib data {name}`, or set MDR_DATA_ROOT to the folder that has {folder}"
        )


def check(benchmark: Benchmark, folder: Path, rows: Rows) -> bool:
    """Return whether the rows are the published set; False for a miniature.

    Raises:
        ValueError: A split is empty, training shares a class with another split, query and gallery differ in
            their classes, or images are missing and it is no miniature.
    """
    title = benchmark.title
    numbers = {split: {row.number for row in found} for split, found in rows.items()}
    names = {split: {row.name for row in found} for split, found in rows.items()}
    for split in rows:
        if not rows[split]:
            raise ValueError(f"{folder} has no image of the split {split} of {title}")
        for shared in (numbers["train"] & numbers[split], names["train"] & names[split]):
            if shared and split != "train":
                raise ValueError(f"{folder}: class {min(shared)} is in both train and {split} of {title}")
    if "query" in rows and numbers["query"] != numbers["gallery"]:
        odd = min(numbers["query"] ^ numbers["gallery"])
        raise ValueError(f"{folder}: class {odd} of {title} must be in both query and gallery")
    count, real = sum(map(len, rows.values())), sum(images for images, _ in benchmark.sizes.values())
    sizes = {split: (len(rows[split]), len(numbers[split])) for split in rows}
    differ = [split for split in rows if sizes[split] != benchmark.sizes[split]]
    if differ and count >= MINIATURE * real:
        split = differ[0]
        (images, classes), (wanted, of) = sizes[split], benchmark.sizes[split]
        raise ValueError(
            f"{folder} has {images} images of {classes} classes for {split} of {title}, expected {wanted} of "
            f"{of}: get the annotation again"
        )
    return not differ


def load_files(name: str, split: str, root: Path, transform: Callable[[Any], Any] | None) -> ImageFiles:
    """Read, check and return one split of a benchmark. A miniature is announced on stderr."""
    benchmark = BENCHMARKS[name]
    folder, rows = benchmark.read(root / benchmark.folder)
    whole = check(benchmark, folder, rows)
    if not whole:
        count, real = sum(map(len, rows.values())), sum(images for images, _ in benchmark.sizes.values())
        note = f"{folder} holds {count} images, a miniature of the {real} of {benchmark.title}"
        print(f"mdrlib: {note}", file=sys.stderr)
    names = {row.number: row.name for row in rows[split]}
    position = {number: label for label, number in enumerate(sorted(names))}
    labels = torch.tensor([position[row.number] for row in rows[split]])
    classes = [names[number] for number in sorted(names)]
    return ImageFiles(name, split, folder, [r.path for r in rows[split]], labels, classes, whole, transform)


BENCHMARKS = {
    "cub": Benchmark(
        title="CUB-200-2011",
        folder="CUB_200_2011",
        page="https://data.caltech.edu/records/65de6-vp158",
        sizes={"train": (5864, 100), "test": (5924, 100)},
        archives=(
            Archive(
                "CUB_200_2011.tgz",
                "97eceeb196236b17998738112f37df78",
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                last=("image_class_labels.txt", "images.txt"),
            ),
        ),
        read=read_cub,
    ),
    "cars": Benchmark(
        title="Cars-196",
        folder="Cars196",
        page="http://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        sizes={"train": (8054, 98), "test": (8131, 98)},
        archives=(
            Archive("cars_annos.mat", "b407c6086d669747186bd1d764ff9dbc"),
            Archive("car_ims.tgz", "d5c8f0aa497503f355e17dc7886c3f14", last=("car_ims",)),
        ),
        read=read_cars,
    ),
    "sop": Benchmark(
        title="Stanford Online Products",
        folder="Stanford_Online_Products",
        page="https://cvgl.stanford.edu/projects/lifted_struct/",
        sizes={"train": (59551, 11318), "test": (60502, 11316)},
        archives=(
            Archive(
                "Stanford_Online_Products.zip",
                "7f73d41a2f44250d4779881525aea32e",
                last=("Ebay_train.txt", "Ebay_test.txt"),
            ),
        ),
        read=read_sop,
    ),
    "inshop": Benchmark(
        title="In-Shop Clothes Retrieval",
        folder="Inshop",
        page="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
        sizes={"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)},
        archives=(Archive(PARTITION), Archive("img.zip", last=("img",))),
        read=read_inshop,
    ),
}
