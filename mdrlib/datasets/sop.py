"""Stanford Online Products: photographs of goods on sale."""

from pathlib import Path

from mdrlib.datasets.files import Row, is_image_path, numbered_lines, refuse, require
from mdrlib.datasets.sources import Archive

TITLE = "Stanford Online Products"
FOLDER = "Stanford_Online_Products"
PAGE = "https://cvgl.stanford.edu/projects/lifted_struct/"
HINT = (
    "Others name ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip; whether it lives was not tried."
)
SIZES = {"train": (59551, 11318), "test": (60502, 11316)}  # images and classes
HEADER = ["image_id", "class_id", "super_class_id", "path"]
ARCHIVES = (
    Archive(
        "Stanford_Online_Products.zip",
        md5="7f73d41a2f44250d4779881525aea32e",
        inside="Stanford_Online_Products",
        last=("Ebay_train.txt", "Ebay_test.txt"),
    ),
)


def read(folder: Path) -> tuple[Path, dict[str, list[Row]]]:
    """The folder of images and the rows of each split, as Ebay_train.txt and Ebay_test.txt give them.

    Source: H. Oh Song, Y. Xiang, S. Jegelka, S. Savarese, "Deep Metric Learning via Lifted Structured Feature
    Embedding", CVPR 2016. A class is named by its kind of goods and its number, such as bicycle/12.
    Raises FileNotFoundError without these files, ValueError naming file and line for anything else in them.
    """
    require(TITLE, "sop", folder, "Ebay_train.txt", "Ebay_test.txt")
    return folder, {split: _rows(folder / f"Ebay_{split}.txt") for split in SIZES}


def _rows(path: Path) -> list[Row]:
    lines = numbered_lines(path)
    if not lines or lines[0][1].split() != HEADER:
        refuse(path, 1, f"the header {' '.join(HEADER)!r}", lines[0][1] if lines else "")
    rows = []
    for line, text in lines[1:]:
        fields = text.split()
        numeric = len(fields) == 4 and all(field.isdecimal() for field in fields[:3])
        if not numeric or not is_image_path(fields[3]):
            refuse(path, line, "three numbers and a path <kind>/<name>.JPG", text)
        kind = fields[3].split("/")[0].removesuffix("_final")
        rows.append(Row(fields[3], int(fields[1]), f"{kind}/{fields[1]}"))
    return rows
