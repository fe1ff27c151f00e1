"""Make .venv with all of requirements.txt and this project. Uses the standard library only.

The system's Python runs it before anything is installed. An interrupted install leaves no stamp .venv/.ready,
and the next call starts clean; a stamp of other requirements makes pip run again.
"""

from __future__ import annotations  # so that an old Python gets as far as being told so

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)
NEEDED_GB = 10  # .venv holds 6.6 GB, and pip keeps about 3 GB of downloads while it installs
AGAIN = "then call make again"
NETWORK = re.compile(
    "name resolution|NewConnectionError|ConnectTimeout|ReadTimeout|Network is unreachable|ProxyError"
    "|Max retries exceeded|Connection refused|SSLError"
)


FULL_DISK = re.compile("No space left on device|Disk quota exceeded")


class InstallError(Exception):
    """An install that cannot go on; the message is one line that says what to do."""


class NetworkError(InstallError):
    """The package index could not be reached."""


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3]), has_pip: bool | None = None) -> None:
    """Raise InstallError for a Python that is too old or cannot make an environment with pip."""
    shown = ".".join(map(str, version))
    if version < OLDEST:
        what = "is too old: install 3.11 or later (Debian: apt-get install python3.11 python3.11-venv)"
        raise InstallError(f"Python {shown} {what}, {AGAIN}.")
    if has_pip is None:
        has_pip = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    if not has_pip:
        package = f"python{version[0]}.{version[1]}-venv"
        what = f"came without venv or ensurepip: install them (Debian: apt-get install {package})"
        raise InstallError(f"Python {shown} {what}, {AGAIN}.")


def check_disk(root: Path, needed_gb: float = NEEDED_GB) -> None:
    """Raise InstallError when the disk of `root` has less than `needed_gb` free."""
    free_gb = shutil.disk_usage(root).free / 1e9
    if free_gb < needed_gb:
        what = f"needs {needed_gb:g} GB and the disk of {root} has {free_gb:.1f} GB free"
        raise InstallError(f"The install {what}: free {needed_gb - free_gb:.1f} GB, {AGAIN}.")


def stamp_of(root: Path) -> str:
    """Digest what a usable .venv was made from: requirements, packages, and its place (it cannot move)."""
    digest = hashlib.sha256(str(root).encode())
    for name in ("requirements.txt", "pyproject.toml", "book/pyproject.toml"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def install(root: Path, needed_gb: float = NEEDED_GB) -> bool:
    """Make or bring up to date root/.venv; True if there was something to do. Raises InstallError."""
    folder, stamp = root / ".venv", root / ".venv/.ready"
    wanted, before = stamp_of(root), None
    if stamp.exists() and python_of(folder).exists():
        before = stamp.read_text()
        if before == wanted:
            return False
        print("The requirements changed: installing what is new ...", flush=True)
        stamp.unlink()
    else:
        check_python()
        if folder.exists():
            print("Found an unfinished .venv: starting clean ...", flush=True)
            shutil.rmtree(folder)
        check_disk(root, needed_gb)
        print("Making .venv: 6.6 GB, most of it PyTorch; 3 to 10 minutes ...", flush=True)
        created = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True)
        if created.returncode:
            raise InstallError(explain(created.stdout + created.stderr, root))
    try:
        pip_install(folder, root, "-r", "requirements.txt")
        pip_install(folder, root, "--no-deps", "-e", ".", "-e", "./book")  # mdrlib and mdrbook
    except NetworkError:
        if before is not None:  # pip fetches all before it changes anything: what was there still works
            stamp.write_text(before)
        raise
    stamp.write_text(wanted)
    return True


def python_of(folder: Path) -> Path:
    """Return the Python of the environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def pip_install(folder: Path, root: Path, *words: str) -> None:
    """Run `pip install` in the environment, showing what is downloaded. Raises InstallError."""
    command = [str(python_of(folder)), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", *words]
    said, began = [], time.monotonic()
    pip = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        for line in pip.stdout:
            said.append(line)
            # Of pip's hundreds of lines those that tell a waiting person something: large files, and the end.
            large = re.search(r"Downloading ([^/\s]+?)-\d.*\((\d+(\.\d+)? ?[MG]B)\)", line)
            if large or line.startswith("Installing collected"):
                text = f"fetching {large[1]}, {large[2]}" if large else "unpacking, a minute or two"
                print(f"  {time.monotonic() - began:4.0f} s  {text}", flush=True)
        code = pip.wait()
    except BaseException:
        pip.terminate()
        pip.wait()
        raise
    if code:
        text = "".join(said)
        kind = NetworkError if NETWORK.search(text) and not FULL_DISK.search(text) else InstallError
        raise kind(explain(text, root))


def explain(said: str, root: Path) -> str:
    """Say in one line what to do about what pip or venv said."""
    if FULL_DISK.search(said):
        free_gb = shutil.disk_usage(root).free / 1e9
        what = f"The disk is full ({free_gb:.1f} GB free at {root}; pip uses TMPDIR too)"
        return f"{what}: free {NEEDED_GB} GB, {AGAIN}."
    if NETWORK.search(said):
        return f"pip could not reach the package index: check the network (or PIP_INDEX_URL), {AGAIN}."
    lines = said.splitlines() or ["nothing"]
    line = next((line for line in lines if "error" in line.lower()), lines[-1])
    return f"pip failed, saying: {line.strip()}. Solve that, {AGAIN}; it starts clean."


def main() -> int:
    """Install; 0 when .venv is ready."""
    try:
        if install(ROOT):
            print("Installed.", flush=True)
        return 0
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(explain(str(error), ROOT).replace("pip failed", "The install failed"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Call make again: it starts clean.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
