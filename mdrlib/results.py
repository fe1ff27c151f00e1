"""The results of finished runs, and their provenance."""

import contextlib
import csv
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdrlib import checks, distributed
from mdrlib.checkpoint import write_atomically

SCHEMA = 3  # of the results that this code writes
#: Packages other than torch and NumPy that touch numbers.
PACKAGES = ("torchvision", "pillow", "timm", "faiss-cpu", "scikit-learn", "pytorch-metric-learning", "triton")


@dataclass(frozen=True)
class Result:
    """The result of one run, as stored in result.json."""

    config: dict[str, Any]  #: See `Config.to_dict`, without folders.
    metrics: dict[str, float]  #: Of retrieval, in [0, 1], and, since schema 2, those of `diagnose`.
    selected_by: str  #: "last"; "validation" or "test" for the best evaluation on held-out or test classes.
    seconds: float  #: Spent in training and evaluation, without interruptions.
    environment: dict[str, Any]  #: See `environment`.
    git: dict[str, Any] | None  #: See `git`.
    data: dict[str, Any]  #: Split -> number of images and fingerprint; the fingerprint of weights.
    history: list[dict[str, float | int | None]]  #: A row per evaluation; see `evaluation.History`.
    #: Lists "class" (name), "queries", "recall@1", "map@r", an entry per test class; None before schema 2.
    #: Since schema 3 "history" has "iteration" and a list per evaluation of the two metrics.
    per_class: dict[str, Any] | None = None
    schema: int = 1  #: Of this file; 2 has per_class, diagnostics, more in environment; 3 its history.


def write(result: Result, out_dir: Path) -> None:
    """Write history.csv, then result.json, which marks the run as finished."""
    write_csv(result.history, out_dir / "history.csv")
    write_json(out_dir / "result.json", asdict(result))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a table atomically: a column for each key, an empty field where a row has no value."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def load_run(out_dir: str | Path) -> Result:
    """Load the Result in `out_dir`; FileNotFoundError if it is missing, ValueError if it is damaged."""
    path = checks.path(out_dir, "out_dir") / "result.json"
    if not path.exists():
        raise FileNotFoundError(f"no result at {path}: create it with `make experiments`")
    return _read(path, _result)


def load_runs(folder: str | Path) -> dict[str, Result]:
    """Load all finished runs in the folders below `folder`: folder name -> Result, sorted."""
    found = sorted(checks.path(folder, "folder").glob("*/result.json"))
    return {path.parent.name: load_run(path.parent) for path in found}


def load_committed(path: str | Path) -> list[Result]:
    """Load the runs of a committed list such as data/results/omniglot-seeds.json."""
    return _read(checks.path(path), lambda entries: [_result(entry) for entry in entries])


def _result(entry: dict[str, Any]) -> Result:
    result = Result(**entry)
    for name, kind in (("config", dict), ("metrics", dict), ("data", dict), ("history", list)):
        value = getattr(result, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {checks.shown(value)}")
    for name, value in (*result.metrics.items(), ("seconds", result.seconds)):
        checks.real(value, name)
    return result


def _read(path: Path, form: Any) -> Any:
    try:
        return form(json.loads(path.read_text(encoding="utf8")))
    except (ValueError, TypeError, RecursionError) as error:  # not JSON, or other fields
        raise ValueError(f"{path} is not a result of this version of mdrlib: {error}") from error


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions and kind of hardware of this process, without the name of the machine."""
    count = distributed.world_size()
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "packages": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # "AVX2": what torch's own loops use
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    } | ({"processes": count} if count > 1 else {})


def _cpu() -> str:
    """Return the model of the processor, such as "Intel(R) Xeon(R) Processor @ 2.90GHz"."""
    with contextlib.suppress(OSError):  # Linux alone has it
        if found := re.search(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(), re.M):
            return found[1]
    return platform.processor() or platform.machine()


def git() -> dict[str, Any] | None:
    """Return the commit of the clone in use and whether its files differ; None for an installed mdrlib."""
    here = Path(__file__).resolve().parent

    def ask(*words: str) -> str:
        run = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        if ask("ls-files", "__init__.py") == "":
            return None
        return {"commit": ask("rev-parse", "HEAD"), "dirty": ask("status", "--porcelain", "-uno") != ""}
    except (OSError, subprocess.CalledProcessError):
        return None
