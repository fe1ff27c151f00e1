"""Search through shards against a loop over all vectors, and through faiss indices against exact search."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mdrlib import sharded_search
from mdrlib.retrieval import search

faiss = pytest.importorskip("faiss")


@pytest.fixture(params=["faiss", "torch"])
def path(request, monkeypatch):
    """With faiss and without."""
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "faiss", None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def oracle(query, gallery, k):
    """Distances and indices, equal ones in order of index."""
    d = np.linalg.norm(gallery[None].astype(float) - query[:, None].astype(float), axis=2)
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(d, order, 1), order


Y = torch.randn(90, 6, generator=seeded())
GALLERIES = {
    "random": Y,
    "ties": torch.randint(0, 2, (90, 4), generator=seeded(1)).float(),
    "copies at every border": Y[:5].repeat(18, 1),
    "constant": torch.ones(90, 3) / 3,
    "near": 1e3 + 1e-3 * torch.randn(90, 6, generator=seeded(2)).double().float(),
}


@pytest.mark.parametrize(
    "cuts", ([], [45], [1, 2, 50, 89], list(range(1, 90, 4))), ids=lambda cuts: len(cuts) + 1
)
@pytest.mark.parametrize("name", GALLERIES)
def test_shards_rank_as_one_gallery(name, cuts, path):
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
def test_memory_maps_are_read_where_they_are(dtype, tmp_path):
    array = Y.numpy().astype(dtype)
    given = []
    for i, part in enumerate((array[:30], array[30:])):
        np.save(tmp_path / f"{i}.npy", part)
        given.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    distances, indices = search(Y[:7], tuple(given), 3)
    want = oracle(Y[:7].numpy(), array.astype("float32"), 3)
    np.testing.assert_array_equal(indices, want[1])
    np.testing.assert_allclose(distances, want[0], rtol=1e-6, atol=1e-6)
    assert not given[0].flags.writeable, "the map was opened for reading alone"


def test_a_shard_larger_than_what_is_read_at_once(tmp_path):
    shard = np.lib.format.open_memmap(tmp_path / "0.npy", "w+", "float16", (280_000, 64))  # 2 pieces
    shard[:] = 9
    near = [5, 262_143, 262_144, 279_999]
    shard[near, 0] = [1, 3, 2, 4]
    distances, indices = search(torch.full((3, 64), 9.0), [Y[:0].new_ones(7, 64), shard], 283)
    assert torch.equal(indices[0, :8], torch.tensor([0, 1, 2, 3, 4, 6, 7, 8]) + 7)
    assert (distances[:, :283] == 0).all() and not (indices[:, :, None] == torch.tensor(near) + 7).any()
    shard[-1, 0] = np.nan
    with pytest.raises(ValueError, match=r"gallery\[1\] hold 1 NaN"):
        search(torch.zeros(1, 64), [shard[:1], shard], 1)


def test_float64_stays_float64_and_kinds_may_differ():
    distances, indices = search(Y[:5].double(), [Y[:40].half(), Y[40:].numpy()], 4)
    gallery = np.concatenate((Y[:40].half().double().numpy(), Y[40:].double().numpy()))
    want = oracle(Y[:5].double().numpy(), gallery, 4)
    assert distances.dtype == torch.float64
    np.testing.assert_array_equal(indices, want[1])
    np.testing.assert_allclose(distances, want[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "gallery, error, message",
    [
        (
            [],
            ValueError,
            "gallery has no vectors: give one shard or more",
        ),
        ([Y, Y.tolist()], TypeError, r"gallery\[1\] must be a torch.Tensor or an array, got list"),
        ([Y, Y.long()], TypeError, r"gallery\[1\] must be floating point, got torch.int64"),
        ([Y, Y.long().numpy()], TypeError, r"gallery\[1\] must be floating point, got torch.int64"),
        ([Y[0, 0]], ValueError, r"gallery\[0\] must have shape \(N, 6\), got \(\)"),
        ([Y[:0], Y[:0]], ValueError, "gallery has no vectors"),
        ([Y[:, :0]], ValueError, r"gallery\[0\] must have shape \(N, 6\), got \(90, 0\)"),
        ([Y, Y[0]], ValueError, r"gallery\[1\] must have shape \(N, 6\), got \(6,\)"),
        ([Y, Y[:, :3]], ValueError, r"gallery\[1\] must have shape \(N, 6\), got \(90, 3\)"),
        ([Y[:, :3]], ValueError, r"gallery\[0\] must have shape \(N, 6\), got \(90, 3\)"),
        ([Y, Y * torch.nan], ValueError, r"gallery\[1\] hold 540 NaN"),
        ([Y[:1], Y[:2]], ValueError, r"k must be at most 3 \(all neighbours\), got 4"),
    ],
)
def test_bad_shards_are_refused(gallery, error, message):
    with pytest.raises(error, match=message):
        search(Y, gallery, 4)


def batch(n, d=16, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


X, Q = batch(2000), batch(60, seed=1)
CODES, Q8 = batch(10_000, 8), batch(60, 8, 1)  # as many as the codewords ask for, 39 each


def test_all_lists_of_whole_vectors_are_exact_search():
    for query, gallery in ((Q, X), (X, None)):
        want = search(query, gallery, 9)
        for index in ("IVF32,Flat", "Flat"):
            got = search(query, gallery, 9, index, probes=32 if "IVF" in index else None)
            assert torch.equal(got[1], want[1])
            torch.testing.assert_close(got[0], want[0], rtol=3e-7, atol=0)
            assert got[0].dtype == torch.float32 and not got[0].requires_grad


def test_ties_within_the_candidates_are_ordered_by_index():
    x = X[:20].repeat(4, 1)
    got = search(X[:20], x, 4, "IVF4,Flat", probes=4)
    assert torch.equal(got[1], torch.arange(20)[:, None] + 20 * torch.arange(4))
    assert (got[0] == 0).all()


def test_more_probes_find_more_and_each_distance_is_true():
    exact = search(Q, X, 10)[1]
    index = sharded_search.build(X, "IVF64,Flat")
    recall = []
    for probes in (1, 4, 16, 64):
        distances, indices = search(Q, X, 10, index, probes)
        true = (X[indices].double() - Q.double()[:, None]).norm(dim=2)
        np.testing.assert_allclose(distances, true, rtol=1e-6)
        assert (distances.diff(dim=1) >= 0).all()
        recall.append((indices[:, :, None] == exact[:, None]).any(1).double().mean().item())
    assert recall == sorted(recall) and recall[0] < 0.6 < recall[2] < recall[3] == 1


def test_candidates_of_codes_are_ranked_by_true_distances():
    index = sharded_search.build(CODES, "IVF8,PQ2")
    exact = search(Q8, CODES, 5)[1]
    recall = {}
    for candidates in (5, 50, 2000, 10_000):
        found = search(Q8, CODES, 5, index, 8, candidates)[1]
        recall[candidates] = (found[:, :, None] == exact[:, None]).any(1).double().mean().item()
    assert recall[5] + 0.2 < recall[50] < recall[2000] <= recall[10_000] == 1
    raw = torch.from_numpy(index.search(Q8.numpy(), 5)[1])  # nprobe 1 again, as before
    index.nprobe = 8
    eight = torch.from_numpy(index.search(Q8.numpy(), 5)[1])
    index.nprobe = 1
    assert not torch.equal(raw, eight)
    # With as many candidates as neighbours only their order is ours.
    assert torch.equal(search(Q8, CODES, 5, index, 8, 5)[1].sort(1).values, eight.sort(1).values)
    default = search(Q8, CODES, 5, index, 8)[1]
    assert torch.equal(default, search(Q8, CODES, 5, index, 8, 100)[1])


def test_the_query_is_left_out_by_index_and_its_copies_stay():
    x = X[:30].repeat(5, 1)
    distances, indices = search(x, k=4, index="IVF4,Flat", probes=1, candidates=4)
    assert (indices != torch.arange(150)[:, None]).all()
    assert torch.equal(indices % 30, (torch.arange(150) % 30)[:, None].expand(-1, 4))
    assert (distances == 0).all()
    # 150 copies crowd the query itself out of what the index hands over.
    constant = torch.ones(150, 4)
    indices = search(constant, k=4, index="Flat", candidates=4)[1]
    assert (indices != torch.arange(150)[:, None]).all()
    assert all(len(set(row)) == 4 for row in indices.tolist())


def test_a_query_that_finds_too_few_is_searched_for_in_more_lists():
    """Two far points are alone in their lists, so that one list never has 3 neighbours."""
    x = torch.cat((X[:500], torch.full((1, 16), 1e3), torch.full((1, 16), -1e3)))
    index = sharded_search.build(x, "IVF6,Flat")
    sizes = [index.invlists.list_size(i) for i in range(6)]
    assert sizes.count(1) == 2
    for query, gallery in ((x, None), (x, x)):
        distances, indices = search(query, gallery, 3, index, probes=1)
        assert (indices >= 0).all() and distances.isfinite().all()
        assert (indices[-2:] != torch.tensor([[500], [501]])).all() == (gallery is None)
        assert all(len(set(row)) == 3 for row in indices.tolist())
    whole = search(x, None, 501, index, probes=1)
    assert torch.equal(whole[1].sort(1).values, search(x, k=501)[1].sort(1).values)
    assert index.nprobe == 1, "an index keeps its nprobe"


def test_an_index_that_can_look_no_further_is_an_error():
    hnsw = sharded_search.build(X[:200], "HNSW4")
    hnsw.hnsw.efSearch = 1
    hnsw.reset()
    copies = X[:1].repeat(200, 1)
    hnsw.add(copies.numpy())
    finds = (hnsw.search(Q.numpy(), 200)[1] >= 0).sum(1).min()
    assert finds < 200, "otherwise this test shows nothing"
    with pytest.raises(ValueError, match="the index finds fewer than 200 neighbours for .* of 60 queries"):
        search(Q, copies, 200, hnsw)


@pytest.mark.parametrize("dtype", ("float32", "float16"))
def test_memory_maps_give_what_a_tensor_gives(dtype, tmp_path):
    array = X.numpy().astype(dtype)
    given = []
    for i, part in enumerate(np.split(array, [300, 1999])):
        np.save(tmp_path / f"{i}.npy", part)
        given.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    for index, probes in (("IVF16,Flat", 3), ("IVF16,SQ8", 16)):
        whole = search(Q, torch.from_numpy(array).float(), 5, index, probes)
        got = search(Q, given, 5, index, probes)
        assert torch.equal(whole[0], got[0]) and torch.equal(whole[1], got[1])


def test_a_trained_index_takes_shards_one_by_one_and_lists_may_lie_on_disk(tmp_path):
    from faiss.contrib.ondisk import merge_ondisk

    shards = [X[:700], X[700:1500], X[1500:]]
    empty = sharded_search.train(shards, "IVF16,Flat")
    assert empty.is_trained and empty.ntotal == 0
    names = []
    for i, shard in enumerate(shards):
        names.append(str(tmp_path / f"{i}.index"))
        first = sum(len(before) for before in shards[:i])
        faiss.write_index(sharded_search.build(shard, faiss.clone_index(empty), first), names[-1])
    merge_ondisk(empty, names, str(tmp_path / "lists"))
    want = search(Q, X, 5, "IVF16,Flat", 4)
    got = search(Q, shards, 5, empty, 4)
    assert torch.equal(got[1], want[1]) and torch.equal(got[0], want[0])


def test_shards_of_faiss_are_an_index_too():
    whole = faiss.IndexShards(16, False, True)  # ids follow on from shard to shard
    halves = [sharded_search.build(part, "Flat") for part in (X[:900], X[900:])]
    for half in halves:
        whole.add_shard(half)
    assert torch.equal(search(Q, X, 6, whole)[1], search(Q, X, 6)[1])


def test_float64_and_half_precision():
    for dtype, kept in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
        want = search(Q.to(dtype), X.to(dtype), 5)
        got = search(Q.to(dtype), X.to(dtype), 5, "IVF8,Flat", 8)
        assert torch.equal(got[1], want[1]) and got[0].dtype == kept
        torch.testing.assert_close(got[0], want[0], rtol=3e-7, atol=0)


def test_many_queries_are_searched_in_chunks():
    index = sharded_search.build(X, "IVF16,Flat")
    many = Q.repeat(40, 1)  # 2400 queries with 2000 candidates each
    distances, indices = search(many, X, 5, index, 2, 2000)
    want = search(Q, X, 5, index, 2, 2000)
    assert torch.equal(indices, want[1].repeat(40, 1)) and torch.equal(distances, want[0].repeat(40, 1))


@pytest.mark.parametrize(
    "index, message",
    [
        ("nonsense", "could not parse index string nonsense"),
        ("", "could not parse index string"),
        ("IVF99999999999999,Flat", "stoi"),
        ("IVF16,PQ7", "multiple of the number of subquantizers"),
        ("IVF4096,Flat", "training points .2000. should be at least .* clusters .4096."),
    ],
)
def test_faiss_refuses_a_string_that_makes_no_index(index, message):
    for call in (lambda: search(Q, X, 5, index), lambda: sharded_search.build(X, index)):
        with pytest.raises(ValueError, match=f"^faiss refuses the index '.*{message}") as caught:
            call()
        assert len(str(caught.value)) < 300 and "/" not in str(caught.value) and "\n" not in str(caught.value)


FLAT = sharded_search.build(X, "Flat")
DOT = faiss.IndexFlatIP(16)
DOT.add(X.numpy())


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            (Q, X[:9], 5, FLAT),
            ValueError,
            "has 2000 vectors and the gallery 9: rebuild",
        ),
        ((Q[:, :3], X[:, :3], 5, FLAT), ValueError, "the index has 16 dimensions and the vectors 3: rebuild"),
        ((Q, X, 5, DOT), ValueError, "for Euclidean distances"),
        (
            (Q, X, 5, FLAT, None, 4),
            ValueError,
            "fewer than 5 neighbours for 60 of 60 queries: raise candidates",
        ),
        ((Q, X, 2001, FLAT), ValueError, r"k must be at most 2000 \(all neighbours\)"),
        ((X, None, 2000, FLAT), ValueError, r"k must be at most 1999 \(all neighbours\)"),
        ((Q, X[:, :3], 5, "Flat"), ValueError, r"gallery.0. must have shape \(N, 16\), got \(2000, 3\)"),
        ((Q * torch.nan, X, 5, "Flat"), ValueError, "query hold 960 NaN"),
        ((Q, X * torch.nan, 5, "Flat"), ValueError, r"gallery\[0\] hold 32000 NaN"),
        ((Q, X * torch.nan, 5, "IVF4,Flat"), ValueError, "gallery hold 32000 NaN"),
        (
            (Q, X, 5, faiss.index_factory(16, "IVF4,Flat")),
            ValueError,
            "the index is not trained: make it with",
        ),
        (
            (Q, X, 5, faiss.IndexBinaryFlat(16)),
            TypeError,
            "must be a faiss.Index or a string .*IndexBinaryFlat",
        ),
        ((Q, X, 5, Path("a.index")), TypeError, r"must be a faiss.Index or a string .*a.index"),
        ((Q, X, 5, FLAT, 0), ValueError, "probes must be a whole number of at least 1, got 0"),
        ((Q, X, 5, FLAT, "4"), TypeError, "probes must be a whole number of at least 1, got '4'"),
        ((Q, X, 5, FLAT, None, 0), ValueError, "candidates must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        search(*arguments)


@pytest.mark.parametrize("index", ("x" * 10**6, "HNSW0", "IVF0,Flat", 5, None), ids=lambda i: str(i)[:9])
def test_what_describes_no_index_is_refused(index):
    with pytest.raises(ValueError, match='^index must be a string such as "IVF4096,PQ32", got .{1,80}$'):
        sharded_search.train(X, index)


def test_an_index_that_takes_no_vectors_or_numbers_is_refused():
    for index, first, message in (
        (faiss.index_factory(16, "IVF4,Flat"), None, "the index is not trained"),
        (faiss.index_factory(9, "Flat"), None, "the index has 9 dimensions and the vectors 16"),
        (faiss.index_factory(16, "Flat"), 5, "faiss refuses the index .*: add_with_ids not implemented"),
        (faiss.index_factory(16, "IVF4,Flat"), None, "the index is not trained"),
        (sharded_search.train(X, "IVF4,Flat"), 10**30, "faiss refuses the index .* int too large"),
        (faiss.index_factory(16, "Flat"), -1, "first must be a whole number of at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            sharded_search.build(X, index, first)


def test_an_index_that_searches_no_list_is_refused():
    """Twice 0 lists are 0 lists: without the check the search would not end."""
    index = sharded_search.build(X, "IVF16,Flat")
    index.nprobe = 0
    with pytest.raises(ValueError, match="the index has nprobe 0: set it to 1 or more, or pass probes"):
        search(Q, X, 5, index)
    assert search(Q, X, 5, index, 16)[1].equal(search(Q, X, 5)[1])
    assert index.nprobe == 0, "an index keeps its nprobe"


def test_more_probes_than_lists_search_all_lists():
    assert search(Q, X, 5, "IVF16,Flat", 10**30)[1].equal(search(Q, X, 5)[1])


def test_without_faiss_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    for call in (lambda: search(Q, X, 5, "Flat"), lambda: sharded_search.build(X, "Flat")):
        with pytest.raises(ImportError, match=r'needs faiss: pip install "mdrlib\[search\]"'):
            call()
    assert search(Q, X, 5)[1].shape == (60, 5)
