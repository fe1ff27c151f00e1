"""Where data sets lie, and how files get there whole and archives out of their wrapping."""

import hashlib
import http.client
import os
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from mdrlib.checkpoint import write_atomically

TIMEOUT = 20  # seconds without an answer
BLOCK = 1 << 18  # bytes read at a time
STAGING = ".extracting"  # the folder in which an archive is unpacked


@dataclass(frozen=True)
class Archive:
    """A file that a data set comes in.

    md5: 32 hex digits, None where none is published. url: where it can be had, None where only by hand.
    places: folders of the set in which it may lie. unpack: False for a file that is used as it is.
    inside: the folder in the archive whose entries belong into the set's. last: of these the ones that are
    put there last, so that the very last shows all to be there.
    """

    name: str
    md5: str | None = None
    url: str | None = None
    places: tuple[str, ...] = ("",)
    unpack: bool = True
    inside: str = ""
    last: tuple[str, ...] = ()


def data_root(root: str | Path | None = None) -> Path:
    """The folder of data sets: `root`, else the environment's MDR_DATA_ROOT, else data/.

    data/ is the clone's, or the working folder's where mdrlib is installed without its clone.
    """
    given = root if root is not None else os.environ.get("MDR_DATA_ROOT")
    if given:
        return Path(given).expanduser()
    clone = Path(__file__).resolve().parents[2]
    return clone / "data" if (clone / "pyproject.toml").exists() else Path("data").absolute()


def _kind(checksum: str) -> str:
    return "md5" if len(checksum) == 32 else "sha256"


def _digest(path: Path, checksum: str) -> str:
    """The file's digest of the kind that `checksum` is of."""
    with open(path, "rb") as file:
        return hashlib.file_digest(
            file, partial(hashlib.new, _kind(checksum), usedforsecurity=False)
        ).hexdigest()


def verify(path: str | Path, checksum: str) -> None:
    """Raise ValueError unless the file has this sha256 (64 hex digits) or md5 (32).

    Raises OSError if it cannot be read.
    """
    found = _digest(Path(path), checksum)
    if found != checksum:
        raise ValueError(
            f"{path} is damaged: its {_kind(checksum)} is {found}, expected {checksum}; delete it, load again"
        )


def download(url: str, path: str | Path, checksum: str) -> None:
    """Bring `url` to `path`, which appears only when whole and with the right sha256 (64 hex digits) or md5.

    Shows a progress bar unless MDR_PROGRESS is set to something else. Raises OSError when the address cannot
    be read, the disk written, or the checksum is another; then nothing is left behind.
    """

    def fill(file: IO[bytes]) -> None:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            digest = hashlib.new(_kind(checksum), usedforsecurity=False)
            _copy(response, file, url, digest)
        if digest.hexdigest() != checksum:
            raise OSError(_wrong(url, checksum, digest.hexdigest()))

    with _readable(url):
        write_atomically(Path(path), fill)


def download_large(url: str, path: str | Path, checksum: str) -> None:
    """As `download`, for files of gigabytes: what has come is kept beside `path`, and the next call goes on.

    It lies in `path` with .part after its name. A server that cannot go on sends all anew. A file that is
    whole and has another checksum is deleted.
    Raises OSError as `download` does, and where the connection breaks, saying how far it got.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _readable(url):
        have = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not have:  # 416: there is nothing after what we have
                raise
            error.close()
            response = None
        if response is not None:
            with response:
                goes_on = (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
                have = have if have and response.status == 206 and goes_on else 0
                length = response.headers.get("Content-Length")
                with open(part, "ab" if have else "wb") as file:
                    came = have + _copy(response, file, url, have=have)
            whole = have + int(length) if length else came
            if came < whole:
                raise OSError(f"{url} broke off after {came:,} of {whole:,} bytes; call again to go on")
    found = _digest(part, checksum)
    if found != checksum:
        part.unlink()
        if response is None:  # what we had was no beginning of the file
            return download_large(url, path, checksum)
        raise OSError(_wrong(url, checksum, found))
    os.replace(part, path)


@contextmanager
def _readable(url: str) -> Iterator[None]:
    try:
        yield
    except (urllib.error.URLError, http.client.HTTPException) as error:  # the latter is no OSError
        raise OSError(f"{url} could not be read: {str(error) or repr(error)}") from error


def _wrong(url: str, checksum: str, found: str) -> str:
    return f"{url} gave a file with {_kind(checksum)} {found}, expected {checksum}; try again later"


def _copy(response: Any, file: IO[bytes], url: str, digest: Any = None, have: int = 0) -> int:
    """Copy block by block, behind the `have` bytes that are there; return how many came."""
    length = response.headers.get("Content-Length")
    came = 0
    with _bar(url.rpartition("/")[2], have + int(length) if length else None, have, "B") as bar:
        while block := response.read(BLOCK):
            file.write(block)
            came += len(block)
            if digest is not None:
                digest.update(block)
            bar.update(len(block))
    return came


def _bar(title: str, total: int | None, initial: int, unit: str) -> Any:
    from tqdm.auto import tqdm

    quiet = os.environ.get("MDR_PROGRESS", "bar") != "bar"
    return tqdm(total=total, initial=initial, desc=title, unit=unit, unit_scale=True, disable=quiet)


def extract(archive: str | Path, folder: str | Path) -> None:
    """Unpack a tar (of any compression) or zip into `folder`, which is made for it.

    Data sets are files in folders: anything else (links, devices), and any member that would land outside
    `folder`, is refused before it is written, with a ValueError; so is an archive that is damaged.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, folder)
        else:
            _extract_tar(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{archive} is damaged or no archive ({error}); delete it, get it anew") from error


def _refuse_member(archive: Path, name: str, plain: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        raise ValueError(f"{archive} is refused: its member {name!r} would leave the folder")
    if not plain:
        raise ValueError(f"{archive} is refused: its member {name!r} is neither file nor folder")


def _extract_tar(archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise OSError(f"unpacking {archive} safely needs Python 3.11.4 or later")
    with tarfile.open(archive) as tar, _bar(archive.name, None, 0, " files") as bar:
        for member in tar:
            # The filter alone would let links through that stay inside, and turn absolute names into others.
            _refuse_member(archive, member.name, member.isreg() or member.isdir())
            tar.extract(member, folder, filter="data")
            bar.update()


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive's system has no such thing
            _refuse_member(archive, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
        with _bar(archive.name, len(members), 0, " files") as bar:
            for member in members:
                file.extract(member, folder)
                bar.update()


def unpack(path: Path, archive: Archive, folder: Path) -> None:
    """Put the content of `archive`, which lies at `path`, into `folder`, entry by entry and each in one step.

    All is unpacked in a folder beside first, which is removed whatever happens; what an interrupted process
    left there goes first. Entries that were there are replaced. Raises as `extract` does; then nothing has
    changed.
    """
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        extract(path, staging / "new")
        top = staging / "new" / archive.inside
        entries = [e for e in sorted(top.glob("*")) if e.name != "__MACOSX" and not e.name.startswith("._")]
        names = {entry.name for entry in entries}
        if not {*archive.last} <= names:
            wanted = ", ".join(f"{archive.inside}/{name}".lstrip("/") for name in archive.last)
            raise ValueError(
                f"{path} is another archive: expected it to hold {wanted}, found {sorted(names)}"
            )
        (staging / "old").mkdir()
        for entry in sorted(
            entries, key=lambda e: archive.last.index(e.name) if e.name in archive.last else -1
        ):
            if (folder / entry.name).exists():
                os.replace(folder / entry.name, staging / "old" / entry.name)
            os.replace(entry, folder / entry.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
