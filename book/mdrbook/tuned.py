"""Stored runs of tuned arms: what tuning chose, where an arm stops, and the splits that decide."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mdrbook import contrasts
from mdrlib.config import Config
from mdrlib.results import Result, load_committed

ARMS = {  # method, MDR in units of distance
    ("triplet", False): "Triplet",
    ("triplet+l2", False): "Triplet+L2Norm",
    ("triplet+mdr", False): "Triplet+MDR",
    ("triplet+l2+mdr", False): "Triplet+L2Norm+MDR",
    ("triplet+l2+mdr", True): "Triplet+L2Norm+MDR, units",
    ("proxy-anchor", False): "Proxy-Anchor",
    ("proxy-anchor+mdr", False): "Proxy-Anchor+MDR",
}


def arm_of(config: Config) -> str:
    """Return the name of a run's arm: one of ARMS, with another regularizer where there is one."""
    name = ARMS[config.method, config.mdr_in_distance]
    if config.switch:
        return f"{name}, rho"
    return name if config.weight_decay == Config.weight_decay else f"{name}, weight decay"


class Trial(NamedTuple):
    """A configuration that tuning tried."""

    score: float  #: The best MAP@R on held-out training classes along the run, averaged over alphabets.
    iteration: int  #: Where it was.
    config: Config


class Study(NamedTuple):
    """The runs on one set of images: arm -> runs."""

    tuning: dict[str, list[Result]]
    stopping: dict[str, list[Result]]  #: Of what tuning chose, longer, with other seeds.
    confirmed: dict[str, list[Result]]  #: On other class splits.

    def trials(self) -> dict[str, list[Trial]]:
        """Return what tuning tried in each arm, the best score first.

        Runs that differ only in the alphabet that they hold out are one trial.
        """
        found = {}
        for arm, runs in self.tuning.items():
            tried: dict[str, list[Result]] = {}
            for run in runs:
                tried.setdefault(replace(Config.of(run.config), held_out_group=-1).identity(), []).append(run)
            its = [Trial(*contrasts.best_stop(of)[::-1], Config.of(of[0].config)) for of in tried.values()]
            found[arm] = sorted(its, key=lambda trial: -trial.score)
        return found

    def stops(self) -> dict[str, int]:
        """Return the chosen iteration of each arm: the best one on held-out training classes."""
        return {arm: contrasts.best_stop(runs)[0] for arm, runs in self.stopping.items()}

    def contrast(
        self, a: str, b: str, metric: str, stop: str = "chosen", classes: Iterable[str] | None = None
    ) -> contrasts.Contrast:
        """Compare two arms over the splits that decide, each where it stops.

        Args:
            stop: "chosen", as `stops` has it; "end"; or "best", on the test classes themselves.
            classes: Names of the test classes to compare on; None for all.
        """
        found = []
        for arm in (a, b):
            runs = self.confirmed[arm]
            end = runs[0].history[-1]["iteration"]
            at = self.stops()[arm] if stop == "chosen" else {"end": end, "best": None}[stop]
            rows = contrasts.of_classes(runs, metric, at)
            found.append(rows if classes is None else rows[rows.cls.isin(classes)])
        return contrasts.contrast(*found)


def by_arm(*names: str, folder: str | Path = "../data/results") -> dict[str, list[Result]]:
    """Read stored lists by name: arm -> runs; the arms of ARMS come first, in its order."""
    runs: dict[str, list[Result]] = {}
    for run in (run for name in names for run in load_committed(Path(folder) / f"{name}.json")):
        runs.setdefault(arm_of(Config.of(run.config)), []).append(run)
    order = dict.fromkeys((*ARMS.values(), *runs))
    return {arm: runs[arm] for arm in order if arm in runs}


def read(*names: str, folder: str | Path = "../data/results") -> Study:
    """Read the lists NAME-tuning, NAME-stopping and NAME by arm."""
    parts = ("-tuning", "-stopping", "")
    return Study(*(by_arm(*(name + part for name in names), folder=folder) for part in parts))


def by_cosine(arm: str, metric: str, folder: str | Path = "../data/results") -> pd.DataFrame:
    """Return a metric of the last networks of an arm, searched by cosine: as `contrasts.of_classes`.

    Only arms whose head keeps norms are stored, by ci/by_cosine.py.
    """
    found = []
    for row in json.loads((Path(folder) / "bench-cosine-cub.json").read_text())["rows"]:
        config = Config.of(row["config"])
        if arm_of(config) == arm:
            pairs = zip(row["class"], row[metric], strict=True)
            found += [(config.class_split, *pair) for pair in pairs]
    return pd.DataFrame(found, columns=["split", "cls", "value"])
