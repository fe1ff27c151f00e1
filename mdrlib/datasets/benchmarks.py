"""The published sets of photographs: CUB-200-2011, Cars-196, Stanford Online Products, In-Shop and Grocery.

The splits are those of zero-shot retrieval: training shares no class with any other split.
"""

import contextlib
import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mdrlib import checks
from mdrlib.datasets import grocery
from mdrlib.datasets.class_splits import Row, Rows
from mdrlib.datasets.preprocessing import optional

LONGEST = 1000  # characters of a line of an annotation
MINIATURE = 0.1  # a smaller share of a published set is a miniature, a larger one has lost images
# A path that stays in the folder and ends like an image, so was not cut short; and the folder it starts with.
IMAGE = r"(?!/|\S*\.\./)([^\s\\\0/]+)/[^\s\\\0]+\.(?i:jpe?g|png)"
PARTITION = "list_eval_partition.txt"
COMMIT = "fc80ba90f803d79d0383df52c5a4ac5de99ff6fc"
REPOSITORY = "https://github.com/marcusklasson/GroceryStoreDataset"
GROCERY = f"GroceryStoreDataset-{COMMIT}"
GROCERY_MEMBERS = r"classes\.csv|(?:train|val|test)(?:\.txt|/.+\.jpg)"
CUB = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
CUB_MEMBERS = r"images\.txt|image_class_labels\.txt|images/.+"
SOP = r"Ebay_(?:train|test)\.txt|\w+_final/.+"
CARS = r"([1-9]|[1-9]\d|1[0-8]\d|19[0-6])"  # a class


@dataclass(frozen=True)
class Archive:
    """A file that a data set is published as."""

    name: str
    checksum: str | None = None  #: md5 (32 hex digits) or sha256 (64); None if none is published
    url: str | None = None  #: None if you have to download it yourself
    members: str | None = None  #: a regular expression of the files to unpack; None to unpack none


@dataclass(frozen=True)
class Benchmark:
    """A published set of photographs."""

    title: str
    folder: str  #: its name below the data root
    sizes: dict[str, tuple[int, int]]  #: of each split, the numbers of images and classes
    archives: tuple[Archive, ...]
    read: Callable[[Path], tuple[Path, Rows]]  #: from the folder, that of the images and the rows


def read(name: str, root: Path) -> tuple[Path, Rows, dict[str, str]]:
    """Return a benchmark's folder of images, its checked rows, and the sha256 of each file that is read.

    A line on stderr says if the set is a miniature.
    """
    benchmark = BENCHMARKS[name]
    folder = root / benchmark.folder
    try:
        images, rows = benchmark.read(folder)
    except FileNotFoundError as error:
        hint = f"run `python -m mdrlib data {name}`, or set MDR_DATA_ROOT to the folder of {folder.name}"
        missing = f"{Path(error.filename).name} is missing"
        raise FileNotFoundError(f"{benchmark.title} is not in {folder}: {missing}; {hint}") from error
    if not check(benchmark, folder, rows):
        print(f"mdrlib: {folder} holds a miniature of {benchmark.title}", file=sys.stderr)
    return images, rows, grocery.contents(folder, rows) if name == "grocery" else {}


def recognized(folder: Path) -> Rows | None:
    """Return the rows of the benchmark that a folder holds, whatever its name; None if it holds none."""
    for benchmark in BENCHMARKS.values():
        with contextlib.suppress(OSError, ValueError, ImportError):
            return benchmark.read(folder)[1]
    return None


def check(benchmark: Benchmark, folder: Path, rows: Rows) -> bool:
    """Return True for the published set, False for a miniature; ValueError for others or shared classes."""
    for split, found in rows.items():
        if not found:
            raise ValueError(f"{folder} has no image of {split}: download the annotation again")
    seen = {key for row in rows["train"] for key in (row.number, row.name)}
    for split in list(rows)[1:]:
        shared = [row.name for row in rows[split] if row.number in seen or row.name in seen]
        if shared:
            raise ValueError(f"{folder}: class {shared[0]} must not be in both train and {split}")
    sizes = {split: (len(found), len({row.number for row in found})) for split, found in rows.items()}
    images, published = (sum(n for n, _ in each.values()) for each in (sizes, benchmark.sizes))
    if sizes != benchmark.sizes and images >= MINIATURE * published:
        found = f"{sizes} images and classes, expected {benchmark.sizes}"
        raise ValueError(f"{folder} has {found}: download the annotation again")
    return sizes == benchmark.sizes


