"""Kernels of ci/notebooks.py on tiny notebooks: what reaches them, and which cells fail a notebook."""

import json
import os
import sys
from pathlib import Path

import pytest

import execute
import notebooks
import sweep
from kernel_server import KernelServer
from tests.ci.houses import save

OWN = """
import os, sys, tempfile
open("neighbour.py", "w").close()
import neighbour
print(sys.executable, os.getcwd(), os.environ["OWN"], tempfile.mkdtemp(), neighbour.__file__)
"""


@pytest.mark.parametrize("forked", [False, True])
def test_a_kernel_is_of_this_interpreter_whatever_is_installed(tmp_path, monkeypatch, forked):
    spec = tmp_path / "kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "another", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    save(tmp_path / "own.ipynb", OWN)
    with KernelServer(("json",)) as server:
        words = {"cwd": tmp_path, "variables": {"OWN": "1"}, "fork": server.fork if forked else None}
        made = notebooks.execute_notebook(tmp_path / "own.ipynb", tmp_path / "out.ipynb", {}, **words)
    executable, folder, own, temporary, imported = made.notebook.cells[-1].outputs[0].text.split()
    assert (executable, folder, own) == (sys.executable, str(tmp_path), "1")
    assert not Path(temporary).exists(), "what a kernel leaves among the temporary files goes with it"
    assert imported == str(tmp_path / "neighbour.py")


DIES = "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='the thread')\nt.start()\nt.join()"
ENDS = {  # a cell that fails, and what is said of it; the cell before it is the first
    "exit()": "RuntimeError: exit() would leave out the cells that follow",
    "quit": "RuntimeError: exit() would leave out the cells that follow",
    "import sys\nsys.exit(0)": "SystemExit ended the notebook",
    "raise SystemExit": "SystemExit ended the notebook",
    "!false": "CalledProcessError: Command 'false' returned non-zero exit status 1.",
    "found = !false": "CalledProcessError: Command 'false' returned non-zero exit status 1.",
    DIES: "the thread died: ZeroDivisionError: division by zero",
    "import os\nos._exit(0)": "DeadKernelError: the kernel ended",
    "import os\nos.kill(os.getpid(), 9)": "DeadKernelError: the kernel ended",
}


@pytest.mark.parametrize("first", [0, 1], ids=["some", "others"])
def test_a_cell_that_ends_the_notebook_or_fails_quietly_fails_it_by_name(tmp_path, first):
    """In the middle and at the end, in a new interpreter and in a fork."""
    with KernelServer(("json",)) as server:
        for number, (cell, said) in list(enumerate(ENDS.items()))[first::2]:
            save(tmp_path / "ends.ipynb", cell, *["more = 1"][number % 3 :])
            words = {"cwd": tmp_path, "fork": server.fork if number > 1 else None}
            made = notebooks.execute_notebook(tmp_path / "ends.ipynb", tmp_path / "out.ipynb", {}, **words)
            assert made.failure.startswith(f"code cell 1, `{cell.splitlines()[0]}`: {said}"), made.failure


def test_what_is_no_failure_passes(tmp_path):
    """Among these are a thread that ends itself, and cells with nothing to run."""
    fine = ["# a comment", "  ", "!true", "x = !echo y\nassert x == ['y']", "import threading, sys"]
    thread = "t = threading.Thread(target=sys.exit)\nt.start()\nt.join()"
    save(tmp_path / "fine.ipynb", *fine, thread, parameters="x = 1")
    made = notebooks.execute_notebook(tmp_path / "fine.ipynb", tmp_path / "out.ipynb", {"x": 2}, tmp_path)
    assert made.failure is None


SETTINGS = """
import os, sys, matplotlib.pyplot as plt
assert False not in (True,), "asserts are on"
print(*[name for name in ("started", "startup", "configured") if name in globals()], __debug__)
plt.figure(figsize=(1, 1)).add_subplot();
"""


@pytest.mark.parametrize("forked", [False, True])
def test_a_persons_settings_do_not_reach_a_notebook(tmp_path, monkeypatch, forked):
    """Their start files, an option of Python that drops asserts, and a backend that shows no figure."""
    (tmp_path / "started.py").write_text("started = 1")
    startup = tmp_path / "ipython/profile_default/startup/a.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("startup = 1")
    config = startup.parent.parent / "ipython_config.py"
    config.write_text("get_config().InteractiveShellApp.exec_lines = ['configured = 1']")
    for name, value in {
        "PYTHONSTARTUP": str(tmp_path / "started.py"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONOPTIMIZE": "1",
        "PYTHONSAFEPATH": "1",
        "MPLBACKEND": "agg",
        "JUPYTER_DEFAULT_PROVISIONER_NAME": "elsewhere",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "neighbour.py").touch()
    save(tmp_path / "own.ipynb", SETTINGS, "import neighbour")
    with KernelServer(("matplotlib.pyplot",)) as server:
        words = {"cwd": tmp_path, "fork": server.fork if forked else None}
        made = notebooks.execute_notebook(tmp_path / "own.ipynb", tmp_path / "out.ipynb", {}, **words)
    assert made.failure is None
    printed, shown = made.notebook.cells[-2].outputs
    assert printed.text == "True\n" and "image/png" in shown.data


@pytest.mark.parametrize("forked", [False, True])
def test_a_long_folder_of_temporary_files(tmp_path, monkeypatch, forked):
    """As job schedulers hand them out: sockets may have 104 to 108 bytes."""
    folder = tmp_path / ("job-" * 40)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    save(tmp_path / "own.ipynb", "import tempfile\nprint(tempfile.gettempdir())")
    with KernelServer(("json",)) as server:
        words = {"cwd": tmp_path, "fork": server.fork if forked else None}
        made = notebooks.execute_notebook(tmp_path / "own.ipynb", tmp_path / "out.ipynb", {}, **words)
    assert made.failure is None
    assert made.notebook.cells[-1].outputs[0].text.startswith(str(folder)), (
        "large files have room there alone"
    )
    assert list(folder.iterdir()) == []


def test_a_server_of_kernels_that_died_is_started_again(tmp_path):
    save(tmp_path / "fine.ipynb", "1")
    with KernelServer(("json",)) as server:
        for _ in range(2):
            words = {"cwd": tmp_path, "fork": server.fork}
            made = notebooks.execute_notebook(tmp_path / "fine.ipynb", tmp_path / "out.ipynb", {}, **words)
            assert made.failure is None
            server.server.kill()
            server.server.wait()


@pytest.mark.parametrize("given, wanted", [("sets", "here/sets"), ("~/sets", "sets"), ("", None)])
def test_kernels_get_the_whole_path_of_the_data_root(tmp_path, monkeypatch, given, wanted):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    for call in (lambda: execute.execute(tmp_path, "smoke"), lambda: sweep.run(tmp_path)):
        monkeypatch.setenv("MDR_DATA_ROOT", given)
        with pytest.raises(FileNotFoundError):  # no experiments there
            call()
        assert os.environ["MDR_DATA_ROOT"] == (str(tmp_path / wanted) if wanted else "")
