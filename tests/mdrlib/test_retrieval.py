"""Search and metrics against loops over all pairs, and the corners where retrieval code goes wrong."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrlib.retrieval import evaluate, search


@pytest.fixture(params=["faiss", "torch"], autouse=True)
def path(request, monkeypatch):
    """Every test runs with faiss and without."""
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "faiss", None)
    else:
        pytest.importorskip("faiss")
    return request.param


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n, d, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=seeded(seed), dtype=torch.float64).to(dtype)


def small_integers(n, d, seed=0, values=2):
    """Points of a small grid: many duplicates, many equal distances, and all of them exact in float32."""
    return torch.randint(0, values, (n, d), generator=seeded(seed)).float()


def search_oracle(query, gallery, k):
    alone = gallery is None
    q = query.double().numpy()
    g = q if alone else gallery.double().numpy()
    distances, indices = [], []
    for i, point in enumerate(q):
        d = np.sqrt(((g - point) ** 2).sum(1))
        order = [int(j) for j in np.argsort(d, kind="stable") if not (alone and j == i)][:k]
        indices.append(order)
        distances.append(d[order])
    return np.array(distances), np.array(indices)


def evaluate_oracle(query, query_labels, gallery, gallery_labels, ks):
    """Recall@K, R-Precision and MAP@R, query by query, from their definitions."""
    alone = gallery is None
    size = len(query) - 1 if alone else len(gallery)
    ranking = search_oracle(query, gallery, size)[1]
    y, g = query_labels.tolist(), (query_labels if alone else gallery_labels).tolist()
    recall, precision, average = {k: [] for k in ks}, [], []
    for i, ranked in enumerate(ranking):
        right = [g[j] == y[i] for j in ranked]
        r = sum(right)
        if r == 0:
            continue
        for k in ks:
            recall[k].append(any(right[:k]))
        precision.append(sum(right[:r]) / r)
        average.append(sum(sum(right[: i + 1]) / (i + 1) for i in range(r) if right[i]) / r)
    named = {f"recall@{k}": np.mean(recall[k]) for k in ks}
    return named | {"r_precision": np.mean(precision), "map@r": np.mean(average)}


CLOUDS = {
    "random": batch(60, 8),
    "one dimension": batch(40, 1),
    "far": 1e4 + batch(60, 8),
    "grid": small_integers(80, 4),
    "duplicates": batch(4, 6).repeat(12, 1),
    "constant": torch.ones(30, 3) / 3,
    "zeros": torch.zeros(30, 3),
    "tight clusters": 100 * batch(4, 16, 1).repeat(15, 1) + 1e-4 * batch(60, 16, 2),
    "an outlier": torch.cat((small_integers(40, 3), torch.full((1, 3), 1e3))),
    "two points": batch(2, 3),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_search_equals_the_loop(name):
    for x in (CLOUDS[name], CLOUDS[name].double()):
        n = len(x)
        for query, gallery, there in ((x, None, n - 1), (x.flip(0), x, n)):
            for k in {1, min(5, there), min(17, there), there}:
                d, indices = search(query, gallery, k)
                want = search_oracle(query, gallery, k)
                assert d.dtype == x.dtype and indices.dtype == torch.int64
                np.testing.assert_allclose(d, want[0], rtol=1e-6)
                if name != "tight clusters" or x.dtype == torch.float64:
                    np.testing.assert_array_equal(indices, want[1])
                else:  # float32 cannot tell all of these distances apart
                    true = np.linalg.norm(x.double()[indices] - query.double()[:, None], axis=2)
                    np.testing.assert_allclose(true, want[0], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 40),
    m=st.integers(1, 40),
    d=st.integers(1, 4),
    values=st.integers(1, 3),
    k=st.integers(1, 40),
)
def test_ties_are_ordered_by_index_however_many_there_are(seed, n, m, d, values, k):
    x, y = small_integers(n, d, seed, values), small_integers(m, d, seed + 1, values)
    np.testing.assert_array_equal(search(x, y, min(k, m))[1], search_oracle(x, y, min(k, m))[1])
    np.testing.assert_array_equal(search(x, k=min(k, n - 1))[1], search_oracle(x, None, min(k, n - 1))[1])


@pytest.mark.parametrize("copies", (2, 5, 9, 40))
def test_a_query_is_left_out_by_index_and_its_duplicates_stay(copies):
    """With more than k + 1 duplicates the query need not be among the nearest k + 1 at all."""
    x = batch(3, 5).repeat_interleave(copies, 0)
    for k in (1, 3):
        d, indices = search(x, k=k)
        assert (indices != torch.arange(len(x))[:, None]).all()
        same = min(k, copies - 1)
        assert (d[:, :same] == 0).all() and (d[:, same:] > 0).all()
        assert torch.equal(
            indices[:, :same] // copies, torch.arange(3).repeat_interleave(copies)[:, None].expand(-1, same)
        )
        np.testing.assert_array_equal(indices, search_oracle(x, None, k)[1])


def test_ties_at_the_cut_go_to_the_lower_index():
    """Eight corners of a cube, all as far from the middle, in an order of no help."""
    corners = torch.cartesian_prod(*3 * (torch.tensor([-1.0, 1.0]),))
    gallery = torch.cat((corners[torch.randperm(8, generator=seeded())], torch.full((30, 3), 9.0)))
    for k in range(1, 9):
        assert search(torch.zeros(1, 3), gallery, k)[1].tolist() == [list(range(k))]


def test_both_paths_agree(monkeypatch):
    x, y = batch(300, 24), torch.arange(300) // 6
    first = search(x, k=9), evaluate(x, y)
    monkeypatch.setitem(sys.modules, "faiss", None)
    second = search(x, k=9), evaluate(x, y)
    assert torch.equal(first[0][1], second[0][1])
    torch.testing.assert_close(first[0][0], second[0][0], rtol=5e-7, atol=0)  # sums of another order
    assert first[1] == second[1]


def test_chunks_of_queries_change_nothing():
    """With so many neighbours the queries are searched in several chunks."""
    x = batch(2200, 2)
    indices = search(x, k=2100)[1]
    some = torch.arange(0, 2200, 100)
    d = torch.cdist(x[some].double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    d[torch.arange(22), some] = torch.inf
    assert torch.equal(indices[some], d.square().sort(dim=1, stable=True).indices[:, :2100])


def test_many_copies_cost_neither_time_nor_memory():
    """Comparing all copies by differences would take minutes, and more memory than there is."""
    constant = torch.full((6000, 512), 1 / 3)
    distances, indices = search(constant, k=5)
    assert (distances == 0).all() and indices[100:].unique().tolist() == [0, 1, 2, 3, 4]
    copies = batch(100, 16).repeat(60, 1)
    indices = search(copies, k=7)[1]
    first = torch.arange(100)[:, None] + 100 * torch.arange(8)
    for i in (0, 99, 350, 5999):
        assert indices[i].tolist() == [j for j in first[i % 100].tolist() if j != i][:7]


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_is_computed_in_float32(dtype):
    x = (100 * batch(50, 32)).to(dtype)
    d, indices = search(x, k=4)
    assert d.dtype == torch.float32
    np.testing.assert_array_equal(indices, search_oracle(x.float(), None, 4)[1])
    np.testing.assert_allclose(d, search_oracle(x, None, 4)[0], rtol=1e-5)
    labels = torch.arange(50) // 5
    assert evaluate(x, labels) == evaluate(x.float(), labels)


def test_neither_autocast_nor_strides_nor_gradients_change_anything():
    x = torch.cat((batch(150, 6) - 5, batch(150, 6, 1) + 5))
    want = search(x, k=20)
    np.testing.assert_array_equal(want[1], search_oracle(x, None, 20)[1])
    with torch.autocast("cpu", torch.bfloat16):
        inside = search(x, k=20)
    strided = torch.empty(6, 600).T[::2].copy_(x).requires_grad_()
    assert not strided.is_contiguous()
    for d, indices in (inside, search(strided, k=20)):
        assert torch.equal(indices, want[1]) and torch.equal(d, want[0]) and not d.requires_grad
    labels = (torch.arange(600) // 12)[::2]
    assert evaluate(strided, labels) == evaluate(x, labels.clone())


CASES = {
    "classes of six": (batch(60, 4), torch.arange(60) // 6, None, None),
    "uneven classes": (batch(70, 3), torch.randint(-5, 12, (70,), generator=seeded()), None, None),
    "lone queries": (batch(30, 3), torch.cat((torch.arange(15), torch.arange(15) // 3)), None, None),
    "ties": (small_integers(60, 3), torch.randint(0, 5, (60,), generator=seeded(1)), None, None),
    "constant": (torch.ones(40, 3), torch.randint(0, 6, (40,), generator=seeded(2)), None, None),
    "a gallery": (batch(30, 4), torch.arange(30) % 9, batch(50, 4, 1), torch.arange(50) % 13),
    "unknown classes": (batch(30, 4), torch.arange(30) % 9, batch(20, 4, 1), torch.arange(20) % 4 * 2 + 5),
    "tied gallery": (
        small_integers(30, 3),
        torch.arange(30) % 4,
        small_integers(9, 3, 1),
        torch.arange(9) % 3,
    ),
    "one of many": (batch(1, 2), torch.tensor([3]), batch(20, 2, 1), torch.arange(20) % 5),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_evaluate_equals_the_loop(case):
    for ks in ((1, 2, 4, 8), (8, 1), (3,), (1, 1000)):
        for dtype in (torch.float32, torch.float64):
            query, gallery = (x if x is None else x.to(dtype) for x in case[::2])
            got = evaluate(query, case[1], gallery, case[3], ks)
            want = evaluate_oracle(query, case[1], gallery, case[3], ks)
            assert got == pytest.approx(want, abs=1e-12)
            assert list(got) == list(want) and all(type(value) is float for value in got.values())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 30), classes=st.integers(1, 6), tied=st.booleans())
def test_metrics_are_ordered_and_blind_to_names_and_moves(seed, n, classes, tied):
    labels = torch.randint(0, classes, (n,), generator=seeded(seed))
    labels[1] = labels[0]
    x = small_integers(n, 3, seed) if tied else batch(n, 3, seed, torch.float64)
    got = evaluate(x, labels, ks=(1, 2, 5))
    assert 0 <= got["map@r"] <= got["r_precision"] <= 1
    assert got["recall@1"] <= got["recall@2"] <= got["recall@5"] <= 1
    assert evaluate(x, 7 - 3 * labels, ks=(1, 2, 5)) == got
    assert evaluate(4 * x - 8, labels, ks=(1, 2, 5)) == got
    assert got == pytest.approx(evaluate_oracle(x, labels, None, None, (1, 2, 5)), abs=1e-12)


def test_by_hand():
    """On a line: a a b a b. Neighbours of each: 1 2 3 4 | 0 2 3 4 | 1 3 0 4 | 2 4 1 0 | 3 2 1 0."""
    x = torch.tensor([[0.0], [1.0], [2.1], [3.3], [4.6]])
    got = evaluate(x, torch.tensor([0, 0, 1, 0, 1]), ks=(1, 2, 3, 4))
    assert got["recall@1"] == pytest.approx(2 / 5)
    assert got["recall@2"] == pytest.approx(3 / 5)
    assert got["recall@3"] == pytest.approx(4 / 5)
    assert got["recall@4"] == 1
    assert got["r_precision"] == pytest.approx((1 / 2 + 1 / 2 + 0 + 0 + 0) / 5)
    assert got["map@r"] == pytest.approx((1 / 2 + 1 / 2 + 0 + 0 + 0) / 5)


def test_map_at_r_weighs_by_rank():
    """R = 3: right, wrong, right gives (1 + 2/3) / 3; the right one at rank 4 is beyond R."""
    gallery, labels = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([5, 6, 5, 5])
    got = evaluate(torch.zeros(1, 1), torch.tensor([5]), gallery, labels, ks=(1,))
    assert got == pytest.approx({"recall@1": 1.0, "r_precision": 2 / 3, "map@r": 5 / 9})


@pytest.mark.parametrize("x", [torch.ones(400, 8), torch.full((400, 3), 1 / 3), torch.zeros(400, 2)])
def test_constant_embeddings_get_what_chance_gives(x):
    labels = torch.arange(100).repeat(4)
    got = evaluate(x, labels)
    # Ordered by index, item 0 is the nearest of all: right for the other three of its class alone.
    assert got["recall@1"] == pytest.approx(3 / 400)
    assert got["recall@8"] < 0.09 and got["map@r"] < 0.01 and got["r_precision"] < 0.03
    sorted_labels = evaluate(x, torch.arange(100).repeat_interleave(4))
    assert sorted_labels["recall@1"] == pytest.approx(4 / 400)  # queries 0..3; the first item of 0 is 1
    assert sorted_labels["recall@8"] < 0.03


def test_duplicates_of_a_query_count_like_any_other():
    x = torch.tensor([[0.0], [0.0], [5.0], [5.0], [9.0]])
    assert evaluate(x, torch.tensor([0, 0, 1, 1, 2]), ks=(1,))["recall@1"] == 1
    assert evaluate(x, torch.tensor([0, 1, 0, 1, 2]), ks=(1,))["recall@1"] == 0


def test_a_lone_query_counts_in_no_metric_but_stands_in_the_others_way():
    x = torch.tensor([[0.0], [1.0], [0.1]])
    got = evaluate(x, torch.tensor([0, 0, 9]), ks=(1, 2))
    assert got == {"recall@1": 0.0, "recall@2": 1.0, "r_precision": 0.0, "map@r": 0.0}
    labels = torch.tensor([0, 1])
    got = evaluate(x[:2], labels, x, torch.tensor([0, 0, 5]), ks=(1,))
    assert got["recall@1"] == 1, "a query of a class that the gallery lacks counts in no metric"


def test_from_a_gallery_nothing_is_removed():
    x, labels = batch(12, 3), torch.arange(12)
    assert torch.equal(search(x, x, 1)[1][:, 0], labels)
    assert (search(x, x, 1)[0] == 0).all()
    got = evaluate(x, labels, x, labels)
    assert got == dict.fromkeys(got, 1.0)


def test_k_beyond_the_gallery_is_capped_by_evaluate_and_refused_by_search():
    x, labels = batch(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])
    capped = evaluate(x, labels, ks=(5, 6, 1000))
    assert capped["recall@5"] == capped["recall@6"] == capped["recall@1000"] == 1
    assert search(x, k=5)[1].shape == (6, 5) and search(x, x, 6)[1].shape == (6, 6)
    for arguments, there in (((x, None, 6), 5), ((x, x, 7), 6), ((x[:1], None, 1), 0)):
        with pytest.raises(ValueError, match=f"k must be at most {there} "):
            search(*arguments)


def test_labels_of_any_integers_in_any_pair():
    x, y = batch(40, 4), batch(30, 4, 1)
    a, b = torch.arange(40) % 2, torch.arange(30) % 2
    want = evaluate(x, a, y, b), evaluate(x, a)
    for first in (torch.int32, torch.uint8, torch.bool, torch.int64):
        for second in (torch.int64, torch.int16):
            assert evaluate(x, a.to(first), y, b.to(second)) == want[0]
        assert evaluate(x, a.to(first)) == want[1]


def test_inputs_are_left_as_they_were():
    x, y = batch(40, 4), torch.arange(40) // 4
    before = x.clone(), y.clone()
    evaluate(x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


X, Y = batch(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("k", (0, -1, 1.0, True, None, "1", -(10**5000)), ids=lambda k: type(k).__name__)
def test_k_must_be_a_positive_integer(k):
    with pytest.raises(
        (ValueError, TypeError), match="^k must be a whole number of at least 1, got .{1,80}$"
    ):
        search(X, k=k)


@pytest.mark.parametrize("exponent", (1, 30, 5000))
def test_k_is_at_most_the_gallery(exponent):
    with pytest.raises(ValueError, match=r"^k must be at most 5 \(all neighbours\), got .{1,80}$"):
        search(X, k=10**exponent)


def test_numbers_may_be_those_of_numpy_and_torch():
    assert search(X, k=np.int64(3))[1].equal(search(X, k=torch.tensor(3))[1])
    want = evaluate(X, Y, ks=(1, 3))
    assert want == evaluate(X, Y, ks=np.array([1, 3])) == evaluate(X, Y, ks=torch.tensor([1, 3]))
    assert evaluate(X, Y, ks=(1, 10**30))[f"recall@{10**30}"] == 1


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int32, torch.uint64, torch.bool))
def test_labels_may_be_integers_of_any_kind(dtype):
    y = torch.tensor([0, 0, 1, 1, 1, 0])
    assert evaluate(X, y.to(dtype), X, y) == evaluate(X, y, X, y.to(dtype)) == evaluate(X, y, X, y)


@pytest.mark.parametrize(
    "bad, error, message",
    [
        (X[:, 0], ValueError, r"NAME.* must have shape \(N, .\), got \(6,\)"),
        (X.long(), TypeError, "NAME.* must be floating point, got torch.int64"),
        (X.to(torch.float8_e5m2), TypeError, "NAME.* got torch.float8_e5m2; .* 16 bits or more"),
        (X.to(torch.complex64), TypeError, "NAME.* must be floating point, got torch.complex64"),
        (X.tolist()[0], TypeError, "NAME.* must be a torch.Tensor .*, got (list|float)"),
        (X * float("nan"), ValueError, "NAME.* hold 18 NaN or infinite values among 18"),
    ],
)
def test_bad_vectors_are_refused(bad, error, message):
    for call in (lambda: search(bad, k=1), lambda: evaluate(bad, Y)):
        with pytest.raises(error, match=message.replace("NAME", "query")):
            call()
    for call in (lambda: search(X, bad, 1), lambda: evaluate(X, Y, bad, Y[: len(bad)])):
        with pytest.raises(error, match=message.replace("NAME", "gallery")):
            call()


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((X, Y[:5]), ValueError, r"query_labels must have shape \(6,\), one per vector, got \(5,\)"),
        ((X, Y.float()), TypeError, "query_labels must be integers, got torch.float32"),
        ((X, Y.tolist()), TypeError, "query_labels must be a torch.Tensor .*, got list"),
        ((X, Y, X, Y[:5]), ValueError, r"gallery_labels must have shape \(6,\), one per vector, got \(5,\)"),
        ((X, Y, X, Y.float()), TypeError, "gallery_labels must be integers, got torch.float32"),
        ((X, Y, X), ValueError, "gallery and gallery_labels come together"),
        ((X, Y, None, Y), ValueError, "gallery and gallery_labels come together"),
        (
            (X, Y, X[:, :2], Y),
            ValueError,
            r"gallery.* must have (3 dimensions, got 2|shape \(N, 3\), got \(6, 2\))",
        ),
        ((X, torch.arange(6)), ValueError, "no query has a match in the gallery"),
        ((X, Y, X, Y + 3), ValueError, "no query has a match in the gallery"),
        ((X[:1], Y[:1]), ValueError, "no query has a match in the gallery"),
        ((X, "abbcca"), TypeError, "query_labels must be a torch.Tensor .*, got str"),
        ((X, Y, None, None, ()), ValueError, r"ks must be whole numbers such as \(1, 2, 4, 8\), got \(\)"),
        ((X, Y, None, None, 3), ValueError, r"ks must be whole numbers such as \(1, 2, 4, 8\), got 3"),
        ((X, Y, None, None, torch.tensor(3)), TypeError, "iteration over a 0-d tensor"),
        ((X, Y, None, None, None), ValueError, "ks must be whole numbers such as .*, got None"),
        ((X, Y, None, None, (1, 0)), ValueError, "each of ks must be a whole number of at least 1, got 0"),
        ((X, Y, None, None, "12"), TypeError, "each of ks must be a whole number of at least 1, got '1'"),
        ((X, Y, None, None, (1.5,)), TypeError, "each of ks must be a whole number of at least 1, got 1.5"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate(*arguments)
    if "3 dimensions" in message:
        with pytest.raises(error, match=message):
            search(X, arguments[2], 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    for x in (batch(300, 24), small_integers(200, 4), torch.ones(50, 3)):
        d, indices = search(x.cuda(), k=7)
        assert d.is_cuda and torch.equal(indices.cpu(), search(x, k=7)[1])
        labels = torch.arange(len(x)) // 5
        assert evaluate(x.cuda(), labels) == pytest.approx(evaluate(x, labels))


def test_metrics_per_class_average_to_the_metrics():
    x = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(90) % 4 + 3
    labels[0] = 50  # nothing to find: it counts as no query
    found = evaluate(x, labels, per_class=True)
    of = found["per_class"]
    assert of["class"].tolist() == [3, 4, 5, 6, 50]
    assert of["queries"].tolist() == [int((labels == c).sum()) for c in (3, 4, 5, 6)] + [0]
    assert of["map@r"][-1].isnan() and of["recall@1"][-1].isnan()
    for name in ("recall@1", "map@r"):
        share = of["queries"].double() / of["queries"].sum()
        assert (share * of[name]).nansum().item() == pytest.approx(found[name], rel=1e-12)
    only = labels == 4
    alone = evaluate(x[only], labels[only], x, labels)  # the query itself is found first
    assert alone["recall@1"] == 1 and of["recall@1"][1] < 1
    assert "per_class" not in evaluate(x, labels)
