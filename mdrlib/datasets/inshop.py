"""In-Shop Clothes Retrieval, of DeepFashion: photographs of clothes in a shop's catalogue."""

from pathlib import Path

from mdrlib.datasets.files import Row, is_image_path, numbered_lines, refuse, require
from mdrlib.datasets.sources import Archive

TITLE = "In-Shop Clothes Retrieval"
FOLDER = "Inshop"
PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html"
HINT = "Its authors give it by hand: folders Eval and Img of the benchmark. They publish no checksum."
SIZES = {"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)}  # images and classes
HEADER = ["image_name", "item_id", "evaluation_status"]
PARTITION = "list_eval_partition.txt"
ARCHIVES = (  # no checksum of them is published
    Archive(PARTITION, places=("", "Eval"), unpack=False),
    Archive("img.zip", places=("", "Img"), last=("img",)),
)


def read(folder: Path) -> tuple[Path, dict[str, list[Row]]]:
    """The folder of images and the rows of each split, "train", "query" and "gallery".

    Source: Z. Liu, P. Luo, S. Qiu, X. Wang, X. Tang, "DeepFashion: Powering Robust Clothes Recognition and
    Retrieval with Rich Annotations", CVPR 2016. A class is an item.
    The partition and the folder img lie at the top, or under Eval/ and Img/.
    Raises FileNotFoundError without the partition, ValueError naming its line for anything else in it.
    """
    path = next((p for p in (folder / PARTITION, folder / "Eval" / PARTITION) if p.is_file()), None)
    if path is None:
        require(TITLE, "inshop", folder, PARTITION)
    base = folder / "Img" if (folder / "Img" / "img").is_dir() else folder
    return base, _rows(path)


def _rows(path: Path) -> dict[str, list[Row]]:
    lines = numbered_lines(path)
    texts = [text for _, text in lines] + ["", ""]
    if not texts[0].strip().isdecimal():
        refuse(path, 1, "the number of images", texts[0])
    if texts[1].split() != HEADER:
        refuse(path, 2, f"the header {' '.join(HEADER)!r}", texts[1])
    count = int(texts[0])
    if len(lines) - 2 != count:
        end = min(len(lines) + 1, count + 3)
        refuse(path, end, f"{count} rows, as line 1 says", f"{len(lines) - 2} rows")
    rows: dict[str, list[Row]] = {split: [] for split in SIZES}
    for line, text in lines[2:]:
        fields = text.split()
        item = fields[1].removeprefix("id_") if len(fields) == 3 else ""
        if not item.isdecimal() or not is_image_path(fields[0]) or fields[2] not in rows:
            refuse(path, line, "a path img/<...>.jpg, an item id_<number> and train, query or gallery", text)
        rows[fields[2]].append(Row(fields[0], int(item), fields[1]))
    return rows
