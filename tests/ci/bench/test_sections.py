"""What retrieval and the triplet loss are measured against gives the same numbers, and sections give rows."""

import json

import pytest
import torch

from bench import measuring, retrieval, step, triplets
from mdrlib.retrieval import evaluate

KEYS = {*measuring.TIMES, "what", "size", "ratio_to", "memory_mb", "accuracy", "target", "met"}


def test_the_authors_loop_finds_what_evaluate_does():
    x, labels = retrieval.clusters(120, 6, 0.3)
    got, want = retrieval.loop(x, labels, (1, 4), 120), evaluate(x, labels, ks=(1, 4))
    assert 0.1 < want["recall@1"] < 1
    assert got == pytest.approx({key: want[key] for key in got})


def test_the_peers_metrics_are_those_of_evaluate():
    pytest.importorskip("pytorch_metric_learning")
    x, labels = retrieval.clusters(120, 6, 0.3)
    got, want = retrieval.calculator(x, labels), evaluate(x, labels, ks=(1,))
    assert got == pytest.approx(want, abs=1e-6)


def test_the_peers_loss_over_all_triplets_is_ours():
    pytest.importorskip("pytorch_metric_learning")
    x, labels = triplets.batch(40)
    got, want = (f("all_triplets")(x, labels) for f in (triplets.theirs, triplets.ours))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("section", (retrieval, triplets))
@pytest.mark.parametrize("installed", (True, False))
def test_a_section_gives_rows(section, installed, monkeypatch):
    if installed:
        pytest.importorskip("pytorch_metric_learning")
    else:
        monkeypatch.setattr(section, "peer", lambda name: False)
    monkeypatch.setattr(section, "peak_memory", lambda code, setup="": 1.5)
    rows = section.measure(quick=True)
    assert all(set(row) >= KEYS for row in rows)
    assert any("not installed" in row.get("note", "") for row in rows) is not installed
    assert all((row["met"] is None) == (row["target"] is None) for row in rows)
    for row in rows:
        assert json.dumps(row) and measuring.line(row)
        assert row["median_s"] is None or row["p10_s"] <= row["median_s"] <= row["p90_s"]


@pytest.mark.slow
def test_the_code_whose_memory_is_measured_runs():
    assert retrieval.memory({**retrieval.SOP, "images": 1500}, "cpu", 500) > 3
    assert triplets.memory("ours", "all_triplets", 64, "cpu") < 100


def test_the_parts_of_a_step_of_the_small_network(monkeypatch):
    monkeypatch.setattr(step, "_paper", lambda *_: [])  # a step of BN-Inception takes seconds
    monkeypatch.setattr(step, "side_by_side", lambda parts, *_, **__: measuring.side_by_side(parts, 1, 0))
    rows = step.measure(quick=True)
    assert [row["part"] for row in rows] == ["data", "network", "triplet loss", "MDR"]
    assert all(row["median_s"] > 0 for row in rows) and rows[-1]["images_per_second"] > 0
