"""A folder of your own photographs: its classes, its splits, and all its problems."""

import contextlib
import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import chain
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tqdm.auto import tqdm

from mdrlib.checkpoint import write_atomically
from mdrlib.datasets.class_splits import Row, Rows
from mdrlib.datasets.images import VERSION, cache_root, digest, stamp
from mdrlib.datasets.preprocessing import optional, orientation, to_rgb

KINDS = ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .avif .heic .heif".split()
LAYOUTS = (("train", "query", "gallery"), ("train", "test"))  # folders at the top that are splits
HIDDEN = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "Thumbs.db", "desktop.ini")  # begin what systems leave
SHOWN = 20  # problems that an error lists


class Seen(NamedTuple):
    """The properties of an image file, or why it cannot be read."""

    content: str = ""  #: sha256 of its file
    kind: str = ""  #: format and mode, such as "JPEG RGB"
    width: int = 0
    height: int = 0
    turned: bool = False  #: whether its EXIF data turn or mirror it
    error: str = ""  #: why it cannot be read


class Listing(NamedTuple):
    """The files below a folder."""

    images: dict[str, list[str]]  #: folder ("" for the top) -> paths of its images
    others: Counter[str]  #: suffix -> number of files that are not images
    problems: list[str]


def read(folder: Path, class_split: int = 0) -> tuple[Rows, dict[str, str]]:
    """Return the rows of each split of a folder of photographs, and the sha256 of each file.

    A folder that holds images is a class, named by its path. The folders train and test, or train, query and
    gallery, at the top are splits. Otherwise the first half of the sorted classes (rounded down) is for
    training and the rest for testing. Hidden files, and files that are not images, are left out.

    Raises:
        ValueError: The folder cannot be used; the message lists all its problems.
    """
    listing, rows, problems = _listed(folder, class_split)
    seen = survey(folder, list(chain(*listing.images.values())))
    if problems := problems + unreadable(seen):
        raise ValueError(f"{folder} cannot be used: {listed(problems)}; see `mdrlib data check {folder}`")
    return rows, {file: about.content for file, about in seen.items()}


def splits(folder: Path) -> tuple[str, ...]:
    """Return the names of a folder's splits: those of its folders, or "train" and "test"."""
    return _layout(folder) or ("train", "test")


