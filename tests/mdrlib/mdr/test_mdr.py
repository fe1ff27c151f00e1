"""MDR against the authors' numbers, an independent NumPy oracle, autograd and its own symmetries."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mdrlib import MDR, mdr_loss
from mdrlib.mdr import eager, tiled

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # where every example takes a second
REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "mdr_parity.json").read_text())


def batch(n, d, seed=0, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def oracle(x, levels, mean, std):
    """Loss, dL/dx and dL/dlevels pair by pair in float64, from the definition and nothing of mdrlib's."""
    x, n = np.asarray(x, np.float64), len(x)
    levels = np.asarray(levels, np.float64)
    loss, dx, ds = 0.0, np.zeros_like(x), np.zeros_like(levels)
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            difference = x[i] - x[j]
            d = np.sqrt((difference**2).sum())
            z = (d - mean) / std
            k = np.abs(z - levels).argmin()
            loss += abs(z - levels[k])
            ds[k] -= np.sign(z - levels[k])
            if d > 0:
                pull = np.sign(z - levels[k]) * difference / (d * std)
                dx[i] += pull
                dx[j] -= pull
    pairs = n * (n - 1)
    return loss / pairs, dx / pairs, ds / pairs


def statistics_oracle(x, diagonal):
    x = np.asarray(x, np.float64)
    d = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    values = d.ravel() if diagonal else d[~np.eye(len(x), dtype=bool)]
    return values.mean(), values.std(ddof=1)


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"{c['N']}x{c['D']}")
def test_equals_the_authors_code_over_three_steps(case, backend):
    n, d = case["N"], case["D"]
    mdr = MDR(case["levels"], case["momentum"], diagonal_in_stats=True, backend=backend)
    for t, step in enumerate(case["steps"]):
        k = np.arange(n * d, dtype=np.float64)
        values = case["scale"] * np.sin((0.7 + 0.1 * t) * k + 0.3 * t)
        x = torch.tensor(values.astype(np.float32).reshape(n, d), requires_grad=True)
        mdr.zero_grad()
        loss = mdr(x)
        loss.backward()
        assert loss.item() == pytest.approx(step["loss"], rel=1e-5)
        assert mdr.running_mean.item() == pytest.approx(step["ema_mean"], rel=1e-5)
        assert mdr.running_std.item() == pytest.approx(step["ema_std"], rel=1e-5)
        assert x.grad.norm().item() == pytest.approx(step["grad_norm"], rel=1e-5)
        # Single entries of the authors' float32 gradient are off by up to 6e-5 of the largest one from the
        # float64 oracle; our gradient must be closer to it.
        row = np.array(step["grad_first_row"])
        np.testing.assert_allclose(x.grad[0, : len(row)], row, rtol=0, atol=1e-4 * np.abs(row).max())
        mean, std = mdr.running_mean.item(), mdr.running_std.item()
        exact = oracle(x.detach(), np.array(case["levels"]), mean, std)[1]
        np.testing.assert_allclose(x.grad, exact, rtol=0, atol=5e-6 * np.abs(exact).max())
        np.testing.assert_allclose(mdr.levels.grad, step["grad_levels"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "n, d, levels", [(2, 3, (0.0,)), (9, 4, (-3.0, 0.0, 3.0)), (40, 17, (1.0, -2.0, 0.1, 4.0))]
)
def test_equals_the_pairwise_oracle(n, d, levels, backend):
    x = batch(n, d, dtype=torch.float64).requires_grad_()
    s = torch.tensor(levels, dtype=torch.float64, requires_grad=True)
    mean, std = 1.1 * d**0.5, 0.7
    loss = mdr_loss(x, s, mean, std, backend)
    loss.backward()
    want, dx, ds = oracle(x.detach(), levels, mean, std)
    assert loss.item() == pytest.approx(want, rel=1e-10)
    np.testing.assert_allclose(x.grad, dx, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(s.grad, ds, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("diagonal", (False, True))
def test_statistics_equal_numpy(backend, diagonal):
    x = batch(37, 5) + 100  # far from the origin, where a naive sum of squares loses the spread
    mdr = MDR(diagonal_in_stats=diagonal, backend=backend)
    mdr(x)
    mean, std = statistics_oracle(x, diagonal)
    assert mdr.running_mean.item() == pytest.approx(mean, rel=1e-5)
    assert mdr.running_std.item() == pytest.approx(std, rel=1e-5)


def test_gradcheck(backend):
    x = batch(7, 3, seed=3, dtype=torch.float64).requires_grad_()
    s = torch.tensor([-2.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, s: mdr_loss(x, s, 2.3, 0.8, backend), (x, s))


@pytest.mark.parametrize("offset", (0.0, 300.0))
def test_near_coincident_points_keep_the_float64_gradient(offset, backend):
    clusters = offset + batch(8, 32, seed=1).repeat_interleave(4, 0)
    x = clusters + 1e-4 * batch(32, 32, seed=2)
    x[4:24:4] = x[5:24:4] + torch.logspace(-4, -6, 5)[:, None] * batch(5, 32, seed=3)
    x[:2], x[30] = x[3], x[29]  # exactly coincident
    mean, std = (value.item() for value in eager.statistics(eager.pairs(x.double())))
    _, want, _ = oracle(x, (-3.0, 0.0, 3.0), mean, std)
    leaf = x.clone().requires_grad_()
    mdr_loss(leaf, (-3.0, 0.0, 3.0), mean, std, backend).backward()
    assert np.linalg.norm(leaf.grad.numpy() - want) < 1e-3 * np.linalg.norm(want)


def test_tiled_never_holds_the_matrix(watch):
    n, d = 4000, 8
    x = batch(n, d).requires_grad_()
    with watch:
        MDR(backend="tiled")(x).backward()
    assert watch.largest <= max(tiled.TILE**2, n * d) < n * n / 50


def test_double_backward_works_with_eager_and_is_refused_by_the_others(backend):
    x = batch(6, 3, dtype=torch.float64).requires_grad_()
    loss = mdr_loss(x, (-1.0, 1.0), 2.0, 0.5, backend)
    if backend == "eager":
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        grad.square().sum().backward()
        assert torch.isfinite(x.grad).all()
    else:
        with pytest.raises(RuntimeError, match='backend="eager"'):
            torch.autograd.grad(loss, x, create_graph=True)


def test_running_statistics_follow_momentum_and_the_first_batch_sets_them():
    mdr = MDR(momentum=0.75)
    assert not mdr.initialized
    mdr(batch(10, 4))
    first = eager.statistics(eager.pairs(batch(10, 4)))
    assert mdr.initialized and mdr.running_mean == pytest.approx(first[0].item())
    mdr(batch(10, 4, seed=1, scale=3))
    second = eager.statistics(eager.pairs(batch(10, 4, seed=1, scale=3)))
    for running, a, b in zip((mdr.running_mean, mdr.running_std), first, second, strict=True):
        assert running.item() == pytest.approx(0.75 * a.item() + 0.25 * b.item(), rel=1e-5)


def test_eval_mode_leaves_the_statistics():
    mdr = MDR()
    mdr(batch(9, 4))
    before = mdr.running_mean.clone()
    loss = mdr.eval()(batch(9, 4, seed=2, scale=5))
    assert mdr.running_mean == before
    want, _, _ = oracle(batch(9, 4, seed=2, scale=5), (-3, 0, 3), before.item(), mdr.running_std.item())
    assert loss.item() == pytest.approx(want, rel=1e-5)


def test_eval_mode_before_any_batch_takes_the_batchs_own_and_warns_once(backend):
    """As the sanity check of a trainer does, which evaluates first."""
    mdr, x = MDR(backend=backend).eval(), batch(9, 4)
    with pytest.warns(UserWarning, match="no batch in training mode"):
        loss = mdr(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mdr(x) == loss
    assert not mdr.initialized and mdr.running_mean == 0 and mdr.running_std == 1
    want, _, _ = oracle(x, (-3, 0, 3), *statistics_oracle(x, False))
    assert loss.item() == pytest.approx(want, rel=1e-5)
    assert mdr.train()(x).item() == pytest.approx(loss.item(), rel=1e-6) and mdr.initialized


def test_state_dict_carries_buffers_and_levels():
    mdr = MDR()
    mdr(batch(9, 4))
    with torch.no_grad():
        mdr.levels.add_(0.5)
    other = MDR()
    other.load_state_dict(mdr.state_dict())
    assert other.initialized
    assert set(mdr.state_dict()) == {"levels", "running_mean", "running_std", "initialized"}
    assert other(batch(9, 4, seed=1)) == mdr(batch(9, 4, seed=1))


def test_the_state_can_be_averaged():
    """As weights are in stochastic weight averaging, by torch and by hand."""
    mdr = MDR()
    averaged = AveragedModel(mdr, use_buffers=True)
    moving = AveragedModel(mdr, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    by_hand, means = None, []
    for seed in range(3):
        mdr(batch(9, 4, seed, scale=1 + seed))
        averaged.update_parameters(mdr)
        moving.update_parameters(mdr)
        state = {name: value.clone() for name, value in mdr.state_dict().items()}
        by_hand = by_hand or state
        by_hand = {name: old + (state[name] - old) / (seed + 1) for name, old in by_hand.items()}
        means.append(mdr.running_mean.item())
    for name, value in averaged.module.state_dict().items():
        torch.testing.assert_close(value, by_hand[name])
    assert averaged.module.running_mean.item() == pytest.approx(sum(means) / 3)
    assert moving.module.running_mean.item() == pytest.approx(means[0] / 4 + means[1] / 4 + means[2] / 2)
    other = MDR()
    other.load_state_dict(by_hand)
    assert other.initialized == averaged.module.initialized == moving.module.initialized == 1


@pytest.mark.parametrize("seen", (False, True))
def test_a_checkpoint_whose_flag_is_a_bool_loads(seen):
    mdr, x = MDR(), batch(9, 4)
    if seen:
        mdr(x)
    state = mdr.state_dict() | {"initialized": torch.tensor(seen)}
    other = MDR()
    other.load_state_dict(state)
    assert other.initialized == seen and other.initialized.dtype == torch.float32
    assert other(batch(9, 4, seed=1)) == mdr(batch(9, 4, seed=1))


@pytest.mark.parametrize("number", (np.float32, np.float64, torch.tensor))
def test_numbers_of_other_libraries(number):
    x, levels = batch(9, 4), np.array([-3.0, 0.0, 3.0])
    mdr, plain = MDR(levels, number(0.5)), MDR(momentum=0.5)
    for seed in range(2):
        assert mdr(batch(9, 4, seed)) == plain(batch(9, 4, seed))
    got = mdr_loss(x, [number(s) for s in levels], number(2.5), number(0.5))
    assert got == mdr_loss(x, (-3, 0, 3), 2.5, 0.5)
    for bad in (number(1.0), number(-0.1), number(float("nan")), "0.9", True, None):
        with pytest.raises((TypeError, ValueError), match="momentum must be a finite number"):
            MDR(momentum=bad)


def trained(mdr, parameters, calls=150, every=1, optimizer=torch.optim.SGD):
    """Warnings of training on one batch, whose optimizer has these parameters."""
    x = batch(9, 4).requires_grad_()
    optimizer = optimizer([x, *parameters], lr=1e-3)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for call in range(calls):
            mdr(x).backward()
            if call % every == every - 1:
                optimizer.step()
                optimizer.zero_grad()
    return [str(warning.message) for warning in found]


def test_levels_that_no_optimizer_moves_are_told_once():
    (told,) = trained(MDR(), [])
    assert "levels" in told and "100 training calls" in told and "optimizer" in told
    mdr = MDR()
    assert len(trained(mdr, [], 99)) == 0 and len(trained(mdr, [], 1)) == 1 and not trained(mdr, [])


def test_levels_that_move_or_need_not_are_not_told():
    for optimizer in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        mdr = MDR()
        assert not trained(mdr, mdr.parameters(), optimizer=optimizer)
    accumulating, frozen = MDR(), MDR()
    assert not trained(accumulating, accumulating.parameters(), every=40)
    frozen.levels.requires_grad_(False)
    assert not trained(frozen, [])
    assert not trained(MDR(learn_levels=False), [])
    watched = MDR()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(150):
            watched(batch(9, 4))


def test_statistics_are_constants_to_the_gradient(backend):
    x = batch(12, 4, dtype=torch.float64).requires_grad_()
    mdr = MDR(backend=backend).double()
    mdr(x).backward()
    mean, std = statistics_oracle(x.detach(), False)
    np.testing.assert_allclose(x.grad, oracle(x.detach(), (-3, 0, 3), mean, std)[1], rtol=1e-6, atol=1e-10)


def test_assign_is_the_nearest_level_with_minus_one_on_the_diagonal():
    mdr = MDR(levels=(3.0, -3.0, 0.0))
    x = batch(20, 3)
    mdr(x)
    z = (torch.cdist(x, x).double().numpy() - mdr.running_mean.item()) / mdr.running_std.item()
    want = np.abs(z[..., None] - np.array([3.0, -3.0, 0.0])).argmin(-1)
    np.fill_diagonal(want, -1)
    assigned = mdr.assign(x)
    assert assigned.dtype == torch.int64
    np.testing.assert_array_equal(assigned, want)
    np.testing.assert_array_equal(MDR(levels=(3.0, -3.0, 0.0)).assign(x), want)  # before any batch: its own


def test_levels_are_learned_or_fixed():
    assert [name for name, _ in MDR().named_parameters()] == ["levels"]
    fixed = MDR(learn_levels=False)
    assert not list(fixed.parameters()) and "levels" in fixed.state_dict()
    assert MDR(levels=(1.0, -2.0)).level_penalty().item() == 5.0


@pytest.mark.parametrize(
    "x",
    [torch.ones(6, 3), torch.zeros(4, 2), torch.eye(5), torch.tensor([[0.0], [1.0]]), 1e-20 * batch(5, 3)],
    ids=("identical", "zeros", "equal distances", "one pair", "tiny"),
)
def test_no_spread_is_finite(x, backend):
    mdr = MDR(backend=backend)
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        loss = mdr(leaf)
        loss.backward()
        for value in (loss, leaf.grad, mdr.levels.grad):
            assert torch.isfinite(value).all()


@settings(
    max_examples=8 if INTERPRETED else 15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(3, 24),
    d=st.integers(1, 9),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-10, 10),
)
def test_permutation_translation_and_scale(backend, seed, n, d, scale, shift):
    x = batch(n, d, seed, torch.float64)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    losses, gradients = [], []
    for moved in (x, x[order], x + shift, scale * x):
        leaf = moved.clone().requires_grad_()
        loss = MDR(backend=backend).double()(leaf)  # own statistics: invariant to scale
        loss.backward()
        losses.append(loss.item())
        gradients.append(leaf.grad)
    assert losses[1:] == pytest.approx([losses[0]] * 3, rel=1e-6, abs=1e-9)
    torch.testing.assert_close(gradients[1], gradients[0][order], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(gradients[0].sum(0), torch.zeros(d, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "x, error, words",
    [
        (torch.randn(1, 4), ValueError, "at least 2"),
        (torch.randn(0, 4), ValueError, "at least 2"),
        (torch.randn(4), ValueError, r"\(N, D\)"),
        (torch.ones(4, 2, dtype=torch.int64), TypeError, "floating"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]), ValueError, "NaN"),
        (torch.tensor([[0.0, 1.0], [float("inf"), 1.0]]), ValueError, "infinite"),
        ([[0.0, 1.0]], TypeError, "Tensor"),
    ],
)
def test_bad_embeddings_are_refused(x, error, words):
    for call in (MDR(), MDR().assign, lambda x: mdr_loss(x, (0.0,), 1.0, 1.0)):
        with pytest.raises(error, match=words):
            call(x)


def test_bad_settings_are_refused():
    x = batch(4, 2)
    for levels in ((), (float("nan"),), (float("inf"), 0.0), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="levels"):
            MDR(levels=levels)
        with pytest.raises(ValueError, match="levels"):
            mdr_loss(x, levels, 1.0, 1.0)
    for momentum in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="momentum"):
            MDR(momentum=momentum)
    with pytest.raises(ValueError, match="backend"):
        MDR(backend="fast")
    with pytest.raises(ValueError, match="std"):
        mdr_loss(x, (0.0,), 1.0, -1.0)
    with pytest.raises(ValueError, match="mean"):
        mdr_loss(x, (0.0,), float("nan"), 1.0)
    with pytest.raises(ValueError, match="could not convert"):
        MDR(levels=("a",))


def test_two_calls_give_the_same_bits(backend):
    x = batch(140, 8)
    x[7::9] = x[3] + 1e-4 * x[7::9]  # near pairs use their differences
    runs = []
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        mdr = MDR(backend=backend)
        loss = mdr(leaf)
        loss.backward()
        runs.append((loss, leaf.grad, mdr.levels.grad))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)