def read_cub(folder: Path) -> tuple[Path, Rows]:
    """Read images.txt ("id path") and image_class_labels.txt ("id class"): classes 1-100 are for training."""
    labels, images = folder / "image_class_labels.txt", folder / "images.txt"
    wanted = (r"(\d+) ([1-9]|[1-9]\d|1\d\d|200)", "an image's id and its class 1-200")
    classes = dict(words for _, words in matches(labels, wanted))
    rows = []
    wanted = (rf"(\d+) ({IMAGE})", "an image's id and its path <class>/<name>.jpg")
    for line, (key, path, name) in matches(images, wanted):
        if key not in classes:
            refuse(images, line, f"a new id that {labels.name} has", key)
        rows.append(Row(path, int(classes.pop(key)), name))
    if classes:
        refuse(images, len(rows) + 1, f"the path of image {min(classes)} of {labels.name}", "")
    return folder / "images", _halves(rows, 100)


def read_cars(folder: Path) -> tuple[Path, Rows]:
    """Read cars_annos.mat, or else names.csv and anno_{train,test}.csv: classes 1-98 are for training."""
    mat = folder / "cars_annos.mat"
    names, *tables = (folder / name for name in ("names.csv", "anno_train.csv", "anno_test.csv"))
    if mat.is_file() or not names.is_file():
        return folder, _halves(_cars_mat(mat), 98)
    # "/" is "-" in the folder of Ram C/V Cargo Van.
    classes = [name.replace("/", "-") for _, (name,) in matches(names, (r"(.*\S)", "the name of a class"))]
    expected = "a file, four corners and a class 1-196 that names.csv has"
    wanted = (rf"([^,\\/\0]+\.(?i:jpe?g|png)),\d+,\d+,\d+,\d+,{CARS}", expected)
    rows = []  # the folders train and test are of another task: both halves have all classes
    for path in tables:
        images = f"car_data/car_data/{path.stem.removeprefix('anno_')}"
        for line, (file, number) in matches(path, wanted):
            if int(number) > len(classes):
                refuse(path, line, expected, number)
            name = classes[int(number) - 1]
            rows.append(Row(f"{images}/{name}/{file}", int(number), name))
    return folder, _halves(rows, 98)


def _cars_mat(path: Path) -> list[Row]:
    data = io.BytesIO(path.read_bytes())
    scipy = optional("scipy.io", "data")
    try:
        content = scipy.loadmat(data, simplify_cells=True)
        lines = [f"{record['relative_im_path']} {record['class']}" for record in content["annotations"]]
        names = dict(enumerate(map(str, content.get("class_names", ())), 1))
    except Exception as error:  # scipy raises many kinds for a damaged file
        expected = "a MATLAB file with annotations of relative_im_path and class"
        raise ValueError(f"{path}: expected {expected}, found {checks.shown(error)}") from error
    found = matches(path, (rf"({IMAGE}) {CARS}", "a path car_ims/<name>.jpg and a class 1-196"), lines=lines)
    return [Row(file, int(number), names.get(int(number), number.zfill(3))) for _, (file, _, number) in found]


def _halves(rows: list[Row], first: int) -> Rows:
    """Return the classes up to the number `first` for training, and the rest for testing."""
    train = [row for row in rows if row.number <= first]
    return {"train": train, "test": [row for row in rows if row.number > first]}


def read_sop(folder: Path) -> tuple[Path, Rows]:
    """Read Ebay_train.txt and Ebay_test.txt. A class is named by its kind of goods and its number."""
    header = "image_id class_id super_class_id path"
    wanted = (rf"\d+ (\d+) \d+ ({IMAGE})", "three numbers and a path <kind>/<name>.JPG")
    rows: Rows = {"train": [], "test": []}
    for split, found in rows.items():
        _, *lines = matches(folder / f"Ebay_{split}.txt", (header, f"the header {header}"), wanted)
        for _, (number, file, kind) in lines:
            found.append(Row(file, int(number), f"{kind.removesuffix('_final')}/{number}"))
    return folder, rows


def read_inshop(folder: Path) -> tuple[Path, Rows]:
    """Read list_eval_partition.txt, at the top or in Eval/; img is at the top or in Img/."""
    path = folder / "Eval" / PARTITION
    if not path.is_file():
        path = folder / PARTITION
    header = "image_name item_id evaluation_status"
    expected = "a path img/<...>.jpg, an item id_<number> and train, query or gallery"
    wanted = (rf"({IMAGE}) (id_(\d+)) (train|query|gallery)", expected)
    first = (r"(\d+)", "the number of images")
    (_, (count,)), _, *found = matches(path, first, (header, f"the header {header}"), wanted)
    if int(count) != len(found):
        refuse(path, 1, f"{len(found)}, the number of rows below", count)
    rows: Rows = {"train": [], "query": [], "gallery": []}
    for _, (file, _, item, number, split) in found:
        rows[split].append(Row(file, int(number), item))
    return folder / "Img" if (folder / "Img" / "img").is_dir() else folder, rows