def _layout(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise NotADirectoryError(f"{folder} {what}: give the folder that holds a folder of images per class")
    top = {entry.name.lower() for entry in os.scandir(folder) if entry.is_dir()}
    return next((names for names in LAYOUTS if top.issuperset(names)), ())


def listed(problems: Sequence[str]) -> str:
    """Join the first SHOWN problems to one text, and say how many more there are."""
    more = f"; and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def walk(folder: Path) -> Listing:
    """List the images below a folder by the folders that hold them, as sorted paths with "/"."""
    listing, known = Listing({}, Counter(), []), set()

    def refuse(error: OSError) -> None:
        listing.problems.append(f"{error.filename}: {error.strerror}")

    for top, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(top).relative_to(folder).as_posix().removeprefix(".")
        folders[:] = sorted(name for name in folders if not name.startswith(HIDDEN))
        files = sorted(name for name in files if not name.startswith(HIDDEN))
        if os.path.realpath(top) in known:
            listing.problems.append(f"{here} is a link to a folder that is listed already: remove it")
            folders.clear()
            continue
        known.add(os.path.realpath(top))
        if not folders and not files:
            listing.problems.append(f"{here or folder} is an empty folder")
        for name in files:
            suffix = Path(name).suffix.lower()
            if suffix in KINDS:
                listing.images.setdefault(here, []).append(f"{here}/{name}".lstrip("/"))
            else:
                listing.others[suffix or "without suffix"] += 1
    return listing


def _listed(folder: Path, class_split: int) -> tuple[Listing, Rows, list[str]]:
    """Give each image its split and class; return the listing, the rows and the problems so far."""
    layout, listing = _layout(folder), walk(folder)
    problems = [*listing.problems]
    found: dict[str, list[tuple[str, str]]] = {}  # class -> split and path of each image
    for here, files in listing.images.items():
        split, _, rest = here.partition("/") if layout else ("", "", here)
        # Names are compared in composed Unicode, in which macOS may not store them.
        name = unicodedata.normalize("NFC", os.fsencode(rest).decode("utf8", "replace"))
        if layout and split.lower() not in layout:
            problems.append(
                f"{here or 'the top'} holds {len(files):,} images, in none of {', '.join(layout)}"
            )
        elif not rest:
            problems.append(f"{len(files):,} images, such as {files[0]}, are in no folder of a class")
        else:
            found.setdefault(name, []).extend((split.lower(), file) for file in files)
    rows: Rows = {split: [] for split in layout or ("train", "test")}
    for number, name in enumerate(sorted(found)):
        half = "train" if number < len(found) // 2 else "test"
        for split, path in found[name]:
            rows[split or half].append(Row(path, number, name))
    return listing, rows, problems + _useless(rows, class_split)


def _useless(rows: Rows, class_split: int) -> list[str]:
    """Return the problems that make training or testing impossible."""
    counts = {split: Counter(row.name for row in found) for split, found in rows.items()}
    trained, *others = counts.values()
    tested, tests = sum(others, Counter()), " and ".join([*counts][1:])
    classes, same = trained + tested, Counter(name.casefold() for name in trained | tested)
    problems = []
    for name in sorted(classes):
        if classes[name] == 1:
            problems.append(f"class {name} has one image: add another, or remove the class")
        if same[name.casefold()] > 1:
            problems.append(f"class {name} differs from another only by capitals: rename one")
        if name in counts.get("query", ()) and name not in counts["gallery"]:
            problems.append(f"class {name} is in query but not in gallery")
    shared = sorted(trained.keys() & tested.keys())
    if shared and not class_split:
        many = f"train and {tests} share {len(shared):,} of the classes, such as {shared[0]}"
        problems.append(f"{many}: move each to one side, or set class_split from 1 to 10")
    if (len(classes) < 4) if class_split else (min(len(trained), len(tested)) < 2):
        found = f"{len(classes)} in all, {len(trained)} for training and {len(tested)} for testing"
        problems.append(f"the classes are too few: {found}, each needs 2")
    return problems


def unreadable(seen: dict[str, Seen]) -> list[str]:
    """Return the images that cannot be read, each with the reason."""
    return [f"{file} {about.error}" for file, about in seen.items() if about.error]


def survey(folder: Path, files: Sequence[str]) -> dict[str, Seen]:
    """Read and decode images in threads; return the properties of each, and why others cannot be read.

    The properties of a file stay in the cache until its size or time changes.
    """
    kept, known = cache_root() / f"seen-{digest(str(folder.resolve()))}-v{VERSION}.json", {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # none, or damaged
        known = dict(json.loads(kept.read_text()))
    keys = {
        file: f"{stamp(folder / file)} {file}" for file in files
    }  # before they are read, and may be replaced
    new = [file for file in files if keys[file] not in known]
    quiet = os.environ.get("MDR_PROGRESS", "bar") != "bar"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = pool.map(look, (folder / file for file in new))
        bar = tqdm(looks, f"reading {folder.name}", len(new), delay=2, disable=quiet, unit=" images")
        known |= {keys[file]: about for file, about in zip(new, bar, strict=True)}
    seen = {file: Seen(*known[key]) for file, key in keys.items()}
    if new:
        good = {keys[file]: about for file, about in seen.items() if not about.error}
        with contextlib.suppress(OSError):  # costs time, not the run
            write_atomically(kept, lambda file: file.write(json.dumps(good).encode()))
    return seen


def look(path: Path) -> Seen:
    """Read one image whole; a JPEG is decoded at the smallest scale, which shows whether it was cut short."""
    pillow = optional("PIL.Image", "data")
    try:
        content = path.read_bytes()
        with pillow.open(io.BytesIO(content)) as image:
            about = f"{image.format} {image.mode}", *image.size, orientation(image) > 1
            image.draft(None, (8, 8))
            to_rgb(image)
    except pillow.UnidentifiedImageError:
        return Seen(error="cannot be read as an image (unknown or damaged format: store it as JPEG or PNG)")
    except Exception as error:  # pillow raises many kinds for a damaged file
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        return Seen(error=f"cannot be read as an image ({why or type(error).__name__})")
    return Seen(sha256(content).hexdigest(), *about)


def report(folder: Path, rows: Rows | None = None) -> bool:
    """Print the contents and the problems of a folder of photographs; return whether it can be used.

    The rows of a published set give its splits and classes; without them, the folders do, as in `read`.
    """
    listing, own, problems = _listed(folder, 0)
    seen = survey(folder, list(chain(*listing.images.values())))
    problems = (problems if rows is None else []) + unreadable(seen)
    good = [about for about in seen.values() if not about.error]
    turned = [file for file, about in seen.items() if about.turned]
    lines = [f"{folder}: {len(seen):,} images, {len(seen) - len(good):,} of them unreadable"]
    for split, found in (rows or own).items():
        each = sorted(Counter(row.number for row in found).values()) or [0]
        classes = f"{len(found):,} images, {len({row.number for row in found}):,} classes"
        lines.append(f"{split}: {classes}, {each[0]:,} to {each[-1]:,} images each")
    for side in ("width", "height") if good else ():
        pixels = sorted(getattr(about, side) for about in good)
        lines.append(f"{side}: {pixels[0]:,} to {pixels[-1]:,} pixels, median {median(pixels):,.0f}")
    lines.append(f"stored as: {_counts(Counter(about.kind for about in good))}")
    lines.append(f"left out because they are no images: {_counts(listing.others)}")
    for title, of in (("turned upright as their EXIF data say", turned), ("problems", problems)):
        lines += [f"{title}: {len(of):,}", *(f"  {text}" for text in of)]
    print("\n".join(lines).encode("utf8", "backslashreplace").decode())
    return not problems


def _counts(found: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in found.most_common()) or "none"
