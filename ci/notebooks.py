"""Execute one notebook with papermill in a kernel of its own, and tell what it cost or why it failed."""

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import papermill
import psutil
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

TRACEBACK_LINES = 15  # of a failing cell's traceback, counted from its end


@dataclass(frozen=True)
class Failure:
    """A notebook that failed: what its cell said, and where it is, executed up to there."""

    name: str
    text: str
    notebook: Path

    def __str__(self) -> str:
        return f"\nFAILED {self.name}\n{self.text}\nexecuted notebook: {self.notebook}"


def execute_notebook(
    source: Path | nbformat.NotebookNode,
    working: Path,
    parameters: dict[str, Any],
    cwd: Path | None = None,
    live: bool = False,
) -> nbformat.NotebookNode | str:
    """Execute `source` into the file `working`; live shows what it prints as it does.

    cwd: where the kernel starts. This process goes there meanwhile, so it is not for several threads.

    Returns the executed notebook, or what is to be told of its failure: a failing cell, a kernel that died,
    a file that is no notebook. None of these raises, so that other notebooks go on.
    """
    try:
        with TemporaryDirectory(prefix="kernel-") as private:
            # Through files only their owner can open; TCP ports are open to all users of a machine.
            ipc = {"transport": "ipc", "ip": f"{private}/ipc"} if sys.platform != "win32" else {}
            return papermill.execute_notebook(
                source,
                working,
                parameters,
                kernel_name="python3",
                language="python",
                cwd=cwd,
                progress_bar=False,
                stdout_file=sys.stdout if live else None,
                stderr_file=sys.stderr,
                config=Config({"KernelManager": ipc}),
                start_timeout=300,
                iopub_timeout=300,  # nbclient's 4 s are too few for a machine that is busy
            )
    except PapermillExecutionError as error:
        text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).strip()
        last = "\n".join(text.splitlines()[-TRACEBACK_LINES:])
        return f"{error.ename}: {error.evalue}\n{last}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Watch the memory of this process's children; the list holds their largest sum in GB."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            total = 0
            with suppress(psutil.Error):
                for child in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):
                        total += child.memory_info().rss
            peak[0] = max(peak[0], total / 1e9)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
