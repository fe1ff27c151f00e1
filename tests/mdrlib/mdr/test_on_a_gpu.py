"""Backend "triton" on a GPU: sizes, precisions, graphs. The small ones in Triton's interpreter."""

import os
from importlib.util import find_spec

import pytest
import torch

from mdrlib import MDR, mdr_loss, pairwise_distances
from mdrlib.mdr import triton_backend

GPU = torch.cuda.is_available() and find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if GPU else "cpu"
LEVELS = (-3.0, 0.0, 3.0)
SMALL = [(2, 1), (17, 5), (129, 33)]
LARGE = [(128, 512), (1000, 64), (1024, 512), (1025, 512), (300, 4096), (4096, 512), (4100, 33), (16384, 128)]

pytestmark = pytest.mark.skipif(not (GPU or INTERPRETED), reason="needs a GPU")
on_a_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")


def batch(n, d, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def distances(x, y):
    """From differences, in float64."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def oracle(x, bank=None, rounding=3e-6):
    """Statistics, loss and gradient of a first batch in float64, and how far kinks may move a row of it."""
    wide, n = x.double(), len(x)
    others = wide if bank is None else torch.cat((wide, bank.double()))
    d = distances(wide, others)
    pair = torch.ones_like(d, dtype=torch.bool)
    pair[:, :n].fill_diagonal_(False)
    count = int(pair.sum())
    mean = d.sum() / count
    std = (((d - mean) * pair).square().sum() / (count - 1)).sqrt()
    spread = torch.maximum(std, 1e-4 * mean)
    z = (d - mean) / spread
    levels = torch.tensor(LEVELS, dtype=torch.float64, device=x.device)
    nearest = torch.bucketize(z, (levels[1:] + levels[:-1]) / 2)
    r = (z - levels[nearest]) * pair
    w = torch.where(d > 0, r.sign() / d, 0.0)
    w[:, :n] *= 2
    w /= count * spread
    gradient = w.sum(1, keepdim=True) * wide - w @ others
    middles = (levels[1:] + levels[:-1]) / 2
    kinks = torch.cat((levels, middles))
    close = sum(((z - kink).abs() < rounding * (1 + mean / spread)) & pair for kink in kinks)
    return mean, std, r.abs().sum() / count, gradient, 4 / (count * spread) * close.sum(1)


def step(x, bank=None, mdr=None, **settings):
    leaf = x.clone().requires_grad_()
    mdr = mdr or MDR(LEVELS, backend="triton", **settings).to(x.device)
    loss = mdr(leaf, bank)
    loss.backward()
    running = mdr.running_mean.clone(), mdr.running_std.clone()
    return loss.detach(), leaf.grad, mdr.levels.grad.clone(), *running


def check(x, bank=None, digits=None):
    exact = x.dtype == torch.float64
    halved = x.dtype == torch.float32 and len(x) >= triton_backend.HALVED
    digits = digits or (1e-10 if exact else 1e-5 if halved else 3e-6)
    mean, std, loss, gradient, slack = oracle(x.float() if x.dtype.itemsize == 2 else x, bank, digits)
    got = step(x, bank)
    few = 1e-6 if not exact else 1e-7  # running statistics are float32
    torch.testing.assert_close(got[3].double(), mean, rtol=few, atol=0)
    torch.testing.assert_close(got[4].double(), std, rtol=5 * few, atol=1e-9)
    torch.testing.assert_close(got[0].double(), loss, rtol=1e-5, atol=1e-6)
    error = (got[1].double() - gradient).norm(dim=1)
    largest = gradient.norm(dim=1).max()
    assert (error <= digits * largest + slack + 1e-12).all(), (error / largest).max()


@pytest.mark.parametrize("n, d", SMALL + (LARGE if GPU else []))
def test_sizes(n, d):
    check(batch(n, d))


@pytest.mark.parametrize("n, d", [(40, 8), *([(1024, 64), (2000, 512)] if GPU else [])])
@pytest.mark.parametrize("dtype, digits", [(torch.float64, 1e-5), (torch.bfloat16, 1e-2), (torch.half, 2e-3)])
def test_precisions(n, d, dtype, digits):
    """Running statistics are float32, which the gradient of float64 embeddings inherits."""
    check(batch(n, d, dtype=dtype), digits=digits)


@pytest.mark.parametrize("n, d", [(48, 16), *([(1000, 512), (3000, 512), (5000, 512)] if GPU else [])])
def test_near_and_coincident_points(n, d):
    x = batch(n, d)
    for share, first in ((0.0, 0), (1e-4, 10), (1e-6, 30)):
        x[first + 1 : n : 40] = x[first] + share * batch(len(x[first + 1 : n : 40]), d, seed=1)
    check(x, digits=1e-3)


@pytest.mark.parametrize("n, m", [(20, 150), *([(128, 4096), (4096, 5000)] if GPU else [])])
def test_banks(n, m):
    check(batch(n, 24), 0.7 * batch(m, 24, seed=1), digits=1e-5)


def test_products_in_halves(monkeypatch):
    monkeypatch.setattr(triton_backend, "SMALL", 0)
    x, bank = batch(70, 24), batch(20, 24, seed=1)
    x[7] = x[3] + 1e-4 * x[7]
    plain = step(x, bank)
    monkeypatch.setattr(triton_backend, "HALVED", 2)
    check(x, bank, digits=1e-5)
    halved = step(x, bank)
    assert not torch.equal(plain[1], halved[1])  # they were taken
    again = step(x, bank)
    assert all(torch.equal(*pair) for pair in zip(halved, again, strict=True))


@pytest.mark.parametrize("diagonal", (True, False))
def test_both_paths_agree_and_give_the_same_bits_twice(diagonal, monkeypatch):
    sizes = ((150, 40), (1000, 512)) if GPU else ((70, 40),)
    for n, d in sizes:
        x = batch(n, d)
        first, second = (step(x, diagonal_in_stats=diagonal) for _ in range(2))
        assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
        with monkeypatch.context() as patch:
            patch.setattr(triton_backend, "SMALL", 0)
            other = step(x, diagonal_in_stats=diagonal)
        for a, b in zip(first, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7 + 1e-5 * b.abs().max().item())


def test_values_that_are_not_finite_leave_the_statistics():
    mdr = MDR(backend="triton").to(DEVICE)
    step(batch(20, 4), mdr=mdr)
    before = mdr.state_dict()["running_mean"].clone(), mdr.state_dict()["running_std"].clone()
    for value in (1e30, *((torch.nan, torch.inf) if GPU else ())):  # a CPU refuses NaN
        x = batch(20, 4)
        x[3] *= value
        assert not step(x, mdr=mdr)[0].isfinite()
        assert (mdr.running_mean, mdr.running_std) == before and mdr.initialized


def test_the_operators_pass_torchs_own_checks():
    from mdrlib import differences
    from mdrlib.mdr import triton_small

    x, y = batch(20, 5).requires_grad_(), batch(7, 5, seed=1).requires_grad_()
    zero, one = torch.zeros((), device=DEVICE), torch.ones((), device=DEVICE)
    levels = torch.tensor(LEVELS, device=DEVICE).requires_grad_()
    for update, want_x in ((True, True), (False, False)):
        inputs = x if want_x else x.detach(), levels, zero, one, zero, 0.9, False, update, want_x
        torch.library.opcheck(triton_small.mdr_step, inputs)
    for other, squared in ((None, False), (y, False), (None, True), (y, True)):
        torch.library.opcheck(differences.distances, (x, other, squared))


@pytest.mark.parametrize("n", (40, *((1500,) if GPU else ())))
def test_compiled_whole(n):
    compiler = "inductor" if GPU else "aot_eager"
    x = batch(n, 12)
    mdr = MDR(LEVELS, backend="triton").to(DEVICE)
    compiled = torch.compile(mdr, fullgraph=True, backend=compiler)
    leaf = x.clone().requires_grad_()
    loss = compiled(leaf)
    loss.backward()
    want = step(x)
    for got, wanted in zip((loss, leaf.grad, mdr.levels.grad, mdr.running_mean), want[:4], strict=True):
        torch.testing.assert_close(got.detach(), wanted)


@pytest.mark.parametrize("squared", (False, True))
@pytest.mark.parametrize("n, m, d", [(30, 30, 9), (17, 50, 40), *([(999, 700, 64)] if GPU else [])])
def test_distances_from_differences(n, m, d, squared):
    from mdrlib import differences

    x, y = 100 + batch(n, d), 100 + batch(m, d, seed=1)
    x[1] = y[1] = x[0]
    for other in (None, y):
        leaves = [part.double().requires_grad_() for part in (x, other) if part is not None]
        want = (leaves[0][:, None] - leaves[-1]).square().sum(2)
        if not squared:
            zero = want == 0
            want = torch.where(zero, 0.0, torch.where(zero, 1.0, want).sqrt())
        own = [part.clone().requires_grad_() for part in (x, other) if part is not None]
        got = differences.distances(own[0], None if other is None else own[1], squared)
        weights = batch(*got.shape, seed=2)
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)
        for a, b in zip(torch.autograd.grad((got * weights).sum(), own),
                        torch.autograd.grad((want * weights).sum(), leaves), strict=True):  # fmt: skip
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5 * b.abs().max().item())


def test_distances_have_second_derivatives():
    from mdrlib import differences

    x = batch(5, 3, dtype=torch.float64).requires_grad_()
    y = batch(4, 3, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, y: differences.distances(x, y, True), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: differences.distances(x, y, False), (x, y))


@on_a_gpu
@pytest.mark.parametrize("n", (128, 1024, 2000, 5000))
def test_nothing_waits(n):
    x = batch(n, 512).requires_grad_()
    mdr = MDR().to(DEVICE)
    mdr(x).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        mdr(x).backward()
        mdr_loss(x, mdr.levels, mdr.running_mean, mdr.running_std).backward()
        pairwise_distances(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
@pytest.mark.parametrize("n", (128, 1024, 2000, 5000))
def test_a_step_is_captured_in_a_graph(n):
    mdr, twin = MDR().to(DEVICE), MDR().to(DEVICE)
    x = batch(n, 64).requires_grad_()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            mdr(x).backward()
    torch.cuda.current_stream().wait_stream(stream)
    mdr.load_state_dict(twin.state_dict())
    x.grad = mdr.levels.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = mdr(x)
        loss.backward()
    mdr.load_state_dict(twin.state_dict())
    for seed in range(3):
        with torch.no_grad():
            x.copy_(batch(n, 64, seed))
        x.grad.zero_()
        graph.replay()
        want = step(batch(n, 64, seed), mdr=twin)
        assert torch.equal(loss, want[0]) and torch.equal(mdr.running_std, twin.running_std)
        torch.testing.assert_close(x.grad, want[1])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("n", (128, 2000))
def test_the_second_gpu(n):
    """The current device is the first one."""
    want, got = step(batch(n, 32)), step(batch(n, 32).to("cuda:1"))
    assert all(part.device == torch.device("cuda:1") for part in got)
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b.to(a.device))


@on_a_gpu
@pytest.mark.parametrize("n", (128, 2000, 5000))
def test_deterministic_mode(n, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        from mdrlib.losses import TripletLoss

        x = batch(n, 32).requires_grad_()
        loss = TripletLoss()(x, torch.arange(n) // 4) + MDR().to(DEVICE)(x)
        loss.backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert x.grad.isfinite().all()
