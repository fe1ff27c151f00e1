"""Files that are written whole or not at all, and checkpoints with the states of random generators."""

import contextlib
import glob
import io
import os
import pickle
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from mdrlib import checks

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


def temporary(path: Path) -> Path:
    """Return a name next to `path` for an unfinished copy, used by this process and thread alone.

    A copy that an ended process left on this machine is moved there: overwrite it, or continue it.
    """
    prefix = f".{path.name}.{socket.gethostname()}."
    own = path.with_name(f"{prefix}{os.getpid()}.{threading.get_native_id()}")
    for left in path.parent.glob(f"{glob.escape(prefix)}*"):
        process = left.name.removeprefix(prefix).partition(".")[0]
        if process.isdecimal() and not _is_alive(int(process)):
            with contextlib.suppress(OSError):  # another process was faster
                os.replace(left, own)
    return own


def _is_alive(process: int) -> bool:
    try:
        if os.name == "posix":  # elsewhere os.kill ends the process
            os.kill(process, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file with `write` so that a killed process or a full disk leaves the old or the new file."""
    path = checks.path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = temporary(path)
    try:
        with open(name, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder for this process; BlockingIOError names the process that uses it.

    The system frees the lock of a process that is killed. Without flock (on Windows) nothing is locked.
    """
    path, new = folder / ".lock", not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            used = f"{folder} is in use by process {file.read()}"
            raise BlockingIOError(f"{used}: wait for it, or choose another folder") from None
        file.truncate(0)
        print(os.getpid(), end="", file=file, flush=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if new and not any(folder.iterdir()):
                folder.rmdir()


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) to `path` atomically."""
    buffer = io.BytesIO()  # torch would turn a full disk's OSError into a RuntimeError
    torch.save(state, buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def load(path: Path) -> dict[str, Any]:
    """Load a file of `save` onto the CPU, without executing anything in it; ValueError if it is damaged."""
    try:
        return dict(read(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not a checkpoint of mdrlib ({error}); delete it") from error


def read(path: Path) -> Any:
    """Read a file of `torch.save`, as `load` does. Files of torch before 1.6 have no checksums."""
    file = io.BytesIO(checks.path(path).read_bytes())
    try:
        # torch itself does not check
        if zipfile.is_zipfile(file) and (broken := zipfile.ZipFile(file).testzip()) is not None:
            raise ValueError(f"wrong checksum of {broken}")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch advises to execute what the file holds
        raise ValueError("it holds more than tensors and plain values, or something else") from error
    except Exception as error:  # zipfile and torch raise several kinds for a damaged file
        raise ValueError(" ".join(str(error).split())[:200]) from error


def rng_state() -> dict[str, Any]:
    """Return the states of torch's generators, from which all of training draws."""
    return {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore states of `rng_state`; those of absent GPUs are ignored."""
    torch.set_rng_state(state["torch"])
    for index, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value, index)
