"""A folder of your own photographs: its classes, its splits and everything that is wrong with it."""

import contextlib
import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tqdm.auto import tqdm

from mdrlib.checkpoint import write_atomically
from mdrlib.datasets.class_splits import Row, Rows
from mdrlib.datasets.images import VERSION, cache_root, digest
from mdrlib.datasets.preprocessing import optional, orientation, to_rgb

KINDS = ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .avif .heic .heif".split()
LAYOUTS = (("train", "query", "gallery"), ("train", "test"))  # folders at the top that are splits
# What systems and editors leave behind, and names that begin with a point.
HIDDEN = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini")
SHOWN = 20  # problems that an error lists


class Seen(NamedTuple):
    """What reading an image showed."""

    content: str = ""  #: sha256 of its file
    kind: str = ""  #: format and mode, such as "JPEG RGB"
    width: int = 0
    height: int = 0
    turned: bool = False  #: its EXIF data say to turn or mirror it
    error: str = ""  #: why it cannot be read


class Listing(NamedTuple):
    """The files below a folder."""

    images: dict[str, list[str]]  #: of each folder that holds images, "" for the top, their names
    others: Counter[str]  #: how many files that are no images, by suffix
    problems: list[str]


def read(folder: Path, class_split: int = 0) -> tuple[Rows, dict[str, str]]:
    """Return the rows of each split of a folder of photographs, and the sha256 of each file.

    A folder that holds images is a class, named by its path. The folders train and test, or train, query and
    gallery, at the top are splits. Otherwise the first half of the sorted classes (rounded down) is for
    training and the rest for testing. Hidden files, and files that are no images, are left out.

    Raises:
        ValueError: The folder cannot be used; the message lists everything that is wrong with it.
    """
    _, rows, seen, problems = examine(folder, class_split)
    if problems:
        raise ValueError(f"{folder} cannot be used: {listed(problems)}; see `mdrlib data check {folder}`")
    return rows, {file: about.content for file, about in seen.items()}


def examine(
    folder: Path, class_split: int = 0, fresh: bool = False
) -> tuple[Listing, Rows, dict[str, Seen], list[str]]:
    """Return the files, the rows, what reading the images showed, and everything that is wrong."""
    splits(folder)  # checks it
    listing = walk(folder)
    problems = [*listing.problems]
    rows = _rows(listing.images, _layout(folder), problems)
    _check(rows, class_split, problems)
    files = [f"{here}/{name}".lstrip("/") for here, found in listing.images.items() for name in found]
    seen = survey(folder, files, fresh)
    problems += [f"{file} {about.error}" for file, about in seen.items() if about.error]
    return listing, rows, seen, problems


