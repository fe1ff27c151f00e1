"""The measurement of search in large galleries: what it generates, and that its rows say what was found."""

import numpy as np
import pytest
import torch

from bench import ann


def test_the_mixture_is_as_its_docstring_says():
    x, labels, query, query_labels = ann.generate("mixture", 20_000, 50)
    assert x.shape == (20_000, 128) and query.shape == (50, 128) and x.dtype == torch.float32
    assert (torch.bincount(labels) == 50).all() and len(torch.bincount(labels)) == 400
    assert query_labels.max() < 400
    centres = torch.zeros(400, 128).index_add_(0, labels, x) / 50
    within = (x - centres[labels]).var(0) * 50 / 49
    between = centres.var(0) - within / 50
    assert float(within.sum() / between.sum()) == pytest.approx(0.8, rel=0.1)
    # Logarithms of the variances fall by 1 along 32 axes within a class, along 16 between centres.
    axes = np.arange(40)
    assert np.polyfit(axes, within[:40].log(), 1)[0] == pytest.approx(-1 / 32, rel=0.05)
    assert np.polyfit(axes, between[:40].log(), 1)[0] == pytest.approx(-1 / 16, rel=0.1)
    own = (query - centres[query_labels]).norm(dim=1).mean()
    assert own < 0.8 * (query - centres[query_labels.roll(1)]).norm(dim=1).mean(), "of other classes"


def test_the_gaussian_has_no_structure():
    x = ann.generate("gaussian", 5000, 10)[0]
    assert np.cov(x.T.numpy()) == pytest.approx(np.eye(128), abs=0.1)


def test_recalls_by_hand():
    exact = torch.tensor([[0, 1], [2, 3]])
    found = torch.tensor([[0, 9], [3, 2]])
    got = ann.recalls(found, exact, torch.tensor([5, 5, 6, 6]), torch.tensor([5, 7]))
    assert got == {"recall_of_nearest": 0.5, "recall_of_10": 0.75, "label_recall@1": 0.5}


def test_rows_of_a_small_gallery(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(ann, "QUERIES", 40)
    monkeypatch.setattr(ann, "INDICES", {"mixture": {"Flat": [(1, None), (8, None)], "SQ8": [(8, 10)]}})
    rows = ann.searches("mixture", 1000, 8, 1)
    assert [row["what"] for row in rows[:2]] == ["search", "faiss.knn"] and len(rows) == 5
    for row in rows[:2] + rows[3:4]:  # exact, and all lists of whole vectors
        assert row["recall_of_nearest"] == row["recall_of_10"] == 1
    assert rows[2]["recall_of_10"] < 1 and (rows[2]["probes"], rows[2]["candidates"]) == (1, 100)
    assert (rows[4]["index"], rows[4]["candidates"]) == ("IVF8,SQ8", 10)
    assert 128 < rows[4]["bytes_per_vector"] < 160 < 512 < rows[3]["bytes_per_vector"] < 540
    for row in rows:
        assert row["cpu_s"] > 0 and row["median_s"] > 0 and row["what"] in ann.line(row)


@pytest.mark.slow
def test_shards_find_what_one_gallery_finds(monkeypatch):
    monkeypatch.setattr(ann, "QUERIES", 20)
    one, many = ann.shards(800)
    assert many["same_indices"] and many["largest_relative_difference"] < 1e-6
    assert {"seconds", "cpu_s", "peak_mb", "peak_own_mb"} <= set(one)
