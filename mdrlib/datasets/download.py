"""Bring data sets to their place: download, check and unpack what they are published as."""

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.request
import zipfile
import zlib
from pathlib import Path

from tqdm.auto import tqdm

from mdrlib import checks
from mdrlib.datasets import benchmarks
from mdrlib.datasets.benchmarks import BENCHMARKS, Archive

TIMEOUT = 20  # seconds without an answer
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
    """Download, check and unpack a set of NAMES; return whether it is complete or a miniature.

    Keeps what exists, continues a broken download, and prints what has to be fetched by hand.
    """
    folder, kind, words = state(name, root)
    folder.mkdir(parents=True, exist_ok=True)
    if kind in ("absent", "incomplete"):
        for archive in OMNIGLOT.values() if name == "omniglot" else BENCHMARKS[name].archives:
            path = fetch(archive, folder)
            if path and name in BENCHMARKS and path.suffix in (".tgz", ".zip"):
                unpack(path, path.parent)
        _, kind, words = state(name, root)
    print(f"{name}: {kind} ({words}) in {folder}")
    if kind in ("complete", "miniature"):
        return True
    print(f"Put the files of {BENCHMARKS[name].title} here, see data/README.md; repeat `mdrlib data {name}`:")
    for archive in BENCHMARKS[name].archives:
        print(f"  {folder / archive.name} (md5 {archive.checksum or 'not published'})")
    return False


def check(root: str | Path | None = None) -> bool:
    """Print the state, size and path of each data set on disk; return False if one is incomplete."""
    fine = True
    for name in NAMES:
        folder, kind, words = state(name, root)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{name:9} {kind:10} {size / 1e6:10,.1f} MB  {folder} ({words})")
        fine = fine and kind != "incomplete"
    return fine


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
        return folder, kind, f"{len(paths):,} images"
    except FileNotFoundError as error:
        return folder, "absent", f"{Path(error.filename).name} is missing"
    except (ValueError, OSError, ImportError) as error:
        return folder, "incomplete", str(error)


def fetch(archive: Archive, folder: Path) -> Path | None:
    """Return the checked path of an archive, found or downloaded; None if it has to be fetched by hand."""
    for path in (*folder.glob(archive.name), *folder.glob(f"*/{archive.name}")):
        if archive.checksum:
            verify(path, archive.checksum)
        return path
    if archive.url is None:
        return None
    download(archive.url, folder / archive.name, archive.checksum)
    return folder / archive.name


def download(url: str, path: Path, checksum: str) -> None:
    """Download `url` to `path`, which appears only when it is whole and has the md5 or sha256 `checksum`.

    What has arrived is kept in `path`.part, where the next call continues. MDR_PROGRESS=off hides the bar.
    """
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
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
                raise OSError(f"it broke off after {come:,} of {size:,} bytes")
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "code", None) != 416:  # 416: nothing comes after what we have
            hint = f"run it again to continue, put the file at {path}, or set MDR_DATA_ROOT"
            raise OSError(f"{url} could not be read ({error}); {hint}") from error
    try:
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


def unpack(archive: Path, folder: Path) -> None:
    """Put the entries of a tar or zip, or of the folder in it that is named as `folder`, into `folder`.

    Each entry replaces an older one, folders before files: the annotation comes last. A damaged archive, or
    one with links, devices or members that leave the folder, is a ValueError and changes nothing.
    """
    print(f"unpacking {archive}")
    staging = folder / ".extracting"
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                file.extractall(staging)  # ignores drives, leading slashes and ".."
        else:
            with tarfile.open(archive) as file:
                file.extractall(staging, filter=_files_and_folders)
        top = staging / folder.name
        for entry in sorted((top if top.is_dir() else staging).iterdir(), key=Path.is_file):
            if (folder / entry.name).is_dir():
                shutil.rmtree(folder / entry.name)
            os.replace(entry, folder / entry.name)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{archive} is damaged or unsafe ({error}); get it again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _files_and_folders(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Refuse links and devices, and what tarfile's data filter refuses: members that leave the folder."""
    if not member.isreg() and not member.isdir():
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, folder)
