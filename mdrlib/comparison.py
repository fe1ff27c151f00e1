"""From runs to rows of a table: which runs are one group, what it is called, what sets it off a baseline."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from mdrlib.config import PLACE, completed
from mdrlib.results import Result
from mdrlib.statistics import Difference, Interval, interval, paired

FEW = 5  # seeds that a row of a table in the book has at least


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str  # unique among the groups it was made with
    config: dict[str, Any]  # without the seed and what names a place
    data: dict[str, Any]  # images and fingerprint of each split, as Result.data
    values: dict[int, float]  # seed -> metric


@dataclass(frozen=True)
class Row:
    """A group in a table: its mean, and how it differs from the baseline."""

    label: str
    n: int  # seeds
    mean: float
    interval: Interval | None  # None for one seed
    difference: (
        Difference | None
    )  # group - baseline; None of the baseline, or with fewer than two shared seeds

    @property
    def verdict(self) -> str:
        """That of the difference; "undecided" without one."""
        return self.difference.verdict if self.difference else "undecided"


def groups(results: Iterable[Result], metric: str = "recall@1") -> list[Group]:
    """The runs by what they are but for the seed, in the order in which they come.

    Stored configs may lack fields that are newer than they are (`config.completed`). Raises ValueError for a
    metric that a run lacks, the same config and seed twice, and one config on different data.
    """
    found: dict[str, Group] = {}
    for result in results:
        config = completed(result.config)
        seed = config["seed"]
        config = {key: value for key, value in config.items() if key not in ("seed", *PLACE)}
        if metric not in result.metrics:
            has = f"of {config['dataset']} {config['method']}, seed {seed}: it has {list(result.metrics)}"
            raise ValueError(f"there is no metric {metric!r} {has}")
        key = json.dumps(config, sort_keys=True)
        group = found.setdefault(key, Group("", config, result.data, {}))
        name = f"{config['dataset']} {config['method']}"
        if seed in group.values:
            raise ValueError(
                f"two runs of {name} have the same config and seed {seed}, with {metric} "
                f"{group.values[seed]:.4f} and {result.metrics[metric]:.4f}; leave one of them out"
            )
        if result.data != group.data:
            raise ValueError(
                f"runs of {name} with the same config saw different data, {_data(group.data)} and, of seed "
                f"{seed}, {_data(result.data)}: they are no repetitions; give them apart"
            )
        group.values[seed] = result.metrics[metric]
    labels = _labels([group.config for group in found.values()])
    return [Group(name, g.config, g.data, g.values) for name, g in zip(labels, found.values(), strict=True)]


def distinct(results: Iterable[Result]) -> list[Result]:
    """The runs in their order, each config and seed once: stored lists share runs. The first is kept."""
    found: dict[str, Result] = {}
    for result in results:
        config = {key: value for key, value in completed(result.config).items() if key not in PLACE}
        found.setdefault(json.dumps(config, sort_keys=True), result)
    return list(found.values())


def values(found: Iterable[Group], config: Mapping[str, Any], **changes: Any) -> dict[int, float]:
    """Seed -> metric, of the group whose config is `config` but for `changes`; empty where there is none."""
    wanted = {**config, **changes}
    return next((group.values for group in found if group.config == wanted), {})


def with_held_out(result: Result) -> Result:
    """The run with one metric more, "held out": its best Recall@1 on the held-out training classes, 0..1.

    Raises KeyError for a run without `Config.validation`.
    """
    best = max(row["validation_recall@1"] for row in result.history)
    return replace(result, metrics=result.metrics | {"held out": best})


def label(config: Mapping[str, Any], differing: Iterable[str]) -> str:
    """A short name: the method, then each other field of `differing` as field=value."""
    words = [config["method"]]
    for field in differing:
        if field != "method":
            value = config[field]
            words.append(f"{field}={','.join(f'{v:g}' for v in value) if isinstance(value, list) else value}")
    return " ".join(words)


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields in which configs with the same fields differ, in their order."""
    return [field for field in configs[0] if any(c[field] != configs[0][field] for c in configs[1:])]


def _labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Unique labels: of groups with one method the fields in which these differ."""
    same = {c["method"]: differing([p for p in configs if p["method"] == c["method"]]) for c in configs}
    return [label(c, same[c["method"]]) for c in configs]


def by_data(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The runs by data set, named by it; one of which there were different images, by it and fingerprints.

    What was tested on other images cannot be compared. Weights that a run started from are no images: they
    belong to its config.
    """

    def images(result: Result) -> str:
        return _data({split: about for split, about in result.data.items() if split != "weights"})

    runs = sorted(results, key=lambda result: result.config["dataset"])  # stable
    found = {}
    for dataset, of_set in groupby(runs, key=lambda result: result.config["dataset"]):
        apart: dict[str, list[Result]] = {}
        for result in of_set:
            apart.setdefault(images(result), []).append(result)
        for seen, part in apart.items():
            found[dataset if len(apart) == 1 else f"{dataset} ({seen})"] = part
    return found


def _data(data: Mapping[str, Any]) -> str:
    """What a run saw, in words: "train 0f0f, test 0e0e"."""
    return ", ".join(f"{split} {about.get('fingerprint')}" for split, about in data.items()) or "none named"


def rows(found: Sequence[Group], baseline: str | None = None, confidence: float = 0.95) -> list[Row]:
    """A row for each group, with its difference to the group labelled `baseline` over the seeds they share.

    Without a name the baseline is "triplet" where there is one, or else the first group. Raises ValueError
    for no groups, for a name that is none of theirs and for groups that saw different images (`by_data`).
    """
    base = pick(found, baseline if baseline is not None else default_baseline(found))
    for group in found:
        refuse_other_images(group, base)
    made = []
    for group in found:
        values = list(group.values.values())
        own = interval(values, confidence) if len(values) > 1 else None
        difference = None
        if group is not base and len(group.values.keys() & base.values.keys()) > 1:
            difference = paired(group.values, base.values, confidence)
        made.append(Row(group.label, len(values), own.mean if own else values[0], own, difference))
    return made


def default_baseline(found: Sequence[Group]) -> str:
    """The label "triplet" where a group has it, else that of the first group; ValueError for no groups."""
    names = [group.label for group in found]
    if not names:
        raise ValueError("there are no runs to compare")
    return "triplet" if "triplet" in names else names[0]


def pick(found: Sequence[Group], name: str) -> Group:
    """The group labelled `name`; ValueError lists those there are."""
    for group in found:
        if group.label == name:
            return group
    raise ValueError(f"no group of runs is called {name!r}; there are {[group.label for group in found]}")


def refuse_other_images(a: Group, b: Group) -> None:
    """Raise ValueError unless both groups were trained and tested on the same images."""
    seen = [
        (group.config["dataset"], {s: v for s, v in group.data.items() if s != "weights"}) for group in (a, b)
    ]
    if seen[0] != seen[1]:
        words = [
            f"{group.label!r} {name}: {_data(data)}" for group, (name, data) in zip((a, b), seen, strict=True)
        ]
        raise ValueError(f"these saw different images and cannot be compared: {' and '.join(words)}")
