"""What the chapters ask of stored runs: each once, the values of a config, the choice on held-out classes."""

from dataclasses import replace

import numpy as np
import pytest

from mdrbook.live.training import stored_distances
from mdrbook.runs import distinct, seed_values, stored_arrays, varied, with_held_out
from mdrlib.comparison import groups
from mdrlib.config import Config
from mdrlib.results import Result

A, B = [0.80, 0.81, 0.82, 0.79, 0.80], [0.83, 0.84, 0.83, 0.82, 0.84]


def result(recall, **config):
    return Result(Config(**config).to_dict(), {"recall@1": recall}, "last", 1.0, {}, None, {}, [])


def seeds(values, **config):
    return [result(value, seed=seed, **config) for seed, value in enumerate(values)]


def test_distinct_keeps_the_first_of_runs_that_differ_in_place_alone():
    runs = [result(0.5, seed=0), result(0.6, seed=0, device="cpu"), result(0.7, seed=1), result(0.8, dim=16)]
    assert [run.metrics["recall@1"] for run in distinct(runs)] == [0.5, 0.7, 0.8]
    old = replace(
        runs[0], config={k: v for k, v in runs[0].config.items() if k != "miner"}
    )  # older than the field
    assert distinct([old, *runs])[0] is old and len(distinct([old, *runs])) == 3


def test_seed_values_of_a_config_with_changes():
    found = groups([*seeds(A), *seeds(B, dim=16), *seeds(B, dim=16, method="triplet")])
    base = found[0].config
    assert seed_values(found, base) == dict(enumerate(A))
    assert seed_values(found, base, dim=16) == dict(enumerate(B))
    assert seed_values(found, base, dim=32) == {}


def test_arrays_that_are_not_there_or_damaged_say_what_to_call(tmp_path):
    with pytest.raises(FileNotFoundError, match="umap.npz does not exist: create it with `make exp"):
        stored_arrays(tmp_path / "a", "umap.npz")
    with pytest.raises(FileNotFoundError, match=r"a/distances.npz does not exist: create it with"):
        stored_distances({"triplet": tmp_path / "a"})
    np.savez(tmp_path / "umap.npz", xy=np.ones((2, 2)))
    assert stored_arrays(tmp_path, "umap.npz")["xy"].shape == (2, 2)
    whole = (tmp_path / "umap.npz").read_bytes()
    for left in (b"", whole[: len(whole) // 2], b"no archive"):
        (tmp_path / "umap.npz").write_bytes(left)
        with pytest.raises(ValueError, match=r"umap.npz is damaged \(.*\): delete its folder and call `make"):
            stored_arrays(tmp_path, "umap.npz")


def test_held_out_is_the_best_over_the_evaluations():
    history = [{"validation_recall@1": value} for value in (0.1, 0.7, 0.6)]
    run = replace(result(0.5), history=history)
    assert with_held_out(run).metrics == {"recall@1": 0.5, "held out": 0.7}
    assert "held out" not in run.metrics
    with pytest.raises(KeyError, match="validation_recall@1"):
        with_held_out(replace(run, history=[{"recall@1": 0.5}]))


def test_varied_means_of_groups_that_differ_in_one_field():
    found = groups(
        [
            *seeds(A),
            *seeds(B, dim=16),
            *seeds(B[:3], dim=32),
            *seeds(B, dim=16, method="triplet"),
            *seeds(B, levels=[0.0]),
        ]
    )
    base = found[0].config
    assert {value: mean.mean for value, mean in varied(found, base, "dim").items()} == {
        base["dim"]: pytest.approx(np.mean(A)),
        16: pytest.approx(np.mean(B)),
    }
    assert set(varied(found, base, "dim", seeds=3)) == {base["dim"], 16, 32}
    assert (0.0,) in varied(found, base, "levels")


def test_held_out_by_another_metric():
    run = replace(result(0.5), history=[{"validation_map@r": 0.3}, {"validation_map@r": 0.2}])
    assert with_held_out(run, "map@r").metrics["held out"] == 0.3