def read_grocery(folder: Path) -> tuple[Path, Rows]:
    """Read classes.csv and train.txt, val.txt and test.txt ("path, fine class, coarse class").

    Coarse classes 0 to 20 are for training. Of the others, test.txt has the queries and the other lists the
    gallery: photographs of one visit to a shop are on one side.
    """
    header = "Class Name.*"
    wanted = (r"([^,]+),(\d+),([^,]+),(\d+),.*", "a class and a coarse class with their numbers")
    _, *lines = matches(folder / "classes.csv", (header, "the header Class Name (str),..."), wanted)
    names = {(fine, coarse): (name, of) for _, (name, fine, of, coarse) in lines}
    rows: Rows = {"train": [], "query": [], "gallery": []}
    expected = "a path, a class and its coarse class that classes.csv has"
    for part in ("train", "val", "test"):
        path, role = folder / f"{part}.txt", "query" if part == "test" else "gallery"
        for line, (file, _, fine, coarse) in matches(path, (rf"({IMAGE}), (\d+), (\d+)", expected)):
            if (fine, coarse) not in names:
                refuse(path, line, expected, f"{file}, {fine}, {coarse}")
            name, group = names[fine, coarse]
            row = Row(file, int(fine), name, int(coarse), group, role)
            rows["train" if int(coarse) <= 20 else role].append(row)
    return folder, rows


def matches(
    path: Path, *wanted: tuple[str, str], lines: list[str] | None = None
) -> list[tuple[int, tuple[str, ...]]]:
    r"""Return number and groups of each line: line i must match entry i of `wanted`, others its last.

    Each entry of `wanted` is a pattern and its description in words. In a pattern, a space stands for any
    white space, and \d+ for a number of at most nine digits.
    """
    if lines is None:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").rstrip().splitlines()
    lines += [""] * (len(wanted) - 1 - len(lines))
    found = []
    for number, text in enumerate(lines, 1):
        pattern, words = wanted[min(number, len(wanted)) - 1]
        pattern = pattern.replace(" ", r"\s+").replace(r"\d+", r"\d{1,9}")
        match = re.fullmatch(pattern, text.strip()) if len(text) <= LONGEST else None
        if match is None:
            refuse(path, number, words, text)
        found.append((number, match.groups()))
    return found


def refuse(path: Path, line: int, expected: str, found: str) -> NoReturn:
    """Raise the ValueError of a wrong line."""
    raise ValueError(f"{path}, line {line}: expected {expected}, found {checks.shown(found)}")


BENCHMARKS = {
    "cub": Benchmark(
        title="CUB-200-2011",
        folder="CUB_200_2011",
        sizes={"train": (5864, 100), "test": (5924, 100)},
        archives=(Archive("CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78", CUB, CUB_MEMBERS),),
        read=read_cub,
    ),
    "cars": Benchmark(
        title="Cars-196",
        folder="Cars196",
        sizes={"train": (8054, 98), "test": (8131, 98)},
        archives=(
            Archive("cars_annos.mat", "b407c6086d669747186bd1d764ff9dbc"),
            Archive("car_ims.tgz", "d5c8f0aa497503f355e17dc7886c3f14", members="car_ims/.+"),
        ),
        read=read_cars,
    ),
    "sop": Benchmark(
        title="Stanford Online Products",
        folder="Stanford_Online_Products",
        sizes={"train": (59551, 11318), "test": (60502, 11316)},
        archives=(Archive("Stanford_Online_Products.zip", "7f73d41a2f44250d4779881525aea32e", members=SOP),),
        read=read_sop,
    ),
    "inshop": Benchmark(
        title="In-Shop Clothes Retrieval",
        folder="Inshop",
        sizes={"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)},
        archives=(Archive(PARTITION), Archive("img.zip", members="img/.+")),
        read=read_inshop,
    ),
    "grocery": Benchmark(
        title="the Grocery Store Dataset",
        folder="grocery",
        sizes={"train": (3237, 44), "query": (985, 37), "gallery": (1199, 37)},
        archives=(Archive(f"{GROCERY}.zip", None, f"{REPOSITORY}/archive/{COMMIT}.zip", GROCERY_MEMBERS),),
        read=read_grocery,
    ),
}
