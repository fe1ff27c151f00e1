"""Exact search through parts of a gallery, in memory and mapped, against a loop over all vectors."""

import sys

import numpy as np
import pytest
import torch

from mdrlib import parts
from mdrlib.retrieval import search


@pytest.fixture(params=["faiss", "torch"], autouse=True)
def path(request, monkeypatch):
    """Every test runs with faiss and without."""
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "faiss", None)
    else:
        pytest.importorskip("faiss")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def oracle(query, gallery, k):
    """Distances and indices, equal ones in order of index."""
    d = np.linalg.norm(gallery[None].astype(float) - query[:, None].astype(float), axis=2)
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(d, order, 1), order


X = torch.randn(90, 6, generator=seeded())
GALLERIES = {
    "random": X,
    "ties": torch.randint(0, 2, (90, 4), generator=seeded(1)).float(),
    "copies at every border": X[:5].repeat(18, 1),
    "constant": torch.ones(90, 3) / 3,
    "near": 1e3 + 1e-3 * torch.randn(90, 6, generator=seeded(2)).double().float(),
}


@pytest.mark.parametrize(
    "cuts", ([], [45], [1, 2, 50, 89], list(range(1, 90, 4))), ids=lambda cuts: len(cuts) + 1
)
@pytest.mark.parametrize("name", GALLERIES)
def test_parts_rank_as_one_gallery(name, cuts, monkeypatch):
    monkeypatch.setattr(parts, "PIECE", 40)  # 6 to 13 vectors at a time
    gallery = GALLERIES[name]
    query = torch.cat((gallery[:4], gallery[40:44] + 0.25))
    given = [gallery[a:b] for a, b in zip([0, *cuts], [*cuts, 90], strict=True)]
    for k in (1, 5, 90):
        distances, indices = search(query, given, k)
        want = oracle(query.numpy(), gallery.numpy(), k)
        np.testing.assert_array_equal(indices, want[1])
        np.testing.assert_allclose(distances, want[0], rtol=1e-6)
        one = search(query, gallery, k)
        assert torch.equal(indices, one[1]) and distances.dtype == one[0].dtype == torch.float32
        torch.testing.assert_close(distances, one[0], rtol=2e-7, atol=0)


@pytest.mark.parametrize("dtype", ("float32", "float16", "float64", ">f4"))
def test_memory_maps_are_read_where_they_are(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PIECE", 100)
    array = X.numpy().astype(dtype)
    given = []
    for i, part in enumerate((array[:30], array[30:])):
        np.save(tmp_path / f"{i}.npy", part)
        given.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    distances, indices = search(X[:7], tuple(given), 3)
    want = oracle(X[:7].numpy(), array.astype("float32"), 3)
    np.testing.assert_array_equal(indices, want[1])
    np.testing.assert_allclose(distances, want[0], rtol=1e-6, atol=1e-6)
    assert not given[0].flags.writeable, "the map was opened for reading alone"


def test_parts_are_read_a_piece_at_a_time(monkeypatch):
    monkeypatch.setattr(parts, "PIECE", 60)
    seen = []
    embeddings = parts.checks.embeddings

    def spy(x, name, **options):
        seen.append((name, len(x)))
        return embeddings(x, name, **options)

    monkeypatch.setattr(parts.checks, "embeddings", spy)
    list(parts.pieces([X[:25], X[25:30].numpy()], X))
    assert seen == [("gallery[0]", 10), ("gallery[0]", 10), ("gallery[0]", 5), ("gallery[1]", 5)]


def test_float64_stays_float64_and_kinds_may_differ():
    distances, indices = search(X[:5].double(), [X[:40].half(), X[40:].numpy()], 4)
    gallery = np.concatenate((X[:40].half().double().numpy(), X[40:].double().numpy()))
    want = oracle(X[:5].double().numpy(), gallery, 4)
    assert distances.dtype == torch.float64
    np.testing.assert_array_equal(indices, want[1])
    np.testing.assert_allclose(distances, want[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "gallery, error, message",
    [
        ([], ValueError, "gallery is an empty list: give one part or more"),
        ([X, X.tolist()], TypeError, r"gallery\[1\] must be a tensor or an array \(N, D\), got list"),
        ([X, X.long()], TypeError, r"gallery\[1\] must be floating point, got torch.int64"),
        ([X, X.long().numpy()], TypeError, r"gallery\[1\] must be floating point, got int64"),
        ([X, X[0]], ValueError, r"gallery\[1\] must hold one vector or more.*got \(6,\)"),
        ([X[:0], X], ValueError, r"gallery\[0\] must hold one vector or more.*got \(0, 6\)"),
        ([X, X[:, :3]], ValueError, r"gallery\[0\] has 6 dimensions and gallery\[1\] 3"),
        ([X[:, :3]], ValueError, "query has 6 dimensions and gallery 3"),
        ([X, X * torch.nan], ValueError, r"gallery\[1\] hold 540 NaN"),
        ([X[:1], X[:2]], ValueError, "k must be an integer from 1 to the 3 neighbours there are, got 4"),
    ],
)
def test_bad_parts_are_refused(gallery, error, message):
    with pytest.raises(error, match=message):
        search(X, gallery, 4)
