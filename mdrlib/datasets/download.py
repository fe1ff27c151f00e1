"""Download, check and unpack the archives of data sets."""

import errno
import hashlib
import http.client
import os
import re
import shutil
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

from mdrlib import checks
from mdrlib.checkpoint import temporary
from mdrlib.datasets import benchmarks, grocery
from mdrlib.datasets.benchmarks import BENCHMARKS, Archive

TIMEOUT = 20  # seconds without an answer
PIECE = 2**20  # bytes read at once
URL = "https://github.com/brendenlake/omniglot/raw/master/python/images_background_small"
OMNIGLOT = {
    split: Archive(f"images_background_small{number}.zip", sha256, f"{URL}{number}.zip")
    for split, number, sha256 in (
        ("train", 1, "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"),
        ("test", 2, "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f"),
    )
}
NAMES = (*BENCHMARKS, "omniglot")


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder of data sets: `root`, else $MDR_DATA_ROOT, else data/ here or in the clone."""
    given = root if root is not None else os.environ.get("MDR_DATA_ROOT")
    if given:
        return checks.path(given, "the data root")
    clone = Path(__file__).resolve().parents[2]
    return clone / "data" if (clone / "pyproject.toml").exists() else Path("data").absolute()


def prepare(name: str, root: str | Path | None = None) -> bool:
    """Download, check and unpack a set of NAMES, and print its state; return False if it is incomplete.

    Existing files stay, and a broken download continues. Files that you must download yourself are listed.
    """
    archives = OMNIGLOT.values() if name == "omniglot" else BENCHMARKS[name].archives
    folder, kind, words = state(name, root)
    if kind in ("absent", "incomplete"):
        folder.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            path = fetch(archive, folder)
            if path and archive.members:
                unpack(path, path.parent, rf"(?:[^/]+/){{0,2}}?({archive.members})")
        _, kind, words = state(name, root)
    print(f"{name}: {kind} ({words}) in {folder}")
    if kind in ("complete", "miniature"):
        return True
    print(f"Put the files of {BENCHMARKS[name].title} here, see data/README.md; repeat `mdrlib data {name}`:")
    for archive in archives:
        print(f"  {folder / archive.name} (md5 {archive.checksum or 'not published'})")
    return False


def check(root: str | Path | None = None) -> bool:
    """Print the state, size and path of each data set on disk; return False if one is incomplete."""
    kinds = set()
    for name in NAMES:
        folder, kind, words = state(name, root)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{name:9} {kind:10} {size / 1e6:10,.1f} MB  {folder} ({words})")
        kinds.add(kind)
    return "incomplete" not in kinds


def state(name: str, root: str | Path | None = None) -> tuple[Path, str, str]:
    """Return a set's folder, "absent", "incomplete", "miniature" or "complete", and why."""
    folder = data_root(root) / (name if name == "omniglot" else BENCHMARKS[name].folder)
    try:
        if name == "omniglot":
            for archive in OMNIGLOT.values():
                verify(folder / archive.name, archive.checksum)
            return folder, "complete", f"{len(OMNIGLOT)} archives"
        base, rows = BENCHMARKS[name].read(folder)
        kind = "complete" if benchmarks.check(BENCHMARKS[name], base, rows) else "miniature"
        paths = [base / row.path for found in rows.values() for row in found]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise ValueError(f"{len(missing):,} of {len(paths):,} images are missing, such as {missing[0]}")
        if name == "grocery" and kind == "complete":
            grocery.verify(base, rows)
        return folder, kind, f"{len(paths):,} images"
    except FileNotFoundError as error:
        return folder, "absent", f"{Path(error.filename).name} is missing"
    except (ValueError, OSError, ImportError) as error:
        return folder, "incomplete", str(error)


