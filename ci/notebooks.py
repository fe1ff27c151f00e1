"""Execute notebooks with papermill, several at a time, each in its own kernel."""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import papermill
import psutil
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

TRACEBACK_LINES = 15  # of a failing cell's traceback, counted from its end
LONGEST = 80  # bytes: sockets have longer paths than their folder, and systems allow 104 to 108
PROGRESS = r"iteration \d+/\d+"  # what a run says while it trains
# glibc's malloc keeps freed memory. A training step frees and allocates the same tens of megabytes many
# times, and each time the system would fill new pages with zeros. Huge pages, where the system lends them,
# made a step of fine-tuning another 1.5 times as fast on a virtual machine.
KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
# By these a person's settings would change what a notebook does.
PERSONAL = ("PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONSAFEPATH", "PYTHONSTARTUP")
# ipykernel sets this too late for a kernel that was forked with matplotlib in it: its figures would be lost.
INLINE = "module://matplotlib_inline.backend_inline"
# A kernel runs this before its first cell. Jupyter alone would let these pass: a command that fails, exit(),
# which leaves out the cells that follow, and a thread that dies.
WATCH = """
def watch():
    import json
    import os
    import threading

    shell, before, cells = get_ipython(), threading.excepthook, [""]

    def exit_is_no_end():
        raise RuntimeError("exit() would leave out the cells that follow")

    def note(died):
        before(died)
        if died.exc_type is not SystemExit:
            said = f"{died.thread.name} died: {died.exc_type.__name__}: {died.exc_value}"
            with open(os.environ["MDR_DEAD_THREADS"], "a") as file:
                file.write(json.dumps([cells[-1], said]) + "\\n")

    shell.system_raise_on_error, shell.ask_exit, threading.excepthook = True, exit_is_no_end, note
    shell.events.register("pre_run_cell", lambda info: cells.append(info.raw_cell))

watch()
del watch
"""


@dataclass(frozen=True)
class Failure:
    """A notebook that failed: what its cell said, and where it is, executed up to there."""

    name: str
    text: str
    notebook: Path

    def __str__(self) -> str:
        where = f"\nexecuted notebook: {self.notebook}" if self.notebook.exists() else ""
        return f"\nFAILED {self.name}\n{self.text}{where}"


@dataclass(frozen=True)
class Execution:
    """The outcome of a notebook: the executed notebook, or the text of its failure; and its cost."""

    notebook: nbformat.NotebookNode | None
    failure: str | None
    seconds: float
    peak_memory_gb: float

    def __str__(self) -> str:
        ended = "FAILED after" if self.failure else "done in"
        return f"{ended} {self.seconds:.0f} s, peak memory {self.peak_memory_gb:.1f} GB"


def kernel_with(
    variables: Mapping[str, str], fork: Callable | None, processes: list[psutil.Process]
) -> type[AsyncKernelManager]:
    """Return kernels of this very interpreter, whatever is installed; their processes join the list.

    The class is made here, because one of traitlets does not travel to the workers of a cluster; for the same
    reason its body names nothing of this module.
    """
    env = {name: value for name, value in os.environ.items() if name not in PERSONAL} | variables
    described = get_kernel_dict()
    described["metadata"]["kernel_provisioner"] = {"provisioner_name": "local-provisioner"}  # no other's

    class Kernel(AsyncKernelManager):
        @property
        def kernel_spec(self):
            return KernelSpec(resource_dir=RESOURCES, **described)

        async def start_kernel(self, **words):
            await super().start_kernel(env=env, **words)

        async def _async_launch_kernel(self, kernel_cmd, **words):
            if fork is None:
                await super()._async_launch_kernel(kernel_cmd, **words)
            else:
                its = self.provisioner
                its.process = fork(kernel_cmd, words["cwd"], words["env"])
                its.pid = its.pgid = its.process.pid
                self._reconcile_connection_info(its.connection_info)
            processes.append(psutil.Process(self.provisioner.pid))

    return Kernel


class Lines:
    """A file that prints what is written to it: the whole lines that match a pattern, each after a name."""

    def __init__(self, name: str, pattern: str = r"\S") -> None:
        self.name, self.pattern, self.rest = name, pattern, ""

    def write(self, text: str) -> None:
        """Print the lines that the text completes."""
        *lines, self.rest = (self.rest + text).split("\n")
        shown = [f"  {self.name}: {line}\n" for line in lines if re.search(self.pattern, line)]
        print("".join(shown), end="", flush=True)

    def flush(self) -> None:
        """Do nothing: what is left is no whole line."""


