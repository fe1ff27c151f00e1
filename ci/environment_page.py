"""The tables of book/environment.md: machine, versions, times and memory, from the records of the runs."""

import json
import os
import platform
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mdrbook.tables import as_text
from runs import durations as recorded
from runs import pages

PACKAGES = (
    "torch", "torchvision", "numpy", "faiss-cpu", "scikit-learn", "scipy", "umap-learn",
    "pytorch-metric-learning", "matplotlib", "ipywidgets", "jupyterlab", "papermill", "jupyter-book",
    "Sphinx", "sphinx-book-theme",
)  # fmt: skip


def environment_page(source: str, root: Path, scale: str) -> str:
    """Return the page with its tables.

    Args:
        source: The page; each line "% name" is replaced by the table of that name.
        root: The folder of the repository.
        scale: The scale whose runs are shown.

    Raises:
        ValueError: There is no table of that name.
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
            raise ValueError(f"no table {name!r} for environment.md: expected one of {list(tables)}")
        return tables[name]()

    return re.sub(r"^% (\w+)$", filled, source, flags=re.MULTILINE)


def machine() -> str:
    """Return system, processor, cores and memory of the machine that builds, as the system names them."""
    rows = [
        ("system", f"{platform.system()} {platform.machine()}"),
        ("processor", processor()),
        ("cores this process may use", len(os.sched_getaffinity(0))),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"),
        ("Python", platform.python_version()),
    ]
    return table("machine | ", ":-- | :--", rows)


def processor() -> str:
    """Return the processor's name from /proc/cpuinfo, where there is one."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found.group(1) if found else platform.processor() or "unknown"


def packages() -> str:
    """Return the versions of the packages that the book uses directly."""
    return table("package | version", ":-- | :--", [(name, version(name)) for name in PACKAGES])


def durations(root: Path, scale: str) -> str:
    """Return times of runs and maps, then of chapters in the order of the book."""
    kept = recorded(root, scale)
    made = [name for name in sorted(kept) if (root / "_build/runs" / scale / name).is_dir()]
    chapters = [name for name in pages(root / "book/_toc.yml") if name in kept]
    rows = [
        (f"`{name}`", f"{kept[name]['seconds']:.0f}", f"{kept[name]['peak_memory_gb']:.1f}")
        for name in made + chapters
    ]
    return table("notebook | seconds | peak memory, GB", ":-- | --: | --:", rows)


def runs(folder: Path) -> str:
    """Return a row for each finished run of a scale."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))}
    rows = [(f"`{name}`", f"{run['seconds']:.0f}", *where(run)) for name, run in found.items()]
    head = "run | seconds | made with | device, threads | commit"
    return table(head, ":-- | --: | :-- | :-- | :--", rows)


def stored(folder: Path) -> str:
    """Return a row for each committed file and environment that some of its runs were made in."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        count = Counter(where(one) for one in (found if isinstance(found, list) else [found]))
        for at, number in count.items():
            rows.append((f"`{path.name}`", number if isinstance(found, list) else "", *at))
    return table("file | runs | made with | device, threads | commit", ":-- | --: | :-- | :-- | :--", rows)


def where(record: dict[str, Any]) -> tuple[str, str, str]:
    """Return what a record says about where it was made: versions, device and threads, commit."""
    at, git = record["environment"], record.get("git") or {}
    commit = git.get("commit", "unknown")[:8] + (" and changes" if git.get("dirty") else "")
    return f"Python {at['python']}, torch {at['torch']}", f"{at['device']}, {at['threads']}", commit


def table(head: str, align: str, rows: list[tuple[Any, ...]]) -> str:
    """Return a table in Markdown, or a line in place of an empty one."""
    lines = [head, align, *(" | ".join(map(as_text, row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines) if rows else "*None yet.*"
