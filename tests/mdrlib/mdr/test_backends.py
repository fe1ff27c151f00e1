"""Every backend against a float64 oracle, over sizes, levels, banks and points that nearly coincide."""

import pytest
import torch

from mdrlib import MDR, mdr_loss
from mdrlib.mdr import tiled

SIXTEEN = torch.linspace(-4, 3.7, 16)[torch.randperm(16, generator=torch.Generator().manual_seed(0))].tolist()


def batch(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def distances(x, y):
    """Row by row from the differences, in float64."""
    return torch.stack([(row - y).square().sum(1).sqrt() for row in x.double()])


def oracle(x, levels, mean, std, bank=None):
    """Loss, dL/dx, dL/dlevels in float64, and which rows have a pair too near to a change of sign to tell."""
    wide, n = x.double(), len(x)
    others = wide if bank is None else torch.cat((wide, bank.double()))
    d = distances(x, others)
    pair = torch.ones_like(d, dtype=torch.bool)
    pair[:, :n].fill_diagonal_(False)
    z = (d - mean) / std
    gaps = z[..., None] - torch.tensor(levels, dtype=torch.float64)
    best, level = gaps.abs().min(-1)
    sign = gaps.gather(-1, level[..., None])[..., 0].sign() * pair
    count = int(pair.sum())
    w = torch.where(d > 0, sign / d, 0.0) / (std * count)
    w[:, :n] *= 2
    gradient = torch.stack([w[i] @ (wide[i] - others) for i in range(n)])
    pulls = torch.stack([-(sign * (level == k)).sum() / count for k in range(len(levels))])
    doubtful = best < 1e-5 * (1 + mean / std)
    if len(levels) > 1:
        two = gaps.abs().sort(-1).values
        doubtful |= two[..., 1] - two[..., 0] < 1e-5 * (1 + mean / std)
    doubtful = (doubtful & pair & (d > 0)).nonzero()
    rows = torch.ones(n, dtype=torch.bool)
    rows[doubtful[:, 0]] = False
    rows[doubtful[:, 1][doubtful[:, 1] < n]] = False
    return (best * pair).sum() / count, gradient, pulls, rows


def statistics(x, bank=None, diagonal=False):
    d = distances(x, x.double())
    values = d.flatten() if diagonal else d[~torch.eye(len(x), dtype=torch.bool)]
    if bank is not None:
        values = torch.cat((values, distances(x, bank.double()).flatten()))
    return values.mean().item(), values.std().item()


def check(x, levels, backend, bank=None, tolerance=1e-5):
    mean, std = statistics(x, bank)
    std = max(std, 1e-3)
    leaf = x.clone().requires_grad_()
    s = torch.tensor(levels, requires_grad=True)
    loss = mdr_loss(leaf, s, mean, std, backend, bank)
    loss.backward()
    want, gradient, pulls, rows = oracle(x, levels, mean, std, bank)
    assert loss.item() == pytest.approx(want.item(), rel=1e-5, abs=1e-6)
    # Of 16 levels many have few pairs; a pair at a change of sign counts 2 / P.
    torch.testing.assert_close(s.grad.double(), pulls, rtol=1e-5, atol=1e-7 + 2e-3 * (~rows).sum().item())
    assert rows.sum() >= len(x) // 2
    error = (leaf.grad.double() - gradient)[rows].norm()
    assert error <= tolerance * gradient.norm() + 1e-12


@pytest.mark.parametrize(
    "n, d, levels", [(2, 1, (0.4,)), (3, 2048, (-1.0, 1.5)), (17, 5, SIXTEEN), (130, 33, (-3, 0, 3))]
)
def test_odd_sizes_and_any_number_of_levels(n, d, levels, backend):
    check(batch(n, d), [float(s) for s in levels], backend)


def test_more_rows_than_a_tile_with_coincident_and_near_points_in_all_of_it(backend):
    x = batch(257, 24)
    for share, first in ((0.0, 0), (1e-4, 60), (1e-5, 130), (1e-6, 200)):
        x[first + 1 : first + 57 : 8] = x[first] + share * batch(7, 24, seed=1)
    x[256] = x[0]
    check(x, (-3.0, 0.0, 3.0), backend, tolerance=1e-3)
    check(x, (-3.0, 0.0, 3.0), backend, batch(40, 24, seed=5), tolerance=1e-3)


@pytest.mark.parametrize("m", (1, 150))
def test_pairs_with_a_bank(m, backend):
    x, bank = batch(23, 6), 0.5 + batch(m, 6, seed=1)
    bank[0] = x[3]  # as after an add before the loss: the distance is 0, the gradient finite
    if m > 4:
        bank[4] = x[5] + 1e-5
    check(x, (-2.0, 0.1, 2.0), backend, bank)
    for diagonal in (False, True):
        mdr = MDR(diagonal_in_stats=diagonal, backend=backend)
        mdr(x, bank)
        mean, std = statistics(x, bank, diagonal)
        assert mdr.running_mean.item() == pytest.approx(mean, rel=1e-5)
        assert mdr.running_std.item() == pytest.approx(std, rel=1e-5)


def test_a_bank_is_constant_and_an_empty_one_is_none(backend):
    x, bank = batch(12, 4).requires_grad_(), batch(9, 4, seed=1).requires_grad_()
    mdr_loss(x, (0.0, 2.0), 2.0, 1.0, backend, bank).backward()
    assert bank.grad is None and x.grad.abs().sum() > 0
    assert MDR(backend=backend)(x, bank[:0]) == MDR(backend=backend)(x)
    eval_mode = MDR(backend=backend)
    eval_mode(x, bank)
    before = eval_mode.running_mean.clone()
    assert eval_mode.eval()(x, bank) != eval_mode(x) and eval_mode.running_mean == before


def test_bad_banks_are_refused():
    x = batch(4, 3)
    for bank, error, words in (
        (batch(5, 2), ValueError, "bank must have 3 dimensions, got 2"),
        (torch.ones(5, 3, dtype=torch.int64), TypeError, "bank must be floating"),
        (torch.full((5, 3), torch.nan), ValueError, "NaN"),
    ):
        with pytest.raises(error, match=words):
            MDR()(x, bank)


def test_only_what_is_asked_for_is_given(backend):
    x = batch(20, 4)
    x[3] = x[2]
    both = x.clone().requires_grad_()
    learned = MDR(backend=backend)
    want = learned(both)
    want.backward()
    fixed = MDR(backend=backend, learn_levels=False)
    leaf = x.clone().requires_grad_()
    fixed(leaf).backward()
    assert torch.equal(leaf.grad, both.grad)
    levels_only = MDR(backend=backend)
    levels_only(x).backward()
    assert torch.equal(levels_only.levels.grad, learned.levels.grad)
    with torch.no_grad():
        assert MDR(backend=backend)(x) == want
    assert not MDR(backend=backend, learn_levels=False)(x).requires_grad


@pytest.mark.parametrize("view", (lambda x: x.T, lambda x: x[::2, 1:]), ids=("transposed", "strided"))
def test_memory_layout_does_not_matter(view, backend):
    x = view(batch(40, 40))
    results = []
    for layout in (x, x.contiguous()):
        leaf = layout.detach().requires_grad_()
        loss = mdr_loss(leaf, (-1.0, 1.0), 8.0, 1.0, backend)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_with_a_bank_under_autocast(dtype, backend):
    x, bank = batch(14, 8).to(dtype).requires_grad_(), batch(6, 8, seed=1).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = mdr_loss(x, (0.0, 2.0), 4.0, 1.0, backend, bank)
    loss.backward()
    want, gradient, _, _ = oracle(x.detach(), (0.0, 2.0), 4.0, 1.0, bank)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(want.item(), rel=1e-5)
    assert x.grad.dtype == dtype
    torch.testing.assert_close(x.grad, gradient.to(dtype))


@pytest.mark.parametrize("precision", ("medium", "high"))
def test_the_processs_choice_of_precision_changes_nothing_and_comes_back(precision, backend):
    x = batch(20, 64)
    want = MDR(backend=backend)(x)
    torch.set_float32_matmul_precision(precision)
    try:
        matmul = torch.backends.cuda.matmul
        before = torch.get_float32_matmul_precision(), matmul.allow_tf32
        assert MDR(backend=backend)(x) == want
        assert (torch.get_float32_matmul_precision(), matmul.allow_tf32) == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_many_tiles_with_coincident_and_near_points_across_them():
    x = batch(1100, 8)
    x[600], x[1050] = x[3], x[601]
    x[700] = x[4] + 1e-4
    x[5] = x[6]
    check(x, (-3.0, 0.0, 3.0), "tiled", batch(520, 8, seed=1), tolerance=1e-4)


def test_keeping_distances_between_the_passes_changes_no_bit(backend):
    """A training step keeps what it measured for the statistics; the pure loss measures by itself."""
    for n in (150, 2700) if backend == "tiled" else (150,):  # all tiles are kept, and some
        x, bank = batch(n, 6), batch(40, 6, seed=1)
        x[9:150:31] = x[2] + 1e-5 * x[9:150:31]
        step, pure = (x.clone().requires_grad_() for _ in range(2))
        mdr = MDR(backend=backend)
        kept = mdr(step, bank)
        fresh = mdr_loss(pure, mdr.levels, mdr.running_mean, mdr.running_std, backend, bank)
        kept.backward()
        fresh.backward()
        assert kept == fresh and torch.equal(step.grad, pure.grad)


def test_collapsed_clusters_are_taken_in_parts(watch):
    x = (batch(2, 256)[torch.arange(200) % 2] + 1e-4 * batch(200, 256, seed=1)).requires_grad_()
    with watch:
        MDR(backend="tiled")(x).backward()
    assert watch.largest <= tiled.CHUNK < 200 * 100 * 256  # all differences of near pairs


def test_auto_is_tiled_on_a_cpu():
    x = batch(600, 8)
    losses = {name: MDR(backend=name)(x).item() for name in ("auto", "tiled", "eager")}
    assert losses["auto"] == losses["tiled"] != losses["eager"]


def test_a_batch_whose_distances_overflow_leaves_the_statistics(backend):
    mdr = MDR(backend=backend)
    mdr(1e30 * batch(4, 2))
    assert not mdr.initialized and mdr.running_mean == 0
    mdr(batch(4, 2))
    before = mdr.running_mean.clone(), mdr.running_std.clone()
    assert not mdr(1e30 * batch(4, 2)).isfinite()
    assert mdr.initialized and (mdr.running_mean, mdr.running_std) == before