def splits(folder: Path) -> tuple[str, ...]:
    """Return the names of a folder's splits: those of its folders, or "train" and "test"."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise NotADirectoryError(f"{folder} {what}: give the folder that holds a folder of images per class")
    return _layout(folder) or ("train", "test")


def _layout(folder: Path) -> tuple[str, ...]:
    top = {entry.name.lower() for entry in os.scandir(folder) if entry.is_dir()}
    return next((names for names in LAYOUTS if top.issuperset(names)), ())


def listed(problems: Sequence[str]) -> str:
    """Return problems as one text, the first SHOWN of them and how many more there are."""
    more = f"; and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def walk(folder: Path) -> Listing:
    """List the images below a folder by the folders that hold them, as sorted paths with "/"."""
    listing, known, waiting = Listing({}, Counter(), []), set(), [""]
    while waiting:
        here = waiting.pop()
        try:
            status = (folder / here).stat()
            entries = sorted(os.scandir(folder / here), key=lambda entry: entry.name)
        except OSError as error:
            listing.problems.append(f"{here or folder}: {error.strerror}")
            continue
        if (status.st_dev, status.st_ino) in known:
            listing.problems.append(f"{here} is a link to a folder that is listed already: remove it")
            continue
        known.add((status.st_dev, status.st_ino))
        entries = [entry for entry in entries if not entry.name.startswith((".", *HIDDEN))]
        if not entries:
            listing.problems.append(f"{here or folder} is an empty folder")
        waiting += [f"{here}/{entry.name}".lstrip("/") for entry in reversed(entries) if entry.is_dir()]
        for entry in entries:
            suffix = Path(entry.name).suffix.lower()
            if suffix in KINDS and not entry.is_dir() and (entry.is_file() or entry.is_symlink()):
                listing.images.setdefault(here, []).append(entry.name)
            elif not entry.is_dir():
                listing.others[suffix or "without suffix"] += 1
    return listing


def _rows(images: dict[str, list[str]], layout: tuple[str, ...], problems: list[str]) -> Rows:
    """Give each image its split and class."""
    found: dict[str, list[tuple[str, str]]] = {}  # class -> split and path of each image
    for here, files in images.items():
        split, _, rest = here.partition("/") if layout else ("", "", here)
        # Names are Unicode in composed form, as which macOS may not store them.
        name = unicodedata.normalize("NFC", os.fsencode(rest).decode("utf8", "replace"))
        if not rest:
            where = split or "the top"
            problems.append(f"{where} holds {len(files):,} images, such as {files[0]}, in no folder of a class")
        elif layout and split.lower() not in layout:
            problems.append(f"{here} is in none of {', '.join(layout)}")
        else:
            paths = [(split.lower(), f"{here}/{file}") for file in files]
            found.setdefault(name, []).extend(paths)
    classes = sorted(found)
    rows: Rows = {split: [] for split in layout or ("train", "test")}
    for number, name in enumerate(classes):
        half = "train" if number < len(classes) // 2 else "test"
        for split, path in found[name]:
            rows[split or half].append(Row(path, number, name))
    return rows


def _check(rows: Rows, class_split: int, problems: list[str]) -> None:
    """Add what no training or test could use to `problems`."""
    tests = list(rows)[1:]
    counts = {split: Counter(row.name for row in found) for split, found in rows.items()}
    everything = sum(counts.values(), Counter())
    classes = sorted(everything)
    if not classes:
        problems.append("it holds no images in folders of classes")
        return
    problems += [f"class {name} has one image, which has no match" for name in classes if everything[name] == 1]
    same = Counter(name.casefold() for name in classes)
    problems += [f"class {n} differs from another by capitals alone" for n in classes if same[n.casefold()] > 1]
    tested = sum((counts[split] for split in tests), Counter())
    shared = sorted(counts["train"].keys() & tested.keys())
    if shared and not class_split:
        problems.append(
            f"train shares {len(shared):,} classes with {' and '.join(tests)}, such as {shared[0]}: "
            "move each class to one side, or set class_split from 1 to 10"
        )
    if "query" in counts:
        lost = sorted(counts["query"].keys() - counts["gallery"].keys())
        problems += [f"class {name} is in query and not in gallery" for name in lost]
    if len(classes) < 4 if class_split else min(len(counts["train"]), len(tested)) < 2:
        found = f"{len(classes)} in all, {len(counts['train'])} for training and {len(tested)} for testing"
        problems.append(f"there are too few classes, {found}: each needs 2")


def survey(folder: Path, files: Sequence[str], fresh: bool = False) -> dict[str, Seen]:
    """Read and decode images by threads; say what is known of each, also of those that cannot be read.

    What was seen of a file is kept in the cache, until its size or time changes. `fresh` reads all again.
    """
    kept = cache_root() / f"seen-{digest(str(folder.resolve()))}-v{VERSION}.json"
    known: dict[str, tuple[str, Seen]] = {}
    if not fresh:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # none, or damaged
            read = json.loads(kept.read_text())
            known = {file: (state, Seen(*about)) for file, (state, *about) in read.items()}

    def state(file: str) -> str:
        try:
            status = os.stat(folder / file)
            return f"{status.st_mtime_ns}-{status.st_size}"
        except OSError:
            return "missing"

    states = {file: state(file) for file in files}  # before they are read, and may be replaced
    new = [file for file in files if file not in known or known[file][0] != states[file]]
    quiet = os.environ.get("MDR_PROGRESS", "bar") != "bar"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = pool.map(look, (folder / file for file in new))
        bar = tqdm(looks, f"reading {folder.name}", len(new), delay=2, disable=quiet, unit=" images")
        seen = dict(zip(new, bar, strict=True))
    seen = {file: seen[file] if file in seen else known[file][1] for file in files}
    if new:
        good = {file: [states[file], *about] for file, about in seen.items() if not about.error}
        with contextlib.suppress(OSError):  # costs time, not the run
            write_atomically(kept, lambda file: file.write(json.dumps(good).encode()))
    return seen


def look(path: Path) -> Seen:
    """Read one image whole; a JPEG is decoded at the smallest scale, which finds one that was cut short."""
    pillow = optional("PIL.Image", "data")
    try:
        content = path.read_bytes()
        with pillow.open(io.BytesIO(content)) as image:
            about = f"{image.format} {image.mode}", *image.size, orientation(image) > 1
            image.draft(None, (8, 8))
            to_rgb(image)
    except pillow.UnidentifiedImageError:
        return Seen(error="cannot be read as an image (unknown or damaged format; JPEG and PNG are known)")
    except Exception as error:  # pillow raises many kinds for a damaged file
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        return Seen(error=f"cannot be read as an image ({why or type(error).__name__})")
    return Seen(sha256(content).hexdigest(), *about)


def report(folder: Path) -> bool:
    """Print what a folder of photographs holds and what is wrong with it; return whether it can be used."""
    listing, rows, seen, problems = examine(folder, fresh=True)
    good = [about for about in seen.values() if not about.error]
    kinds = Counter(about.kind for about in good).most_common()
    turned = [file for file, about in seen.items() if about.turned]
    lines = [f"{folder}: {len(seen):,} images, {len(seen) - len(good):,} of them unreadable"]
    for split, found in rows.items():
        counts = Counter(row.name for row in found).values()
        each = f", {min(counts):,} to {max(counts):,} images each" if counts else ""
        lines.append(f"{split}: {len(found):,} images, {len(counts):,} classes{each}")
    for side in ("width", "height") if good else ():
        pixels = sorted(getattr(about, side) for about in good)
        lines.append(f"{side}: {pixels[0]:,} to {pixels[-1]:,} pixels, median {median(pixels):,.0f}")
    lines.append(f"stored as: {', '.join(f'{kind} {count:,}' for kind, count in kinds)}")
    lines.append(f"turned upright as their EXIF data say: {len(turned):,}")
    lines += [f"  {file}" for file in turned[:SHOWN]]
    others = ", ".join(f"{suffix} {count:,}" for suffix, count in sorted(listing.others.items()))
    lines.append(f"left out because they are no images: {others or 'none'}")
    lines.append(f"problems: {len(problems):,}")
    lines += [f"  {problem}" for problem in problems]
    print("\n".join(lines).encode("utf8", "backslashreplace").decode())
    return not problems
