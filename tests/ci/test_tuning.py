"""ci/tuning.py: the best configuration of each arm, by held-out training classes alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import runs
import studies
import tuning
from mdrbook.tuned import arm_of
from mdrlib.results import Result

ROOT = Path(__file__).resolve().parents[2]
BIRDS = ("cub-tuning", "cub-tuning-sphere", "cub-tuning-units", "cub-tuning-proxies")
GROCERIES = ("groceries-tuning", "groceries-tuning-units")
RIVALS = ("cub-tuning-decay", "cub-tuning-switch")
WRITING = ("handwriting-tuning", "handwriting-tuning-units", "handwriting-tuning-proxies")
LENGTHS = {"groceries": 300, "handwriting": 450}
TUNED = {
    **dict.fromkeys(("handwriting-stopping", "handwriting"), WRITING),
    **dict.fromkeys(("cub-stopping", "cub"), BIRDS),
    **dict.fromkeys(("groceries-stopping", "groceries"), GROCERIES),
    **dict.fromkeys(("rivals-stopping", "rivals"), RIVALS),
}


@pytest.fixture
def study(matrix_house):
    path = matrix_house / "ci/ablations.yml"
    spec = yaml.safe_load(path.read_text())
    grid = {"method": ["triplet", "triplet+l2"], "lr": "draw"}
    draws = {"count": 3, "lr": [1e-4, 1e-1]}
    spec["studies"] = {"t": {"title": "", "seeds": 1, "grid": grid, "draws": draws}}
    path.write_text(yaml.safe_dump(spec))
    return matrix_house


def result(config, *scores, test=0.9):
    rows = [{"iteration": 10 * k, "validation_map@r": s, "map@r": test} for k, s in enumerate(scores)]
    return Result(config.to_dict(), {}, "validation", 1.0, {}, None, {}, rows)


def test_the_best_along_the_run_is_first_and_the_start_does_not_count(study):
    cells = [cell.config for cell in studies.matrix(study, "t")]
    plain = [config for config in cells if config.method == "triplet"]
    scores = [(0.9, 0.2, 0.5, 0.1), (0.0, 0.4, 0.3, 0.2)]  # the third is not made yet
    made = {c.identity(): result(c, *s) for c, s in zip(plain, scores, strict=False)}
    made[plain[1].identity()] = result(plain[1], *scores[1], test=1.0)  # test classes choose nothing
    found = tuning.trials(study, "t", made)
    assert list(found) == ["Triplet", "Triplet+L2Norm"]
    best, second = found["Triplet"]
    assert (best.score, best.iteration, best.config.lr) == (0.5, 20, plain[0].lr)
    assert (second.score, second.iteration) == (0.4, 10) and found["Triplet+L2Norm"] == []
    assert f"50.0 at iteration   20  lr {plain[0].lr:g}" in tuning.table(found, ["lr"])


def test_a_configuration_counts_once_all_its_alphabets_were_held_out(study):
    path = study / "ci/ablations.yml"
    spec = yaml.safe_load(path.read_text())
    spec["studies"]["t"]["grid"] = {"method": ["triplet"], "held_out_group": [0, 1], "lr": "draw"}
    path.write_text(yaml.safe_dump(spec))
    cells = [cell.config for cell in studies.matrix(study, "t")]
    rates = sorted({config.lr for config in cells})
    scores = {(rates[0], 0): (0, 0.6, 0.1), (rates[0], 1): (0, 0.0, 0.3), (rates[1], 0): (0, 0.9, 0.9)}
    made = {}
    for config in cells:
        if (config.lr, config.held_out_group) in scores:
            made[config.identity()] = result(config, *scores[config.lr, config.held_out_group])
    (trial,) = tuning.trials(study, "t", made)["Triplet"]
    assert (trial.score, trial.iteration, trial.config.lr) == (0.3, 10, rates[0])


@pytest.mark.parametrize("study", TUNED)
def test_stopping_and_confirmation_have_the_settings_that_tuning_chose(study):
    results, chosen = runs.committed(ROOT), {}
    for name in TUNED[study]:
        for its in filter(None, tuning.trials(ROOT, name, results).values()):
            chosen[arm_of(its[0].config)] = its[0].config
    for cell in studies.matrix(ROOT, study):
        config = cell.config
        planned = {"class_split": config.class_split, "seed": config.seed}
        planned["iterations"] = LENGTHS.get(study.removesuffix("-stopping"), 600)
        held_out = study.endswith("stopping")
        if study.startswith("handwriting"):
            planned["held_out_group"] = config.held_out_group
            assert (config.held_out_group >= 0) == held_out
        else:
            planned["validation"] = 0.3 if held_out else 0.0
        assert config == replace(chosen[arm_of(config)], **planned)
