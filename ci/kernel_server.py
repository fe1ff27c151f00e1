"""A process that has imported the packages of notebooks, and forks a kernel at each request.

Importing torch, mdrlib and matplotlib takes seconds per kernel; a fork has them at once. The server starts
no thread before it forks, and a kernel has its own environment, folder and temporary files. Forks are safe
enough on Linux alone: elsewhere each kernel is a new interpreter.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


class Forked(psutil.Process):
    """A kernel that is not a child of this process, with the interface of a Popen for jupyter_client."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """Return None while it runs."""
        return None if self.is_running() else 0


class KernelServer:
    """Starts the server at the first request, and ends it with its kernels.

    Args:
        modules: Names of the modules to import; one that is not installed is left out.
    """

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.modules, self.server, self.lock = modules, None, threading.Lock()

    def fork(self, command: list[str], cwd: str, env: dict[str, str]) -> Forked:
        """Fork the kernel that `command` would start."""
        with self.lock:
            if self.server is None or self.server.poll() is not None:  # one that died took its kernels along
                words = [sys.executable, str(Path(__file__).resolve()), *self.modules]
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
                # What libraries read at their import, with the values that the kernels have.
                self.server = subprocess.Popen(words, env=env, start_new_session=True, **pipes)
            arguments = command[command.index("ipykernel_launcher") + 1 :]
            self.server.stdin.write(json.dumps([arguments, cwd, env]) + "\n")
            self.server.stdin.flush()
            pid = self.server.stdout.readline()
        if not pid:
            raise RuntimeError("the server of kernels has ended: too little memory?")
        return Forked(int(pid))

    def __enter__(self) -> "KernelServer":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.server is not None:
            with suppress(OSError):  # of one that died
                self.server.stdin.close()
            self.server.wait()


def serve(modules: list[str]) -> None:
    """Import the modules, then fork a kernel for each line of stdin and print its process id."""
    for name in ("ipykernel.kernelapp", "ipykernel.ipkernel", *modules):
        with suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # kernels that ended are no zombies
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            become_kernel(*json.loads(line))
        print(pid, flush=True)


def become_kernel(arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    """Be a kernel as if started in the folder `cwd` with this environment; does not return."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # the pipe to the caller is for process ids
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        tempfile.tempdir = None
        sys.path[0] = ""
        from ipykernel.kernelapp import IPKernelApp

        # It ends when its parent does.
        IPKernelApp.launch_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
    finally:
        os._exit(1)


if __name__ == "__main__":
    serve(sys.argv[1:])