def execute_notebook(
    source: Path | nbformat.NotebookNode,
    working: Path,
    parameters: dict[str, Any],
    cwd: Path | None = None,
    name: str | None = None,
    variables: dict[str, str] | None = None,
    fork: Callable | None = None,
) -> Execution:
    """Execute `source` into the file `working`.

    A failing cell, a kernel that died and a file that is no notebook do not raise, so that others go on.

    Args:
        source: The notebook or its file.
        working: Where it is written, executed as far as it got.
        parameters: What papermill sets in the notebook.
        cwd: Folder that the kernel starts in; by default that of this process.
        name: Precedes the lines of progress and of stderr, which are shown at once; None: stderr alone.
        variables: Environment variables of the kernel, over those of this process.
        fork: `KernelServer.fork`; None starts a new interpreter.
    """
    began, made, failure = time.monotonic(), None, None
    processes = []
    with peak_memory(processes) as peak, ExitStack() as stack:
        try:
            private, sockets = private_folders(stack)
            dead = private / "dead-threads"
            dead.touch()
            own = {"TMPDIR": f"{private}/tmp", "IPYTHONDIR": f"{private}/ipython"}
            own |= {"MDR_DEAD_THREADS": str(dead), "MPLBACKEND": INLINE} | (variables or {})
            # Through files only their owner can open; TCP ports are open to all users of a machine.
            settings = {"transport": "ipc", "ip": f"{sockets}/ipc"}
            settings["connection_file"] = f"{private}/kernel.json"
            made = papermill.execute_notebook(
                source,
                working,
                parameters,
                kernel_name="python3",
                language="python",
                resources={"metadata": {"path": str(cwd or Path.cwd())}},
                progress_bar=False,
                stdout_file=Lines(name, PROGRESS) if name else None,
                stderr_file=Lines(name) if name else sys.stderr,
                kernel_manager_class=kernel_with(own, fork, processes),
                config=Config({"KernelManager": settings}),
                shutdown_kernel="immediate",
                start_timeout=300,
                iopub_timeout=300,  # nbclient's 4 s are too few for a machine that is busy
            )
            failure = passed_over(made, dead)
        except PapermillExecutionError as error:
            text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).strip()
            last = "\n".join(text.splitlines()[-TRACEBACK_LINES:])
            failure = f"{named(error.exec_count, error.source)}: {error.ename}: {error.evalue}\n{last}"
        except DeadKernelError:
            why = "DeadKernelError: the kernel ended (os._exit, a crash, or too little memory)"
            failure = f"{begun_last(working)}: {why}"
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
    return Execution(made, failure, time.monotonic() - began, peak[0])


def private_folders(stack: ExitStack) -> tuple[Path, Path]:
    """Make the folders of a kernel, deleted with the stack: for its files, and for its sockets.

    The first has `tmp` for temporary files, and `ipython` with WATCH in place of a person's settings.
    """

    def folder(where: str | None) -> Path:
        made = TemporaryDirectory(prefix="kernel-", dir=where, ignore_cleanup_errors=True)
        return Path(stack.enter_context(made))

    private = folder(None)
    (private / "tmp").mkdir()
    start = private / "ipython/profile_default/startup/watch.py"
    start.parent.mkdir(parents=True)
    start.write_text(WATCH)
    return private, private if len(os.fsencode(private)) <= LONGEST else folder("/tmp")


def named(number: int | None, source: str) -> str:
    """Name a code cell by its number in the order of execution and its first line."""
    return f"code cell {number}, `{source.strip().splitlines()[0][:60]}`"


def to_run(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """List the code cells that there is something to run of."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def passed_over(notebook: nbformat.NotebookNode, dead: Path) -> str | None:
    """Say what failed in a notebook that papermill takes for executed: SystemExit, or threads that died.

    Args:
        notebook: As executed.
        dead: The file of WATCH: a line of JSON for each thread, the source of the cell that ran, and its end.
    """
    cells = to_run(notebook)
    for cell in cells:
        for output in cell.outputs:
            if output.output_type == "error":
                return f"{named(cell.execution_count, cell.source)}: {output.ename} ended the notebook"
    for line in dead.read_text().splitlines():
        source, text = json.loads(line)
        number = next((cell.execution_count for cell in cells if cell.source == source), None)
        return f"{named(number, source)}: {text}"
    return next((f"`{cell.source[:60]}`: did not run" for cell in cells if not cell.execution_count), None)


def begun_last(working: Path) -> str:
    """Name the code cell that a kernel died in, by what papermill has written so far."""
    if not working.exists():
        return "before the first code cell"
    cells = to_run(nbformat.read(working, as_version=4))
    begun = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    return named(len(begun), begun[-1].source) if begun else "before the first code cell"


@contextmanager
def peak_memory(processes: list[psutil.Process]) -> Iterator[list[float]]:
    """Watch the memory of processes and of those that they start; the list holds its largest, in GB."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            memory = 0
            for process in list(processes):
                with suppress(psutil.Error):
                    memory += process.memory_info().rss
                    for child in process.children(recursive=True):
                        with suppress(psutil.Error):
                            memory += child.memory_info().rss
            peak[0] = max(peak[0], memory / 1e9)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Provide threads that execute a notebook each. Left by an exception, such as Ctrl-C, all kernels end."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        # Again and again: a thread may be about to start a kernel.
        while any(thread.is_alive() for thread in pool._threads):
            end_kernels()
            time.sleep(0.1)
        raise
    pool.shutdown()


def end_kernels() -> None:
    """Kill the kernels that this process started, its kernel servers, and all that these started."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            command = " ".join(child.cmdline())
            if "ipykernel_launcher" in command or "kernel_server" in command:
                for process in [*child.children(recursive=True), child]:
                    with suppress(psutil.Error):
                        process.kill()
