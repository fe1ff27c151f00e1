"""What a finished run leaves behind, and where it came from."""

import csv
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdrlib import distributed
from mdrlib.checkpoint import write_atomically

Row = dict[str, float | int | None]


@dataclass(frozen=True)
class Result:
    """One run: its Config as a dict, metrics (0..1), a history row per evaluation, and its provenance."""

    config: dict[str, Any]
    metrics: dict[str, float]
    selected_by: str  # "last": the final weights; "validation": the best on held-out training classes
    seconds: float  # spent in training and evaluation, interruptions left out
    environment: dict[str, Any]
    git: dict[str, Any] | None
    data: dict[str, Any]
    history: list[Row]


def write(result: Result, out_dir: Path) -> None:
    """Write history.csv and result.json, each whole or not at all; the second is the sign of the end."""
    write_history(result.history, out_dir)
    write_json(out_dir / "result.json", asdict(result))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def write_history(history: list[Row], out_dir: Path) -> None:
    """Write history.csv: a row an evaluation, an empty field where a value does not exist."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(out_dir / "history.csv", lambda file: file.write(text.getvalue().encode()))


def load_run(out_dir: str | Path) -> Result:
    """The Result in `out_dir`.

    Raises FileNotFoundError saying how to make it, ValueError naming a file that is no result.
    """
    path = Path(out_dir) / "result.json"
    if not path.exists():
        raise FileNotFoundError(f"no result at {path}; make it with `make experiments`")
    return _result(_read_json(path), path)


def load_runs(folder: str | Path) -> dict[str, Result]:
    """All finished runs in the folders below `folder`, by folder name, sorted."""
    return {p.parent.name: load_run(p.parent) for p in sorted(Path(folder).glob("*/result.json"))}


def load_committed(path: str | Path) -> list[Result]:
    """The runs of a committed list such as data/results/omniglot-seeds.json."""
    return [_result(entry, Path(path)) for entry in _read_json(Path(path))]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _result(entry: Any, path: Path) -> Result:
    try:
        return Result(**entry)
    except TypeError as error:
        raise ValueError(f"{path} is not a result of this version of mdrlib: {error}") from error


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware class of this process; nothing that names the machine."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    } | ({"processes": distributed.world_size()} if distributed.world_size() > 1 else {})


def git() -> dict[str, Any] | None:
    """Commit of the clone this library runs from, and whether its files differ; None when installed."""
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
