"""The experiment matrix: the runs of ci/ablations.yml, each once, and the folders they live in."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from mdrlib.config import PLACE, Config
from mdrlib.results import Result, load_committed, load_run

# Split -> fingerprint, of each data set.
Fingerprints = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Cell:
    """One run of the matrix: its Config, and the studies it is part of."""

    config: Config
    studies: tuple[str, ...]

    @property
    def identity(self) -> str:
        """See `identity`."""
        return identity(self.config)

    def name(self, fingerprints: Fingerprints) -> str:
        """The name of its folder, such as omniglot-triplet+mdr-s3-1a2b3c4d.

        The digest is of all that decides the result, the data among it: what else the matrix holds does
        not matter, so that editing it invalidates nothing.
        """
        config = self.config
        text = self.identity + json.dumps(dict(fingerprints[config.dataset]), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{config.dataset}-{config.method}-s{config.seed}-{digest}"

    def parameters(self) -> dict[str, Any]:
        """Its Config as the template takes it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.config).items()}


def identity(config: Config) -> str:
    """The fields that say what a run is, without those that say where it happens, as JSON."""
    values = {k: v for k, v in asdict(config).items() if k not in PLACE}
    if config.weights is not None:  # a result names the file without its folder
        values["weights"] = Path(config.weights).name
    return json.dumps(values, sort_keys=True)


def cells(root: Path, study: str | None = None, smoke: bool = False) -> list[Cell]:
    """The runs of all studies, or of one, each once; the first seed of all comes before the second of any.

    So the matrix can be interrupted at any time: what is there compares like with like. smoke: a few
    seconds a run, on generated glyphs.
    Raises ValueError for an unknown study, and for a cell that is no Config, naming its study.
    """
    spec = yaml.safe_load((root / "ci/ablations.yml").read_text())
    if study is not None and study not in spec["studies"]:
        raise ValueError(f"no study {study!r} in ci/ablations.yml; it has {list(spec['studies'])}")
    found: dict[str, Cell] = {}
    for name, entry in spec["studies"].items():
        if study not in (None, name):
            continue
        seeds = range(spec["smoke"]["seeds"] if smoke else entry.get("seeds", spec["seeds"]))
        for values, seed in product(points(entry["grid"]), seeds):
            values = spec["base"] | entry.get("base", {}) | values | {"seed": seed}
            if smoke:
                values |= spec["smoke"]["base"]
            try:
                config = Config.of(values)
            except (TypeError, ValueError) as error:
                raise ValueError(f"study {name}, {values}: {error}") from error
            key = identity(config)
            known = found.get(key, Cell(config, ()))
            if name not in known.studies:
                found[key] = replace(known, studies=(*known.studies, name))
    return sorted(found.values(), key=lambda cell: cell.config.seed)  # stable: studies keep their order


def points(grid: dict[str, list] | list[dict[str, list]]) -> Iterator[dict[str, Any]]:
    """All combinations of the values of a grid; of each grid, for a list of them."""
    for one in grid if isinstance(grid, list) else [grid]:
        for values in product(*one.values()):
            yield dict(zip(one, values, strict=True))


def file_of(root: Path, study: str) -> Path:
    """The committed list that a study's results are stored in."""
    spec = yaml.safe_load((root / "ci/ablations.yml").read_text())
    return root / "data/results" / f"{spec['studies'][study].get('file', spec['file'])}.json"


def finished(sweep: Path) -> dict[str, Result]:
    """What the folders of a sweep hold, by `identity`."""
    return by_identity(load_run(path.parent) for path in sorted(sweep.glob("*/result.json")))


def committed(root: Path) -> dict[str, Result]:
    """What the committed lists of runs hold, by `identity`."""
    lists = [p for p in sorted((root / "data/results").glob("*.json")) if not p.stem.startswith("bench-")]
    return by_identity(result for path in lists for result in load_committed(path))


def by_identity(results: Iterator[Result] | list[Result]) -> dict[str, Result]:
    """Results by `identity`, whatever order their fields had; a field they lack has its default."""
    found = {}
    for result in results:
        try:
            found[identity(Config.of(result.config))] = result
        except (TypeError, ValueError):  # of a field or value that is no more
            continue
    return found


def saw(result: Result, fingerprints: Fingerprints) -> bool:
    """Whether a result was made with these images."""
    seen = {split: result.data[split]["fingerprint"] for split in fingerprints[result.config["dataset"]]}
    return seen == dict(fingerprints[result.config["dataset"]])
