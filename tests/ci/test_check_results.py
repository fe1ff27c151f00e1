"""ci/check_results.py: the gate is seen to fail on what is wrong, and to pass what is right."""

import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

import check_results
from check_results import check, derive, main
from mdrlib.config import Config
from mdrlib.results import Result, write, write_json
from tests.ci.houses import HERE, have

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"dataset": "glyphs", "method": "triplet+mdr"}
GOOD = {"recall@1": 0.5, "map@r": 0.3, "loss": 0.1, "regularizer": 0.6}


def result(values=GOOD, seed=0, **config):
    """A finished run whose last evaluation has these values."""
    stored = Config(**CONFIG | config, seed=seed).to_dict()
    metrics = {name: value for name, value in values.items() if name in ("recall@1", "map@r")}
    history = [{"iteration": 0, "loss": None, "recall@1": 0.1}, {"iteration": 3} | values]
    return Result(stored, metrics, "last", 1.0, {}, None, {}, history)


def spread_by(step, count=5, **config):
    """Runs of several seeds, each `step` above the one before."""
    return [
        result({name: value + seed * step for name, value in GOOD.items()}, seed=seed, **config)
        for seed in range(count)
    ]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A root with two runs at scale tiny, one of them on a set that may be missing, and their ranges."""
    runs = {
        "a": {"template": "t", "config": CONFIG},
        "b": {"template": "t", "needs": "omniglot", "config": CONFIG | {"dataset": "omniglot"}},
    }
    scales = {"tiny": {"glyphs": {"iterations": 3}, "omniglot": {"iterations": 4}}, "quick": {}}
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci/experiments.yml").write_text(yaml.safe_dump({"runs": runs, "scales": scales}))
    both = [*spread_by(0.01, iterations=3), *spread_by(0.01, iterations=4, dataset="omniglot")]
    write_json(tmp_path / "runs.json", [asdict(made) for made in both])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--derive", "tiny", "--from=~/runs.json"], tmp_path) == 0
    for name, made in (("a", both[0]), ("b", both[5])):
        write(made, tmp_path / "_build/runs/tiny" / name)
    return tmp_path


def say(house, capsys, *words):
    capsys.readouterr()
    status = main([*words] or ["--scale", "tiny"], house)
    said = capsys.readouterr()
    assert status == bool(said.err.strip()), said
    return said


def test_good_runs_pass(house, capsys):
    said = say(house, capsys)
    assert said.err.strip() == "" and said.out == "a: 4 values in their ranges\nb: 4 values in their ranges\n"


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [-2.0, 3.0])
def test_a_value_outside_fails_and_both_are_printed(house, capsys, name, value):
    write(result(GOOD | {name: value}, iterations=3), house / "_build/runs/tiny/a")
    about = yaml.safe_load((house / "ci/expected.yml").read_text())["tiny"]["a"]["ranges"][name]
    said = say(house, capsys)
    assert said.err == f"a: {name}: got {value:.4f}, expected {about['low']} to {about['high']}\n"
    assert said.out == "b: 4 values in their ranges\n"


@pytest.mark.parametrize("name", GOOD)
def test_nan_and_a_value_that_is_not_there_fail(house, capsys, name):
    text = (house / "_build/runs/tiny/a/result.json").read_text()
    broken = text.replace(f'"{name}": {GOOD[name]}', f'"{name}": NaN')
    assert broken != text
    (house / "_build/runs/tiny/a/result.json").write_text(broken)
    said = say(house, capsys).err
    assert said.count("\n") == 1
    of_metrics = f"a/result.json is not a result of this version of mdrlib: {name} must"
    assert of_metrics in said or f"a: {name}: got nan, expected " in said
    (house / "_build/runs/tiny/a/result.json").write_text(text.replace(f'"{name}"', '"other"'))
    assert f"a: {name}: got nan, expected " in say(house, capsys).err


def test_a_missing_run_fails_unless_its_data_set_is_missing(house, capsys, monkeypatch):
    shutil.rmtree(house / "_build/runs/tiny/a")
    (house / "_build/runs/tiny/b/result.json").unlink()
    have(monkeypatch, {})
    assert check(house, "tiny")[0].startswith("a: got no ")
    assert "b: left out, omniglot is not available" in capsys.readouterr().out
    assert say(house, capsys).err.count("\n") == 1
    have(monkeypatch, HERE)
    lines = check(house, "tiny")
    assert [line[:2] for line in lines] == ["a:", "b:"] and "expected one; call make experiments" in lines[1]


def test_a_run_of_another_config_fails(house, capsys):
    write(result(iterations=3, lr=0.0), house / "_build/runs/tiny/a")
    wanted = "a: the run's config is not that of ci/experiments.yml (lr: got 0.0, expected 0.001)\n"
    assert say(house, capsys).err == wanted
    write(result(iterations=3, seed=7, device="cpu"), house / "_build/runs/tiny/a")
    assert say(house, capsys).err.strip() == "", "another seed or place is no other config"


def test_ranges_of_another_config_fail(house, capsys):
    text = (house / "ci/experiments.yml").read_text().replace("iterations: 3", "iterations: 5")
    (house / "ci/experiments.yml").write_text(text)
    write(result(iterations=5), house / "_build/runs/tiny/a")
    assert (
        "a: the ranges' config is not that of ci/experiments.yml (iterations: got 3, expected 5)"
        in say(house, capsys).err
    )


def test_a_run_without_ranges_fails_unless_it_is_said(house, capsys):
    expected = yaml.safe_load((house / "ci/expected.yml").read_text())
    entry = expected["tiny"].pop("a")
    (house / "ci/expected.yml").write_text(yaml.safe_dump(expected))
    assert "a: got no entry in ci/expected.yml" in say(house, capsys).err
    expected["tiny"]["a"] = None
    (house / "ci/expected.yml").write_text(yaml.safe_dump(expected))
    said = say(house, capsys)
    assert said.err.strip() == "" and "a: NOT CHECKED" in said.out
    expected["tiny"] |= {"a": entry | {"ranges": {}}, "gone": entry}
    (house / "ci/expected.yml").write_text(yaml.safe_dump(expected))
    error = say(house, capsys).err
    assert (
        "a: got ranges of no values" in error
        and "gone: got ranges in ci/expected.yml, expected none" in error
    )


def test_what_cannot_be_checked_fails(house, capsys):
    assert (
        "no scale 'full' in ci/experiments.yml; choose one of ['quick', 'tiny']"
        in say(house, capsys, "--scale", "full").err
    )
    (house / "_build/runs/tiny/a/result.json").write_text("{")
    assert "result.json is not a result of this version of mdrlib" in say(house, capsys).err
    (house / "ci/expected.yml").unlink()
    assert "expected.yml" in say(house, capsys).err


# Deriving


def test_ranges_worked_out_by_hand():
    """Seeds 0..4 a step of 0.01 apart: mean 2 steps up, s = 0.01 sqrt(2.5), t of 4 degrees at 99 % 4.6041."""
    entry = derive(CONFIG, spread_by(0.01), above_untrained=True)
    half = 1.25 * 4.6040949 * 0.01 * 2.5**0.5 * 1.2**0.5
    for name, value in GOOD.items():
        about = entry["ranges"][name]
        assert about["mean"] == pytest.approx(value + 0.02, abs=1e-5)
        assert about["spread"] == pytest.approx(0.0158114, abs=1e-5)
        ends = [about["low"], about["high"]]
        assert ends == pytest.approx([value + 0.02 - half, value + 0.02 + half], abs=1e-4)
        assert ends[0] <= value + 0.02 - half and ends[1] >= value + 0.02 + half, "rounded outwards"
    assert entry["seeds"] == [0, 1, 2, 3, 4] and entry["untrained"] == 0.1 and entry["config"] == CONFIG
    wide = derive(CONFIG, spread_by(0.1), above_untrained=False)["ranges"]
    assert {about["low"] for about in wide.values()} == {0}, "none of these can be negative"
    assert wide["recall@1"]["high"] == wide["map@r"]["high"] == 1 and wide["loss"]["high"] > 1


def test_derive_refuses_too_few_seeds_and_ranges_that_catch_nothing():
    for runs in (spread_by(0.01, 4), [*spread_by(0.01), result(seed=2)]):
        with pytest.raises(ValueError, match="5 or more different seeds, got the seeds"):
            derive(CONFIG, runs, above_untrained=False)
    with pytest.raises(ValueError, match="would accept an untrained network, which has 0.1000"):
        derive(CONFIG, spread_by(0.1), above_untrained=True)
    nan = replace(result(seed=9), metrics={"recall@1": math.nan, "map@r": 0.3})
    with pytest.raises(ValueError, match="must be finite"):
        derive(CONFIG, [*spread_by(0.01), nan], above_untrained=False)


def test_stored_runs_of_the_config_alone_are_taken_and_the_rest_is_left_as_it_was(house, capsys):
    before = yaml.safe_load((house / "ci/expected.yml").read_text())
    runs = [*spread_by(0.02, 6, iterations=3), result(seed=9, iterations=3, margin=0.5)]
    write_json(house / "runs.json", [asdict(made) for made in runs])
    said = say(house, capsys, "--derive", "tiny", "--from", str(house / "runs.json"))
    assert said.out == "a: ranges of 6 runs\nb: no runs, left unchanged\n"
    after = yaml.safe_load((house / "ci/expected.yml").read_text())
    assert after["tiny"]["b"] == before["tiny"]["b"]
    assert after["tiny"]["a"]["seeds"] == [0, 1, 2, 3, 4, 5] and list(after) == ["tiny"]
    said = say(house, capsys, "--derive", "quick", "--from", str(house / "runs.json"))
    assert said.out == "a: no runs, left unchanged\nb: no runs, left unchanged\n"
    assert yaml.safe_load((house / "ci/expected.yml").read_text()) == after | {
        "quick": {"a": None, "b": None}
    }


def test_runs_are_made_with_as_many_seeds_as_are_asked_for(house, capsys, monkeypatch):
    have(monkeypatch, {})
    made = []

    def fake(config, folder):
        made.append(config)
        return spread_by(0.01, 9, iterations=3)[config.seed]

    monkeypatch.setattr(check_results, "run", fake)
    said = say(house, capsys, "--derive", "tiny", "--seeds", "7")
    assert said.out.endswith("a: ranges of 7 runs\nb: no runs, left unchanged\n")
    assert made == [Config(**CONFIG, iterations=3, seed=seed) for seed in range(7)]
    assert "5 or more different seeds" in say(house, capsys, "--derive", "tiny", "--seeds", "3").err
