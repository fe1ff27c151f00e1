"""Distances against NumPy in float64, where they are hardest to get right."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrlib import distances, normalize_by_mean_distance, pairwise_distances

OFF = {n: ~torch.eye(n, dtype=torch.bool) for n in (6, 12, 140)}


def batch(n, d, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def oracle(x, y=None):
    x = x.detach().double().numpy()
    y = x if y is None else y.detach().double().numpy()
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))


def gradient_oracle(x, weights):
    """Gradient of sum_ij weights_ij ||x_i - x_j||, a pair without distance giving nothing."""
    x, w = x.detach().double().numpy(), weights.double().numpy()
    d = oracle(torch.from_numpy(x))
    pull = np.divide(w + w.T, d, out=np.zeros_like(d), where=d > 0)
    return (pull[..., None] * (x[:, None] - x[None])).sum(1)


def collapsed(dtype=torch.float64):
    """Two tight clusters of 70: so many near pairs that the differences are not gathered."""
    centres = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 3.0, 2.0]], dtype=dtype)
    return centres.repeat(70, 1) + 1e-3 * batch(140, 3, dtype=dtype)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    "n, m, d", [(1, None, 3), (12, None, 1), (140, None, 17), (5, 9, 4), (9, 1, 4), (1, 1, 1)]
)
def test_equals_numpy(n, m, d, dtype, tolerance):
    x, y = batch(n, d, dtype=dtype), None if m is None else batch(m, d, 1, dtype)
    got, want = pairwise_distances(x, y), oracle(x, y)
    assert got.dtype == dtype and got.shape == want.shape == (n, m or n)
    np.testing.assert_allclose(got, want, rtol=tolerance)
    np.testing.assert_allclose(pairwise_distances(x, y, squared=True), want**2, rtol=2 * tolerance)


@pytest.mark.parametrize(
    "x", [batch(140, 9), 1e3 + batch(140, 9), collapsed(torch.float32), torch.ones(140, 2) / 3]
)
def test_the_diagonal_is_exactly_zero_and_only_when_y_is_none(x):
    for squared in (False, True):
        assert (pairwise_distances(x, squared=squared).diagonal() == 0).all()
    y = x + 1
    assert (pairwise_distances(x, y).diagonal() > 0).all()


@pytest.mark.parametrize("y", [None, batch(9, 64, 1) * 100])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_float32(dtype, y):
    x = (100 * batch(20, 64)).to(dtype).requires_grad_()  # squares beyond float16
    y = None if y is None else y.to(dtype)
    d = pairwise_distances(x, y)
    assert d.dtype == torch.float32
    np.testing.assert_allclose(d.detach(), oracle(x, y), rtol=2e-5)
    d.sum().backward()
    assert x.grad.dtype == dtype and torch.isfinite(x.grad).all()


def test_autocast_changes_nothing():
    x = batch(20, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pairwise_distances(x), d := pairwise_distances(x))
        assert d.dtype == torch.float32
    assert torch.equal(d, pairwise_distances(x))


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("copies, clusters", [(2, 30), (70, 2)])
def test_near_coincident_points_keep_their_digits(copies, clusters, offset):
    """1e-4 apart at norm 100: ||x||^2 + ||y||^2 - 2xy in float32 has no correct digit there."""
    centre = 100 * torch.nn.functional.normalize(batch(clusters, 32, 1), dim=1).repeat_interleave(copies, 0)
    step = torch.nn.functional.normalize(batch(clusters * copies, 32, 2), dim=1)
    x = (offset + centre + 1e-4 * step).requires_grad_()
    want = oracle(x)
    np.testing.assert_allclose(pairwise_distances(x).detach(), want, rtol=2e-5)
    np.testing.assert_allclose(pairwise_distances(x, x.detach().clone()).detach(), want, rtol=2e-5)
    weights = batch(len(x), len(x), 3)
    (weights * pairwise_distances(x)).sum().backward()
    np.testing.assert_allclose(x.grad, gradient_oracle(x, weights), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("offset", [10.0, 1e3, 1e6])
def test_far_from_the_origin(offset):
    x = offset + batch(140, 16)
    y = offset + batch(130, 16, 1)
    np.testing.assert_allclose(pairwise_distances(x), oracle(x), rtol=2e-5)
    np.testing.assert_allclose(pairwise_distances(x, y), oracle(x, y), rtol=2e-5)


def test_two_clouds_far_apart_each_keep_their_distances():
    x = torch.cat((batch(20, 8), 1e4 + batch(20, 8, 1)))
    np.testing.assert_allclose(pairwise_distances(x), oracle(x), rtol=2e-5)


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(6, 3),
        torch.zeros(6, 3),
        torch.ones(140, 3) / 3,
        batch(3, 2).repeat(2, 1),
        batch(2, 2).repeat(70, 1),
    ],
    ids=("ones", "zeros", "many", "pairs", "many pairs"),
)
@pytest.mark.parametrize("squared", [False, True])
def test_coincident_points_have_distance_and_gradient_zero(x, squared):
    leaf = x.clone().requires_grad_()
    weights = batch(len(x), len(x))
    d = pairwise_distances(leaf, squared=squared)
    np.testing.assert_allclose(d.detach(), oracle(x) ** (2 if squared else 1), rtol=2e-5)
    assert (d[oracle(x) == 0] == 0).all()
    (weights * d).sum().backward()
    if squared:
        want = gradient_oracle(x, 2 * weights * torch.from_numpy(oracle(x)))
    else:
        want = gradient_oracle(x, weights)
    np.testing.assert_allclose(leaf.grad, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("squared", [False, True])
def test_gradcheck(squared):
    x, y = (batch(n, 3, n, torch.float64).requires_grad_() for n in (6, 4))
    weights = batch(6, 6, 9, torch.float64)
    assert torch.autograd.gradcheck(lambda x: (weights * pairwise_distances(x, None, squared)).sum(), x)
    assert torch.autograd.gradcheck(lambda x, y: pairwise_distances(x, y, squared), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: pairwise_distances(x, y, squared), (x, y))


def test_gradcheck_of_near_points():
    near = torch.tensor([[5.0, 1.0], [5.0, 1.01], [-5.0, 2.0], [-5.0, 2.01], [0.0, 0.0], [3.0, -4.0]])
    x = near.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pairwise_distances(x)[OFF[6]], x, eps=1e-7)


def test_collapsed_batch():
    x = collapsed().requires_grad_()
    d = pairwise_distances(x)
    np.testing.assert_allclose(d.detach(), oracle(x), rtol=1e-12)
    weights = batch(140, 140, 1, torch.float64)
    (weights * d).sum().backward()
    np.testing.assert_allclose(x.grad, gradient_oracle(x, weights), rtol=1e-9, atol=1e-9)
    y, z = (part.detach().clone().requires_grad_() for part in (x[:135], x[5:]))
    both = pairwise_distances(y, z)
    np.testing.assert_allclose(both.detach(), oracle(y, z), rtol=1e-12)
    grads = torch.autograd.grad(both.sum(), (y, z))
    assert all(torch.isfinite(g).all() for g in grads)
    torch.testing.assert_close(grads[0].sum(0), -grads[1].sum(0))


PAIRS_OF_NEAR = 100 * batch(20, 4).repeat_interleave(2, 0) + 1e-3 * batch(40, 4, 1)


@pytest.mark.parametrize("x", [PAIRS_OF_NEAR, batch(9, 4), torch.ones(12, 3), batch(4, 5).repeat(5, 1)])
def test_every_way_to_the_near_pairs_gives_the_same(x, monkeypatch):
    def measured(other):
        leaves = [part.clone().requires_grad_() for part in (x, x.flip(0)[:7])]
        d = pairwise_distances(*leaves[: 1 + other])
        (d * batch(*d.shape, 3)).sum().backward()
        return d.detach(), *(leaf.grad for leaf in leaves[: 1 + other])

    want = measured(False) + measured(True)
    monkeypatch.setattr(distances, "HELD", 40)
    for got, wanted in zip(measured(False) + measured(True), want, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    near = x[:6].double().requires_grad_()
    if x is PAIRS_OF_NEAR:
        # Squares of size 1e4: steps that leave digits of their differences.
        square = functools.partial(pairwise_distances, squared=True)
        assert torch.autograd.gradcheck(square, near, eps=1e-4, atol=1e-3, rtol=1e-5)
        assert torch.autograd.gradgradcheck(square, near, eps=1e-2, atol=1e-4)


SWITCHES = {
    "the older switch": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "a word": lambda: torch.set_float32_matmul_precision("medium"),
    "the newer switch": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_no_switch_makes_products_coarser_inside_and_each_is_left_as_it_was(switch):
    products = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    first = [part.fp32_precision for part in products]
    try:
        switch()
        before = [part.fp32_precision for part in products]
        assert before != first
        for device, own in zip(("cuda", "cpu"), products, strict=True):
            with distances.full_precision(torch.device(device)):
                assert own.fp32_precision in ("none", "ieee")
        with distances.full_precision(torch.device("cpu")):
            x = batch(70, 30).requires_grad_()
            np.testing.assert_allclose(pairwise_distances(x).detach(), oracle(x), rtol=2e-5)
        assert [part.fp32_precision for part in products] == before
        with pytest.raises(KeyError), distances.full_precision(torch.device("cpu")):
            raise KeyError
        assert [part.fp32_precision for part in products] == before
    finally:
        torch.set_float32_matmul_precision("highest")
        for part, value in zip(products, first, strict=True):
            part.fp32_precision = value


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 20),
    d=st.integers(1, 9),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-100, 100),
)
def test_metric_properties(seed, n, d, scale, shift):
    x = batch(n, d, seed, torch.float64)
    distances = pairwise_distances(x)
    assert (distances >= 0).all()
    torch.testing.assert_close(distances, distances.T)
    torch.testing.assert_close(pairwise_distances(scale * x + shift), scale * distances, rtol=1e-7, atol=1e-9)
    triangle = distances[:, :, None] + distances[None]  # over the middle point, the second index
    assert (distances[:, None] <= triangle + 1e-9).all()


def test_overflow_is_not_taken_for_no_distance():
    d = pairwise_distances(1e20 * batch(6, 4))
    assert not torch.isfinite(d[OFF[6]]).any() and (d.diagonal() == 0).all()


BAD = [
    (torch.randn(4), ValueError, r"x must have shape \(N, D\), got \(4,\)"),
    (torch.randn(2, 3, 4), ValueError, r"x must have shape \(N, D\), got \(2, 3, 4\)"),
    (torch.randn(0, 4), ValueError, r"x must hold at least 1 vector.*got \(0, 4\)"),
    (torch.randn(4, 0), ValueError, r"1 or more dimensions, got \(4, 0\)"),
    (torch.ones(4, 2, dtype=torch.int64), TypeError, "x must be floating point, got torch.int64"),
    (torch.ones(4, 2, dtype=torch.complex64), TypeError, "x must be floating point, got torch.complex64"),
    (torch.tensor([[0.0, float("nan")], [float("nan"), 1.0]]), ValueError, "x hold 2 NaN"),
    (torch.tensor([[0.0, 1.0], [float("inf"), 1.0]]), ValueError, "x hold 1 NaN or infinite values among 4"),
    ([[0.0, 1.0]], TypeError, "x must be a torch.Tensor .* got list"),
    (np.zeros((3, 2)), TypeError, "got ndarray"),
]


@pytest.mark.parametrize("bad, error, message", BAD)
def test_bad_vectors_are_refused(bad, error, message):
    with pytest.raises(error, match=message):
        pairwise_distances(bad)
    with pytest.raises(error, match=message.replace("x ", "y ", 1)):
        pairwise_distances(torch.randn(3, 2), bad)
    with pytest.raises(error, match=message.replace("x ", "embeddings ", 1).replace("least 1", "least 2")):
        normalize_by_mean_distance(bad)


def test_vectors_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match="y must have 3 dimensions, got 2"):
        pairwise_distances(torch.randn(4, 3), torch.randn(4, 2))
    with pytest.raises(RuntimeError, match="same dtype"):
        pairwise_distances(torch.randn(4, 3), torch.randn(4, 3).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (1e-6, 0.0), (1e6, 0.0), (1.0, 1e3)])
def test_normalizing_makes_the_mean_off_diagonal_distance_one(scale, offset, dtype):
    x = scale * batch(12, 5, dtype=dtype) + offset
    out = normalize_by_mean_distance(x)
    assert out.dtype == dtype and out.shape == x.shape
    mean = oracle(x)[OFF[12]].mean()
    np.testing.assert_allclose(out, x.double() / mean, rtol=2e-5)
    assert oracle(out)[OFF[12]].mean() == pytest.approx(1, rel=1e-5 if offset == 0 else 1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normalizing_half_precision_gives_it_back(dtype):
    x = (300 * batch(140, 512)).to(dtype).requires_grad_()  # the sum of distances is far beyond float16
    out = normalize_by_mean_distance(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out, normalize_by_mean_distance(x.float()).to(dtype))
    out.sum().backward()
    assert x.grad.dtype == dtype and torch.isfinite(x.grad).all()


def test_the_gradient_of_normalizing_flows_through_the_mean():
    x = batch(6, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(normalize_by_mean_distance, x)
    # The output does not change with the scale of x, so no gradient may point along x.
    (batch(6, 3, 1, torch.float64) * normalize_by_mean_distance(x)).sum().backward()
    assert x.grad.norm() > 0.1
    assert (x.grad * x).sum().abs() < 1e-12
    torch.testing.assert_close(normalize_by_mean_distance(7 * x), normalize_by_mean_distance(x))


@pytest.mark.parametrize("x", [torch.ones(4, 3), torch.zeros(2, 1), torch.full((140, 5), 1 / 3)])
def test_identical_embeddings_come_back_from_normalizing(x):
    leaf = x.clone().requires_grad_()
    out = normalize_by_mean_distance(leaf)
    assert torch.equal(out, x)
    out.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(x))


def test_one_vector_has_no_mean_distance():
    with pytest.raises(ValueError, match=r"at least 2 vector\(s\) .* got \(1, 3\)"):
        normalize_by_mean_distance(torch.ones(1, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("x", [PAIRS_OF_NEAR, batch(300, 512), torch.ones(12, 3)])
def test_on_a_gpu(x):
    leaf = x.cuda().requires_grad_()
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        d = pairwise_distances(leaf)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    np.testing.assert_allclose(d.detach().cpu(), oracle(x), rtol=2e-5, atol=1e-6)
    weights = batch(len(x), len(x), 1)
    (d * weights.cuda()).sum().backward()
    np.testing.assert_allclose(leaf.grad.cpu(), gradient_oracle(x, weights), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("n", (256, 2048))
def test_a_gpu_makes_nobody_wait(n):
    x = batch(n, 512).cuda().requires_grad_()
    normalize_by_mean_distance(x).sum().backward()  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        normalize_by_mean_distance(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
