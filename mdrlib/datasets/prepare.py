"""What `python -m mdrlib data` does: bring a data set to its place, and say which are there."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mdrlib.datasets import files, omniglot
from mdrlib.datasets.catalog import ON_DISK
from mdrlib.datasets.sources import Archive, data_root, download_large, unpack, verify

NAMES = ("cub", "cars", "sop", "inshop", "omniglot")


class State(NamedTuple):
    """How much of a set is there ("absent", "incomplete", "miniature", "complete"), the rest in words."""

    kind: str
    words: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}" if self.words else self.kind


def prepare(name: str, root: str | Path | None = None) -> bool:
    """Bring the data set `name` (see NAMES) to its place below the data root; True when it is there.

    Downloads what can be, checks and unpacks what was put there by hand, and prints what is left to do.
    May be called again at any time: what is there is kept, a broken download goes on.
    Raises OSError when an address cannot be read or the disk written, or another process is at it; ValueError
    for an archive that is damaged or unsafe.
    """
    if name == "omniglot":
        folder = data_root(root) / "omniglot"
        omniglot.find(folder)
        print(f"omniglot: complete; in {folder}")
        return True
    module = ON_DISK[name]
    folder = data_root(root) / module.FOLDER
    found = state(name, root)
    if found.kind in ("absent", "incomplete"):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            damaged = found.kind == "incomplete"
            missing = [archive for archive in module.ARCHIVES if not _bring(archive, folder, damaged)]
        found = state(name, root)
    print(f"{name}: {found}; in {folder}")
    if found.kind in ("complete", "miniature"):
        return True
    _instruct(name, folder, missing)
    return False


def _bring(archive: Archive, folder: Path, damaged: bool) -> bool:
    """Find or download, check and unpack one archive; False when a person has to get it.

    damaged: whether the set lacks something, so that it is unpacked again although it was before.
    """
    places = [folder / place for place in archive.places]
    # Beside the set, a name such as img.zip may be anything's: only a checksum tells.
    looked = [*places, folder.parent] if archive.md5 is not None else places
    path = next((place / archive.name for place in looked if (place / archive.name).is_file()), None)
    if archive.unpack and not damaged and any((p / archive.last[-1]).exists() for p in places):
        return True
    if path is None and archive.url is not None and archive.md5 is not None:
        path = folder / archive.name
        print(f"downloading {archive.url}")
        try:
            download_large(archive.url, path, archive.md5)
        except OSError as error:
            raise OSError(f"{error}; or put {archive.name} at {path} by hand, and call again") from error
    if path is None:
        return False
    if archive.md5 is not None:
        verify(path, archive.md5)
    if archive.unpack:
        print(f"unpacking {path}")
        unpack(path, archive, path.parent if path.parent in places else folder)
    return True


def _instruct(name: str, folder: Path, missing: list[Archive]) -> None:
    module = ON_DISK[name]
    print(f"{module.TITLE} ({module.PAGE}) has to be fetched by hand. {module.HINT}".strip())
    for archive in missing or module.ARCHIVES:
        print(f"  put {archive.name} (md5 {archive.md5 or 'not published'})")
        print(f"  at  {folder / archive.name}")
    print(f"and call `python -m mdrlib data {name}` again: it checks and unpacks what is there.")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process out of `folder`, where system and disk can; the lock ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OSError(f"another `python -m mdrlib data` is at work in {folder}; wait for it") from error
    except OSError:  # some network disks have no locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def state(name: str, root: str | Path | None = None) -> State:
    """How much of the data set `name` is there, every file of it looked for, but no photograph opened."""
    folder = _folder(name, root)
    if name == "omniglot":
        return _omniglot(folder)
    module = ON_DISK[name]
    try:
        base, rows = module.read(folder)
        whole = files.check(module.TITLE, base, rows, module.SIZES)
    except FileNotFoundError:
        return State("absent", "")
    except (ValueError, OSError, ImportError) as error:
        return State("incomplete", str(error))
    listed = [row for found in rows.values() for row in found]
    missing = files.missing_images(base, listed)
    if missing:
        lost = f"{len(missing):,} of {len(listed):,} images are missing, such as {missing[0]}"
        return State("incomplete", lost)
    real = sum(images for images, _ in module.SIZES.values())
    return State("complete", "") if whole else State("miniature", f"{len(listed):,} images of {real:,}")


def _folder(name: str, root: str | Path | None) -> Path:
    return data_root(root) / (ON_DISK[name].FOLDER if name in ON_DISK else name)


def _omniglot(folder: Path) -> State:
    there = [(folder / file, sha256) for file, sha256 in omniglot.FILES.values() if (folder / file).is_file()]
    if len(there) < len(omniglot.FILES):
        return State("incomplete", "an archive is missing") if there else State("absent", "")
    try:
        for path, sha256 in there:
            verify(path, sha256)
    except (ValueError, OSError) as error:
        return State("incomplete", str(error))
    return State("complete", "")


def check(root: str | Path | None = None) -> bool:
    """Print all sets: whether present, whether complete, size and path. False if one is incomplete."""
    rows = [("set", "present", "complete", "size", "path")]
    rows += [("glyphs", "yes", "yes", "0 MB", "(drawn when asked for)"), _digits()]
    fine = True
    for name in NAMES:
        found, folder = state(name, root), _folder(name, root)
        size = f"{_size(folder) / 1e6:,.1f} MB" if folder.is_dir() else "0 MB"
        remark = f" ({found})" if found.kind in ("incomplete", "miniature") else ""
        present, whole = found.kind != "absent", found.kind == "complete"
        rows.append((name, _yes(present), _yes(whole), size, f"{folder}{remark}"))
        fine = fine and found.kind != "incomplete"
    for name, present, whole, size, path in rows:
        print(f"{name:9} {present:8} {whole:9} {size:>12}  {path}")
    return fine


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _digits() -> tuple[str, str, str, str, str]:
    there = _yes(importlib.util.find_spec("sklearn") is not None)
    return ("digits", there, there, "0 MB", "(come with scikit-learn: pip install mdrlib[data])")


def _size(folder: Any) -> int:
    """Bytes of all files below the folder."""
    with os.scandir(folder) as entries:
        return sum(
            _size(entry) if entry.is_dir(follow_symlinks=False) else entry.stat(follow_symlinks=False).st_size
            for entry in entries
        )
