"""Where data sets lie, and how files get there whole."""

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path
from typing import IO

from mdrlib.checkpoint import write_atomically

TIMEOUT = 20  # seconds without an answer
BLOCK = 1 << 18  # bytes read at a time


def data_root(root: str | Path | None = None) -> Path:
    """The folder of data sets: `root`, else the environment's MDR_DATA_ROOT, else data/.

    data/ is the clone's, or the working folder's where mdrlib is installed without its clone.
    """
    given = root if root is not None else os.environ.get("MDR_DATA_ROOT")
    if given:
        return Path(given).expanduser()
    clone = Path(__file__).resolve().parents[2]
    return clone / "data" if (clone / "pyproject.toml").exists() else Path("data").absolute()


def verify(path: str | Path, sha256: str) -> None:
    """Raise ValueError unless the file's sha256 is `sha256` (64 hex digits); OSError if it cannot be read."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} is damaged: its sha256 is {found}, expected {sha256}; delete it, load again"
        )


def download(url: str, path: str | Path, sha256: str) -> None:
    """Bring `url` to `path`, which appears only when whole and with the right sha256 (64 hex digits).

    Shows a progress bar unless MDR_PROGRESS is set to something else. Raises OSError when the address cannot
    be read, the disk written, or the sha256 is another; then nothing is left behind.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            write_atomically(Path(path), lambda file: _copy(response, file, url, sha256))
    except http.client.HTTPException as error:  # the one kind of failure here that is no OSError
        raise OSError(f"{url} could not be read: {error!r}") from error


def _copy(response: IO[bytes], file: IO[bytes], url: str, sha256: str) -> None:
    """Copy block by block; raise OSError at the end when what came is not what was wanted."""
    from tqdm.auto import tqdm

    digest = hashlib.sha256()
    length = response.headers.get("Content-Length")
    quiet = os.environ.get("MDR_PROGRESS", "bar") != "bar"
    with tqdm(
        total=int(length) if length else None,
        desc=url.rpartition("/")[2],
        unit="B",
        unit_scale=True,
        disable=quiet,
    ) as bar:
        while block := response.read(BLOCK):
            file.write(block)
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != sha256:
        raise OSError(
            f"{url} gave a file with sha256 {digest.hexdigest()}, expected {sha256}; try again later"
        )
