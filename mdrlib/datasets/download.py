"""Bring data sets to their place: download, check and unpack what they are published as."""

import hashlib
import http.client
import importlib.util
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

from tqdm.auto import tqdm

from mdrlib.datasets import benchmarks
from mdrlib.datasets.benchmarks import BENCHMARKS, Archive

TIMEOUT = 20  # seconds without an answer
BLOCK = 1 << 18  # bytes read at a time
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
        return Path(given).expanduser()
    clone = Path(__file__).resolve().parents[2]
    return clone / "data" if (clone / "pyproject.toml").exists() else Path("data").absolute()


def prepare(name: str, root: str | Path | None = None) -> bool:
    """Bring a data set to its place below the data root; return whether it is there.

    Downloads what has an address, checks and unpacks what was put there by hand, and prints what is left to
    do. It keeps what exists and continues a broken download, so it may be called again at any time.

    Args:
        name: One of NAMES.
        root: See `data_root`.

    Raises:
        OSError: An address cannot be read or the disk cannot be written.
        ValueError: An archive is damaged or unsafe.
    """
    folder, archives = _published(name, root)
    missing = []
    folder.mkdir(parents=True, exist_ok=True)
    kind, words = state(name, root)
    for archive in archives if kind in ("absent", "incomplete") else ():
        if archive.last and kind == "absent" and _find(archive.last[-1], folder):
            continue  # unpacked before: only another archive is missing
        path = fetch(archive, folder)
        if path is None:
            missing.append(archive)
        elif archive.last:
            unpack(path, path.parent if path.is_relative_to(folder) else folder, archive.last)
    kind, words = state(name, root)
    print(f"{name}: {kind}{words and ': '}{words}; in {folder}")
    if kind in ("complete", "miniature"):
        return True
    benchmark = BENCHMARKS[name]
    print(f"Fetch {benchmark.title} ({benchmark.page}) by hand; data/README.md tells more.")
    for archive in missing or archives:
        print(f"  put {archive.name} (md5 {archive.checksum or 'not published'})")
        print(f"  at  {folder / archive.name}")
    print(f"and run `python -m mdrlib data {name}` again: it checks and unpacks what is there.")
    return False


def check(root: str | Path | None = None) -> bool:
    """Print which sets are present and complete, their size and path; return False if one is incomplete."""
    digits = "no" if importlib.util.find_spec("sklearn") is None else "yes"
    rows = [
        ("set", "present", "complete", "size", "path"),
        ("glyphs", "yes", "yes", "0 MB", "(generated)"),
        ("digits", digits, digits, "0 MB", "(come with scikit-learn: pip install 'mdrlib[data]')"),
    ]
    fine = True
    for name in NAMES:
        folder, (kind, words) = _published(name, root)[0], state(name, root)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        present, complete = ("no" if kind == "absent" else "yes"), ("yes" if kind == "complete" else "no")
        remark = f" ({kind}: {words})" if words else ""
        rows.append((name, present, complete, f"{size / 1e6:,.1f} MB", f"{folder}{remark}"))
        fine = fine and kind != "incomplete"
    for name, present, complete, size, path in rows:
        print(f"{name:9} {present:8} {complete:9} {size:>12}  {path}")
    return fine


def state(name: str, root: str | Path | None = None) -> tuple[str, str]:
    """Return "absent", "incomplete", "miniature" or "complete", and why. Opens no photograph."""
    folder, archives = _published(name, root)
    try:
        if name == "omniglot":
            for archive in archives:
                verify(folder / archive.name, archive.checksum)
            return "complete", ""
        base, rows = BENCHMARKS[name].read(folder)
        whole = benchmarks.check(BENCHMARKS[name], base, rows)
    except FileNotFoundError:
        return "absent", ""
    except (ValueError, OSError, ImportError) as error:
        return "incomplete", str(error)
    paths = [base / row.path for found in rows.values() for row in found]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        return "incomplete", f"{len(missing):,} of {len(paths):,} images are missing, such as {missing[0]}"
    real = sum(images for images, _ in BENCHMARKS[name].sizes.values())
    return ("complete", "") if whole else ("miniature", f"{len(paths):,} images of {real:,}")


