"""The tables of book/environment.md: machine, versions, times and memory, from the records of the runs."""

import json
import os
import platform
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mdrlib.tables import table
from plan import pages

PACKAGES = (
    "torch", "torchvision", "numpy", "faiss-cpu", "scikit-learn", "scipy", "umap-learn",
    "pytorch-metric-learning", "matplotlib", "ipywidgets", "jupyterlab", "papermill", "jupyter-book",
    "Sphinx", "sphinx-book-theme",
)  # fmt: skip


def environment_page(source: str, root: Path, scale: str) -> str:
    """The page with each line "% name" replaced by its table; a table without rows says that there are none.

    Raises ValueError for a name that is no table.
    """
    tables = {
        "machine": machine,
        "packages": packages,
        "durations": lambda: durations(root, scale),
        "runs": lambda: runs(root / "_build/runs" / scale),
        "stored": lambda: stored(root / "data/results"),
    }

    def filled(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in tables:
            raise ValueError(f"environment.md asks for the table {name!r}; there are {list(tables)}")
        return tables[name]()

    return re.sub(r"^% (\w+)$", filled, source, flags=re.MULTILINE)


def machine() -> str:
    """Processor, cores and memory of the machine that builds, as the system names them."""
    rows = [
        ("system", f"{platform.system()} {platform.machine()}"),
        ("processor", processor()),
        ("cores this process may use", len(os.sched_getaffinity(0))),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"),
        ("Python", platform.python_version()),
    ]
    return shown(("machine", ""), rows, "ll")


def processor() -> str:
    """The processor's name from /proc/cpuinfo, where there is one."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found.group(1) if found else platform.processor() or "unknown"


def packages() -> str:
    """The versions of what the book is made with directly."""
    return shown(("package", "version"), [(name, version(name)) for name in PACKAGES], "ll")


def durations(root: Path, scale: str) -> str:
    """Runs and maps, then chapters in the order of the book."""
    path = root / "_build/executed" / scale / "durations.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    chapters = pages(root / "book/_toc.yml")
    made = [name for name in kept if (root / "_build/runs" / scale / name).is_dir()]
    rows = [
        (f"`{name}`", f"{kept[name]['seconds']:.0f}", f"{kept[name]['peak_memory_gb']:.1f}")
        for name in [*sorted(made), *(name for name in chapters if name in kept)]
    ]
    return shown(("notebook", "seconds", "peak memory, GB"), rows, "lr")


def runs(folder: Path) -> str:
    """A row for each finished run of a scale."""
    found = [
        (path.parent.name, json.loads(path.read_text())) for path in sorted(folder.glob("*/result.json"))
    ]
    rows = [(f"`{name}`", f"{one['seconds']:.0f}", *where(one)) for name, one in found]
    return shown(("run", "seconds", "made with", "device, threads", "commit"), rows, "lrlll")


def stored(folder: Path) -> str:
    """A row for each committed file and environment that some of its runs were made in."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        count = Counter(where(one) for one in (found if isinstance(found, list) else [found]))
        rows += [
            (f"`{path.name}`", number if isinstance(found, list) else "", *at) for at, number in count.items()
        ]
    return shown(("file", "runs", "made with", "device, threads", "commit"), rows, "lrlll")


def where(record: dict[str, Any]) -> tuple[str, str, str]:
    """What a record says about where it was made: versions, device and threads, commit."""
    at, git = record["environment"], record.get("git") or {}
    commit = git.get("commit", "unknown")[:8] + (" and changes" if git.get("dirty") else "")
    return f"Python {at['python']}, torch {at['torch']}", f"{at['device']}, {at['threads']}", commit


def shown(head: tuple[str, ...], rows: list[tuple[Any, ...]], align: str) -> str:
    """A table in Markdown, or a line in place of an empty one."""
    return table(head, rows, align).data if rows else "*None yet.*"