def fetch(archive: Archive, folder: Path) -> Path | None:
    """Return the checked path of an archive, found or downloaded; None if it is absent and has no url."""
    for path in (*folder.glob(archive.name), *folder.glob(f"*/{archive.name}")):
        if archive.checksum:
            verify(path, archive.checksum)
        return path
    if archive.url is None:
        return None
    download(archive.url, folder / archive.name, archive.checksum)
    return folder / archive.name


def download(url: str, path: Path, checksum: str | None) -> None:
    """Download `url` to `path`, which appears only when it is whole and has the md5 or sha256 `checksum`.

    A part that has arrived is kept, and the next call continues it. MDR_PROGRESS=off hides the bar.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(path)
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    quiet = os.environ.get("MDR_PROGRESS", "bar") != "bar"
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 206:  # the server sends everything again
                have = 0
            size = have + int(response.headers["Content-Length"] or 0)
            bar = tqdm.wrapattr(response, "read", size, initial=have, desc=path.name, disable=quiet)
            with open(part, "ab" if have else "wb") as file, bar as stream:
                shutil.copyfileobj(stream, file)
            if (come := part.stat().st_size) < size:
                raise OSError(f"the download broke off after {come:,} of {size:,} bytes")
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "code", None) != 416:  # 416: nothing comes after what we have
            hint = f"run it again to continue, put the file at {path}, or set MDR_DATA_ROOT"
            raise OSError(f"{url} could not be read ({error}); {hint}") from error
    try:
        if checksum:
            verify(part, checksum)
    except ValueError as error:
        part.unlink()
        raise OSError(f"{url} gave a wrong file: {error}") from error
    os.replace(part, path)


def verify(path: Path, checksum: str) -> None:
    """Raise ValueError unless the file has this md5 (32 hex digits) or sha256 (64)."""
    kind = "md5" if len(checksum) == 32 else "sha256"
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != checksum:
        raise ValueError(f"{path} is damaged: its {kind} is {found}, expected {checksum}; delete it")


def unpack(archive: Path, folder: Path, members: str = "(.+)") -> None:
    """Unpack the wanted members of a tar or zip into `folder`, where they replace files of the same names.

    The whole archive is read first, so that an error (ValueError for a damaged or unsafe archive, OSError for
    a full disk) changes nothing. `members` is a regular expression of whole names; its first group is the
    path below `folder`. Files at the top, the annotation, are moved last.
    """
    print(f"unpacking {archive}")
    staging = temporary(folder / "unpacked")
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
    staging.mkdir(parents=True)
    try:
        for name, content in _contents(archive):
            match = re.fullmatch(members, name.removeprefix("./"))
            if match is None:
                continue
            if content is None or {"", "..", "."} & {*re.split(r"[/\\]", match[1])} or ":" in match[1]:
                raise ValueError(f"{checks.shown(name)} is no plain file in the folder")
            target = staging / match[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as file:
                shutil.copyfileobj(content, file, PIECE)
        found = [path for path in staging.rglob("*") if path.is_file()]
        if not found:
            raise ValueError("it has none of the wanted files")
        for path in sorted(found, key=lambda path: -len(path.parts)):
            target = folder / path.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    except Exception as error:  # zipfile and tarfile raise many kinds
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # that of a wrong offset
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{archive} is damaged or unsafe ({why}); delete it and get it again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _contents(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield name and content of the files, None for links and devices; read and check everything."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                with file.open(info) as content:  # which compares the names at both places of the archive
                    if not info.is_dir():
                        yield info.filename, content
        return
    with tarfile.open(archive) as file:
        for info in file:
            if info.size < 0 or info.issparse():
                raise tarfile.ReadError(f"{info.name} has holes or a size below 0")
            if not info.isdir():
                yield info.name, file.extractfile(info) if info.isreg() else None
        file.fileobj.seek(file.offset)
        if file.fileobj.read(512) != bytes(512):  # tarfile takes a damaged header for the end, which is zeros
            raise tarfile.ReadError("a header is damaged")
        while file.fileobj.read(PIECE):  # what compression checks at its end
            pass