def fetch(archive: Archive, folder: Path) -> Path | None:
    """Return the path of an archive, found or downloaded, checked; None if it has to be fetched by hand."""
    path = _find(archive.name, folder)
    beside = folder.parent / archive.name
    if path is None and archive.checksum and beside.is_file():
        path = beside
    if path is None:
        if archive.url is None:
            return None
        path = folder / archive.name
        try:
            download(archive.url, path, archive.checksum)
        except OSError as error:
            where = f"put it at {path}, or set MDR_DATA_ROOT to the folder that has {folder.name}"
            raise OSError(f"{error}; run it again, {where}") from error
    if archive.checksum:
        verify(path, archive.checksum)
    return path


def _find(name: str, folder: Path) -> Path | None:
    """Return where `name` is, in the folder or in a folder of it."""
    return next((path for path in (*folder.glob(name), *folder.glob(f"*/{name}"))), None)


def download(url: str, path: Path, checksum: str) -> None:
    """Download `url` to `path`, which appears only when it is whole and has the md5 or sha256 `checksum`.

    What has arrived is kept in `path`.part, where the next call continues. Shows a progress bar unless
    MDR_PROGRESS is set to something other than "bar".

    Raises:
        OSError: The address cannot be read, the connection broke, the disk is full, or the checksum differs.
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
            if size - have > shutil.disk_usage(part.parent).free:
                raise OSError(f"{part.parent} has no room for {size - have:,} bytes of {url}")
            with open(part, "ab" if have else "wb") as file:
                bar = tqdm(total=size, initial=have, desc=path.name, unit="B", unit_scale=True, disable=quiet)
                while block := response.read(BLOCK):
                    bar.update(file.write(block))
                bar.close()
            come = part.stat().st_size
            if come < size:
                raise OSError(f"{url} broke off after {come:,} of {size:,} bytes; run it again to continue")
    except (urllib.error.URLError, http.client.HTTPException) as error:  # the latter is no OSError
        if getattr(error, "code", None) != 416:  # 416: nothing comes after what we have
            raise OSError(f"{url} could not be read: {str(error) or repr(error)}") from error
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


def unpack(archive: Path, folder: Path, last: tuple[str, ...]) -> None:
    """Put the entries of a tar or zip into `folder`, each in one step and those of `last` at the end.

    Everything is unpacked in a staging folder first. Entries that existed are replaced.

    Raises:
        ValueError: The archive is damaged, lacks entries of `last`, or has members that are links, devices or
            would leave the folder. Then nothing has changed.
    """
    print(f"unpacking {archive}")
    staging = folder / ".extracting"
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
    try:
        _extract(archive, staging / "new")
        top = staging / "new" / folder.name
        top = top if top.is_dir() else top.parent
        names = sorted(entry.name for entry in top.iterdir())
        if not set(last) <= set(names):
            wanted = " and ".join(last)
            raise ValueError(f"{archive} is another archive: expected {wanted} in it, found {names}")
        (staging / "old").mkdir()
        for name in [*(name for name in names if name not in last), *last]:
            if (folder / name).exists():
                os.replace(folder / name, staging / "old" / name)
            os.replace(top / name, folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for path in map(PureWindowsPath, file.namelist()):  # its rules for both kinds of slashes
                    if path.anchor or ".." in path.parts:
                        raise ValueError(f"{archive} is refused: its member {path} would leave the folder")
                file.extractall(folder)
        else:
            with tarfile.open(archive) as file:
                file.extractall(folder, filter=_files_and_folders)
    except tarfile.FilterError as error:
        raise ValueError(f"{archive} is refused: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{archive} is damaged or no archive ({error}); get it again") from error


def _files_and_folders(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Refuse links and devices, and what tarfile's data filter refuses: members that leave the folder."""
    if not member.isreg() and not member.isdir():
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, folder)


def _published(name: str, root: str | Path | None) -> tuple[Path, tuple[Archive, ...]]:
    """Return the folder of a set and its archives."""
    if name == "omniglot":
        return data_root(root) / name, tuple(OMNIGLOT.values())
    return data_root(root) / BENCHMARKS[name].folder, BENCHMARKS[name].archives
