"""ci/studies.py: what runs there are, each once, what they are called, and which are stored."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import runs
import studies
from mdrlib.config import Config
from mdrlib.results import Result, load_committed

ROOT = Path(__file__).resolve().parents[2]
DATA = {"train": "1", "test": "2"}
STORED = [p for p in sorted((ROOT / "data/results").glob("*.json")) if not p.stem.startswith("bench-")]


def result(config, data=DATA):
    seen = {split: {"images": 1, "fingerprint": text} for split, text in data.items()}
    return Result(config, {}, "last", 1.0, {}, None, seen, [])


def test_each_run_is_there_once_and_the_first_seeds_come_first(matrix_house):
    found = studies.matrix(matrix_house)
    settings = [(cell.config.seed, cell.config.mdr_weight) for cell in found]
    assert settings == [(0, 0.1), (0, 0.2), (0, 0.3), (1, 0.1), (1, 0.2), (1, 0.3)]
    assert [cell.studies for cell in found] == [("lambda", "other"), ("lambda",), ("lambda",)] * 2
    assert all(cell.config.iterations == 4 for cell in found)
    assert [cell.config.mdr_weight for cell in studies.matrix(matrix_house, "other")] == [0.1, 0.1]
    smoke = studies.matrix(matrix_house, smoke=True)
    assert [(cell.config.seed, cell.config.iterations) for cell in smoke] == [(0, 2)] * 3


def test_a_study_may_list_its_seeds_and_one_split_of_all_precedes_the_next(matrix_house):
    path = matrix_house / "ci/ablations.yml"
    spec = yaml.safe_load(path.read_text())
    grid = {"method": ["triplet", "triplet+l2"], "class_split": [3, 4]}
    spec["studies"] = {"some": {"title": "", "seeds": [2, 5], "grid": grid}}
    path.write_text(yaml.safe_dump(spec))
    found = [cell.config for cell in studies.matrix(matrix_house)]
    assert [(c.seed, c.class_split) for c in found[::2]] == [(2, 3), (2, 4), (5, 3), (5, 4)]
    assert [c.method for c in found] == ["triplet", "triplet+l2"] * 4


def test_draws_are_the_same_for_all_arms_and_spread_over_the_range(matrix_house):
    path = matrix_house / "ci/ablations.yml"
    spec = yaml.safe_load(path.read_text())
    grid = [{"method": ["triplet", "triplet+l2"], "lr": "draw"}, {"lr": "draw", "margin": "draw"}]
    draws = {"count": 4, "lr": [1e-5, 1e-1], "margin": [0.1, 0.5]}
    spec["studies"] = {"tuning": {"title": "", "seeds": 1, "grid": grid, "draws": draws}}
    path.write_text(yaml.safe_dump(spec))
    found = [cell.config for cell in studies.matrix(matrix_house)]
    assert len(found) == 12 and found == [cell.config for cell in studies.matrix(matrix_house)]
    rates = [[c.lr for c in found if c.method == method] for method in ("triplet", "triplet+l2")]
    assert rates[0] == rates[1] == [c.lr for c in found[8:]], "the k-th of one arm is that of another"
    for k, rate in enumerate(sorted(rates[0])):
        assert 10.0 ** (k - 5) <= rate <= 10.0 ** (k - 4)
    assert len({c.margin for c in found[8:]}) == 4 and all(0.1 <= c.margin <= 0.5 for c in found[8:])


def test_a_run_on_a_folder_is_named_by_it_wherever_the_folder_is(tmp_path):
    photographs = {"dataset": "folder", "backbone": "efficientnet_lite0"}
    config = Config(**photographs, data_root="birds", class_split=3)
    elsewhere = replace(config, data_root="/sets/birds")
    names = {studies.sweep_job(tmp_path, its, DATA).name for its in (config, elsewhere)}
    assert len(names) == 1 and names.pop().startswith("birds-triplet+mdr-")
    assert elsewhere.identity() == config.identity() != replace(config, data_root="cars").identity()
    assert studies.source_of(config) == studies.source_of(elsewhere) == "folder:birds/3"
    assert (
        studies.source_of(Config()) == "glyphs" and studies.source_of(Config(class_split=10)) == "glyphs/10"
    )


def test_a_folder_keeps_its_name_unless_what_decides_the_result_changes(tmp_path):
    def named(data=DATA, **changes):
        return studies.sweep_job(tmp_path, replace(Config(), **changes), data).name

    assert named() == "glyphs-triplet+mdr-s0-41864469"
    other = {"dataset": "omniglot", "method": "triplet+l2", "levels": (-1.0, 0.0, 2.0), "seed": 3}
    assert named(**other, weights="/a/b.pt") == "omniglot-triplet+l2-s3-ae8a0ebc"
    assert named(device="cpu", workers=3, data_root="/sets", cache_images=False) == named()
    assert len({named(), named(lr=0.5), named(levels=(0.0,)), named(dim=7), named({"train": "1"})}) == 5


def test_a_result_counts_whatever_fields_it_lacks_but_not_of_other_images(tmp_path):
    job = studies.sweep_job(tmp_path, Config(mdr_weight=0.4), DATA)
    older = {"mdr_weight": 0.4, "dataset": "glyphs"}  # of a version whose other fields were the defaults
    results = [result({"gone": 1}), result({"method": "none"}), result(older)]
    assert runs.is_done(job, runs.by_identity(results))
    assert not runs.is_done(job, runs.by_identity(results[:2]))
    assert not runs.is_done(job, runs.by_identity([result(older, {"train": "1", "test": "3"})]))


def test_a_cell_that_is_no_config_is_told_with_its_study(matrix_house):
    path = matrix_house / "ci/ablations.yml"
    path.write_text(path.read_text().replace("- 0.3", "- -1"))
    with pytest.raises(ValueError, match="study lambda, {.*}: mdr_weight .* got -1"):
        studies.matrix(matrix_house)
    with pytest.raises(ValueError, match=r"no study 'nu' in ci/ablations.yml; choose one of \['lambda', 'o"):
        studies.matrix(matrix_house, "nu")


def test_all_stored_runs_count_as_done():
    results, cells = runs.committed(ROOT), studies.matrix(ROOT)
    assert len(results) >= 600 and results.keys() <= {cell.config.identity() for cell in cells}
    for cell in cells:
        seen = results[cell.config.identity()].data
        data = {split: part["fingerprint"] for split, part in seen.items()}
        assert runs.is_done(studies.sweep_job(ROOT, cell.config, data), results)


def test_all_stored_runs_were_made_with_the_same_images_by_committed_code():
    seen = {}
    for run in (run for path in STORED for run in load_committed(path)):
        assert seen.setdefault(studies.source_of(Config.of(run.config)), run.data) == run.data
        assert run.git["dirty"] is False and len(run.git["commit"]) == 40


def test_the_main_comparison_has_settings_that_were_tried():
    def settings(study):
        return {
            (c.config.method, c.config.mdr_weight, c.config.pair_margin) for c in studies.matrix(ROOT, study)
        }

    assert settings("seeds") <= settings("tuning")
    assert all(cell.config.validation > 0 for cell in studies.matrix(ROOT, "tuning"))
