"""ci/matrix.py: what runs there are, each once, what they are called, and which are done."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import matrix
from mdrlib.experiment import Config
from mdrlib.results import Result

ROOT = Path(__file__).resolve().parents[2]
SPEC = yaml.safe_load((ROOT / "ci/ablations.yml").read_text())
DATA = {"glyphs": {"train": "1", "test": "2"}}


def result(config, data=DATA["glyphs"]):
    seen = {split: {"images": 1, "fingerprint": text} for split, text in data.items()}
    return Result(config, {}, "last", 1.0, {}, None, seen, [])


def test_each_run_is_there_once_and_the_first_seeds_come_first(matrix_house):
    found = matrix.cells(matrix_house)
    settings = [(cell.config.seed, cell.config.mdr_weight) for cell in found]
    assert settings == [(0, 0.1), (0, 0.2), (0, 0.3), (1, 0.1), (1, 0.2), (1, 0.3)]
    assert [cell.studies for cell in found] == [("lambda", "other"), ("lambda",), ("lambda",)] * 2
    assert all(cell.config.iterations == 4 for cell in found)
    assert [cell.config.mdr_weight for cell in matrix.cells(matrix_house, "other")] == [0.1, 0.1]
    smoke = matrix.cells(matrix_house, smoke=True)
    assert [(cell.config.seed, cell.config.iterations) for cell in smoke] == [(0, 2)] * 3


def test_editing_the_matrix_changes_no_name_and_what_decides_a_result_changes_its(matrix_house):
    path = matrix_house / "ci/ablations.yml"
    before = [cell.name(DATA) for cell in matrix.cells(matrix_house, "other")]
    path.write_text(path.read_text().replace("lambda:", "weights:").replace("- 0.2", "- 0.7"))
    assert [cell.name(DATA) for cell in matrix.cells(matrix_house, "other")] == before
    cell = matrix.cells(matrix_house, "other")[0]
    assert before[0].startswith("glyphs-triplet+mdr-s0-") and len(before[0].split("-")[-1]) == 8

    def named(**changes):
        return matrix.Cell(replace(cell.config, **changes), ()).name(DATA)

    assert named(device="cpu", workers=3, data_root="/sets", cache_images=False) == before[0]
    assert len({named(), named(lr=0.5), named(levels=(0.0,)), named(dim=7)}) == 4
    assert cell.name({"glyphs": {"train": "1", "test": "other"}}) != before[0]


def test_a_result_counts_whatever_fields_it_lacks_but_not_of_other_images():
    config = Config(mdr_weight=0.4)
    cell = matrix.Cell(config, ())
    older = {"mdr_weight": 0.4, "dataset": "glyphs"}  # of a version whose other fields were the defaults
    done = matrix.by_identity([result({"gone": 1}), result({"method": "none"}), result(older)])
    assert list(done) == [cell.identity]
    assert matrix.saw(done[cell.identity], DATA)
    assert not matrix.saw(done[cell.identity], {"glyphs": {"train": "1", "test": "3"}})


def test_a_cell_that_is_none_is_told_with_its_study(matrix_house):
    path = matrix_house / "ci/ablations.yml"
    path.write_text(path.read_text().replace("- 0.3", "- -1"))
    with pytest.raises(
        ValueError, match="study lambda, {.*}: mdr_weight must be finite and not negative, got -1"
    ):
        matrix.cells(matrix_house)
    with pytest.raises(ValueError, match=r"no study 'nu' in ci/ablations.yml; it has \['lambda', 'other'\]"):
        matrix.cells(matrix_house, "nu")


def test_the_matrix_of_the_book():
    found = matrix.cells(ROOT)
    assert len({cell.identity for cell in found}) == len(found)
    by_study = {name: [c for c in found if name in c.studies] for name in SPEC["studies"]}
    for name, study in SPEC["studies"].items():
        assert len(by_study[name]) == len(list(matrix.points(study["grid"]))) * study.get(
            "seeds", SPEC["seeds"]
        )
    base = Config.of(SPEC["base"] | {"seed": 0})
    of_base = next(cell for cell in found if cell.config == base)
    assert {"lambda", "levels", "positions", "momentum", "heads", "dim", "noise", "length"} <= set(
        of_base.studies
    )
    assert {len(cell.config.levels) for cell in by_study["levels"]} == {1, 2, 3, 5, 7, 9, 15}
    assert all(cell.config.validation > 0 for cell in by_study["tuning"])
    chosen = {(c.config.method, c.config.mdr_weight, c.config.pair_margin) for c in by_study["seeds"]}
    tried = {(c.config.method, c.config.mdr_weight, c.config.pair_margin) for c in by_study["tuning"]}
    assert chosen <= tried, "the main comparison has settings that were not tried"
    smoke = matrix.cells(ROOT, smoke=True)
    assert {cell.config.seed for cell in smoke} == {0, 1}
    assert {(cell.config.dataset, cell.config.iterations) for cell in smoke} == {("glyphs", 2)}
