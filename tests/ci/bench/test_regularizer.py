"""What the regularizer is measured against: the authors' formulation, by their numbers, and float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import measuring
from bench import regularizer as section

REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "mdr_parity.json").read_text())


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"{c['N']}x{c['D']}")
def test_the_authors_formulation_gives_their_numbers(case):
    n, d = case["N"], case["D"]
    assert case["momentum"] == 0.9
    authors = section.Authors()
    authors.levels.data = torch.tensor(case["levels"])
    for t, want in enumerate(case["steps"]):
        k = np.arange(n * d, dtype=np.float64)
        values = case["scale"] * np.sin((0.7 + 0.1 * t) * k + 0.3 * t)
        loss, gradient = section.step(authors, torch.tensor(values.astype(np.float32).reshape(n, d)))
        assert loss.item() == pytest.approx(want["loss"], rel=1e-5)
        assert gradient.norm().item() == pytest.approx(want["grad_norm"], rel=1e-5)
        if t == 0:
            x = torch.tensor(values.astype(np.float32).reshape(n, d))
            wide = section.reference(x, tuple(sorted(case["levels"])))
            assert wide[0].item() == pytest.approx(want["loss"], rel=1e-5)
            assert wide[1].norm().item() == pytest.approx(want["grad_norm"], rel=1e-5)


def test_every_candidate_computes_the_same(monkeypatch):
    monkeypatch.setattr(section, "SIZES", {"cpu": (96,)})
    monkeypatch.setattr(section, "memory", lambda *_: [])
    rows = section.measure(quick=True)
    assert [row["what"] for row in rows[:4]] == [
        "MDR, authors",
        "MDR, eager",
        "MDR, tiled",
        "E E^T twice, W E",
    ]
    for row in rows:
        assert row["median_s"] > 0 and measuring.line(row)
        if row["accuracy"]:
            assert row["accuracy"]["loss"] < 1e-5 and row["accuracy"]["gradient"] < 1e-2
    assert rows[2]["target"] == "at least 1.3 x faster than authors, not slower than eager"


def test_a_target_is_met_by_the_ratio_of_medians():
    times = {name: {"median_s": s} for name, s in (("authors", 3.1), ("tiled", 1.0), ("products", 0.5))}
    assert section.verdict(1024, "cpu", "tiled", times, {})["met"]
    times["products"]["median_s"] = 0.3
    assert not section.verdict(1024, "cpu", "tiled", times, {})["met"]
    del times["products"]
    assert section.verdict(1024, "cpu", "tiled", times, {})["met"] is None
    assert section.verdict(2048, "cpu", "tiled", times, {}) == {}
