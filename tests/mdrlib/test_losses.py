"""TripletLoss against a loop over its triplets in float64."""

import functools
import math

import numpy as np
import pytest
import torch

from mdrlib import MDR, losses, normalize_by_mean_distance
from mdrlib.losses import TripletLoss
from mdrlib.miners import (
    all_triplets,
    distance_weighted,
    hard_negatives,
    random_negatives,
    semihard_negatives,
)

MINERS = (all_triplets, random_negatives, hard_negatives, semihard_negatives, distance_weighted)
LABELS = torch.tensor([4, 0, 4, 2, 0, 2, 2, 4])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=8, d=5, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=seeded(seed), dtype=torch.float64).to(dtype)


def oracle(x, triplets, margin):
    """Loss and gradient, one triplet after the other."""
    x = x.detach().double().numpy()
    loss, gradient, count = 0.0, np.zeros_like(x), 0
    for a, p, n in zip(*(index.tolist() for index in triplets), strict=True):
        count += 1
        near, far = x[a] - x[p], x[a] - x[n]
        dp, dn = math.sqrt((near**2).sum()), math.sqrt((far**2).sum())
        if dp - dn + margin <= 0:
            continue
        loss += dp - dn + margin
        towards, away = near / dp, far / dn
        gradient[a] += towards - away
        gradient[p] -= towards
        gradient[n] += away
    return loss / count, gradient / count


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("margin", (0.0, 0.2, 3.0))
@pytest.mark.parametrize("miner", MINERS)
def test_equals_the_loop(miner, margin, dtype):
    for seed in range(3):
        x = batch(seed=seed, dtype=dtype).requires_grad_()
        loss = TripletLoss(margin, miner, seeded(seed))(x, LABELS)
        assert loss.shape == () and loss.dtype == dtype
        loss.backward()
        want, gradient = oracle(x, miner(x, LABELS, seeded(seed)), margin)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        assert loss.item() == pytest.approx(want, rel=tolerance, abs=tolerance)
        np.testing.assert_allclose(x.grad, gradient, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("margin", (0.0, 0.2, 3.0))
def test_all_triplets_in_parts_and_by_their_indices_are_the_same(margin, monkeypatch):
    """Uneven classes, and one whose members are almost all of the batch."""
    for labels in (LABELS, torch.tensor([1, 1, 1, 0, 1, 1, 1, 1])):
        found = []
        for miner, chunk in ((all_triplets, 2**24), (all_triplets, 20), (functools.partial(all_triplets), 0)):
            monkeypatch.setattr(losses, "CHUNK", chunk)
            x = batch(dtype=torch.float64).requires_grad_()
            loss = TripletLoss(margin, miner)(x, labels)
            found.append((loss.detach(), *torch.autograd.grad(loss, x)))
        for got in found[:2]:
            torch.testing.assert_close(got, found[2], rtol=1e-12, atol=1e-14)


def test_by_hand():
    """On a line 0 and 1 are of one class, 1.1 of another: 0 -> 1 against 1.1, 1 -> 0 against 1.1."""
    x = torch.tensor([[0.0], [1.0], [1.1]], requires_grad=True)
    loss = TripletLoss(0.3, hard_negatives)(x, torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx((max(0, 1 - 1.1 + 0.3) + max(0, 1 - 0.1 + 0.3)) / 2)
    loss.backward()
    # d(0, 1) pulls twice; d(0, 1.1) pushes 0 down and 1.1 up, d(1, 1.1) pushes 1 down and 1.1 up.
    np.testing.assert_allclose(x.grad[:, 0], [(-2 + 1) / 2, (2 + 1) / 2, -2 / 2], atol=1e-6)


def test_separated_classes_cost_nothing_and_still_count_in_the_mean():
    x = torch.tensor([[0.0], [0.1], [9.0], [9.1], [0.15]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2])
    loss = TripletLoss(0.2, hard_negatives)(x, labels)
    assert loss.item() == pytest.approx((0.1 - 0.15 + 0.2 + 0.1 - 0.05 + 0.2) / 4, rel=1e-5)
    far = torch.tensor([[0.0], [0.1], [9.0], [9.1]], requires_grad=True)
    none = TripletLoss(0.2, hard_negatives)(far, labels[:4])
    none.backward()
    assert none == 0 and (far.grad == 0).all()


@pytest.mark.parametrize("miner", (all_triplets, hard_negatives, semihard_negatives))
def test_gradcheck(miner):
    x, loss = batch(dtype=torch.float64).requires_grad_(), TripletLoss(0.5, miner)
    assert torch.autograd.gradcheck(lambda x: loss(x, LABELS), x)
    assert torch.autograd.gradcheck(lambda x: loss(normalize_by_mean_distance(x), LABELS), x)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_is_computed_in_float32(dtype):
    half = (30 * batch(d=256)).to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    losses = [TripletLoss(5.0, generator=seeded())(x, LABELS) for x in (half, full)]
    assert losses[0].dtype == torch.float32 and losses[0] == losses[1] > 0
    for loss in losses:
        loss.backward()
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad, full.grad.to(dtype))
    with torch.autocast("cpu", dtype):
        assert TripletLoss(5.0, generator=seeded())(full, LABELS) == losses[1]


@pytest.mark.parametrize("miner", MINERS)
def test_identical_embeddings_cost_the_margin_and_have_a_finite_gradient(miner):
    for value, dtype in ((1.0, torch.float16), (0.0, torch.float32), (0.1, torch.float64)):
        for head in (lambda x: x, normalize_by_mean_distance):
            leaf = torch.full((8, 5), value, dtype=dtype, requires_grad=True)
            loss = TripletLoss(0.2, miner)(head(leaf), LABELS)
            assert loss.item() == pytest.approx(0.2)
            loss.backward()
            assert (leaf.grad == 0).all()


def test_a_positive_that_coincides_is_no_nan():
    x = batch()
    x[2] = x[0]
    leaf = x.requires_grad_()
    TripletLoss(10.0, all_triplets)(leaf, LABELS).backward()
    assert torch.isfinite(leaf.grad).all() and (leaf.grad != 0).any()


def test_the_miner_may_be_any_function():
    def first(embeddings, labels, generator=None):
        assert labels is LABELS and generator is None
        return torch.tensor([0]), torch.tensor([2]), torch.tensor([1])

    x = batch()
    d = [(x[0] - x[j]).norm().item() for j in (2, 1)]
    assert TripletLoss(9.0, first)(x, LABELS).item() == pytest.approx(d[0] - d[1] + 9, rel=1e-5)
    partial = functools.partial(first)
    assert TripletLoss(9.0, partial)(x, LABELS) == TripletLoss(9.0, first)(x, LABELS)


@pytest.mark.parametrize("dtype", (torch.float16, torch.float32))
def test_a_miner_that_finds_nothing_gives_a_zero_that_can_be_differentiated(dtype):
    def nothing(embeddings, labels, generator=None):
        return (torch.empty(0, dtype=torch.int64),) * 3

    x = batch(dtype=dtype).requires_grad_()
    total = TripletLoss(0.2, nothing)(x, LABELS) + MDR()(x)
    total.backward()
    alone = batch(dtype=dtype).requires_grad_()
    MDR()(alone).backward()
    assert torch.equal(x.grad, alone.grad) and x.grad.isfinite().all()
    loss = TripletLoss(0.2, nothing)(x, LABELS)
    assert loss == 0 and loss.shape == () and loss.requires_grad


def test_it_has_no_state():
    assert not list(TripletLoss().parameters()) and not TripletLoss().state_dict()
    assert (
        TripletLoss(1).margin == TripletLoss(np.float32(1)).margin == TripletLoss(torch.ones(1)).margin == 1.0
    )


def test_a_generator_decides():
    x, labels = batch(32), torch.arange(8).repeat_interleave(4)
    values = [TripletLoss(1.0, random_negatives, seeded(s))(x, labels) for s in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
    loss = TripletLoss(1.0, random_negatives, seeded(1))
    assert loss(x, labels) == values[0] != loss(x, labels)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"margin": -0.1}, ValueError, "margin must be a finite number at least 0, got -0.1"),
        ({"margin": math.nan}, ValueError, "margin must be a finite number"),
        ({"margin": math.inf}, ValueError, "margin must be a finite number"),
        ({"margin": torch.ones(2)}, TypeError, "margin must be a finite number"),
        ({"margin": "0.2"}, TypeError, "margin must be a finite number"),
    ],
)
def test_bad_settings_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        TripletLoss(**arguments)


@pytest.mark.parametrize(
    "x, labels, error, message",
    [
        (batch(), LABELS[:5], ValueError, r"labels must have shape \(8,\)"),
        (batch(), LABELS.double(), TypeError, "labels must be integers"),
        (batch(), torch.arange(8), ValueError, "no class has two members"),
        (batch(), 0 * LABELS, ValueError, "all 8 labels are equal"),
        (batch() * math.nan, LABELS, ValueError, "embeddings hold 40 NaN"),
        (batch()[0], LABELS, ValueError, r"embeddings must have shape \(N, D\)"),
        (batch().int(), LABELS, TypeError, "embeddings must be floating point"),
    ],
)
def test_bad_batches_are_refused(x, labels, error, message):
    with pytest.raises(error, match=message):
        TripletLoss()(x, labels)
