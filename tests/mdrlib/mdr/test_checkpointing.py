"""Activation checkpointing computes a forward pass again in the backward pass: nothing may come of it."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mdrlib import MDR, normalize_by_mean_distance
from mdrlib.losses import TripletLoss
from mdrlib.mdr import MemoryBank
from mdrlib.miners import distance_weighted, hard_negatives

LABELS = torch.arange(6).repeat_interleave(4)
kinds = pytest.mark.parametrize("reentrant", (False, True), ids=("non-reentrant", "reentrant"))


def batch(seed, scale=1.0, n=24, d=8):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def plain(function, x, **_):
    return function(x)


def state(mdr):
    return [value.clone() for value in (mdr.running_mean, mdr.running_std, mdr.initialized)]


def both(make, use, reentrant):
    """What `use(module, call)` returns, plus gradients and state, without and with checkpointing."""
    found = []
    for call in (plain, lambda f, x: checkpoint(f, x, use_reentrant=reentrant)):
        module = make()
        found.append([*use(module, call), module.levels.grad, *state(module)])
    return found


@kinds
def test_in_double_precision(reentrant, backend):
    def use(mdr, call):
        mdr(batch(0).double())
        x = batch(1, 3).double().requires_grad_()
        call(mdr, x).backward()
        return (x.grad,)

    same(both(lambda: MDR(backend=backend).double(), use, reentrant))


def same(found):
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


@kinds
def test_one_call(reentrant, backend):
    def use(mdr, call):
        mdr(batch(0))
        x = batch(1, 3).requires_grad_()
        loss = call(mdr, x)
        loss.backward()
        return loss.detach(), x.grad

    same(both(lambda: MDR(backend=backend), use, reentrant))


@kinds
def test_several_calls_before_the_backward_pass(reentrant, backend):
    """Of other batches, of an equal one, and one without checkpointing between them."""

    def use(mdr, call):
        xs = [batch(seed, scale).requires_grad_() for seed, scale in ((0, 1), (1, 3), (0, 1), (2, 5))]
        losses = [call(mdr, x) for x in xs]
        with torch.no_grad():
            mdr(batch(9))
        total = sum(k * loss for k, loss in enumerate(losses, 1))
        total.backward()
        mdr(batch(3))
        return total.detach(), *(x.grad for x in xs)

    same(both(lambda: MDR(backend=backend), use, reentrant))


@kinds
def test_in_a_network_with_other_losses(reentrant, backend):
    def use(mdr, call):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        triplet = TripletLoss(1.0)

        def step(x):
            e = normalize_by_mean_distance(network(x))
            return triplet(e, LABELS) + 0.3 * mdr(e) + mdr.level_penalty()

        for seed in range(3):
            torch.manual_seed(seed)
            call(step, batch(seed).requires_grad_()).backward()
        return [parameter.grad for parameter in network.parameters()]

    same(both(lambda: MDR(backend=backend), use, reentrant))


@kinds
def test_two_backward_passes_through_one_forward_pass(reentrant, backend):
    if reentrant:
        pytest.skip("torch frees what the first one needs")

    def use(mdr, call):
        mdr(batch(0))
        x = batch(1, 3).requires_grad_()
        loss = call(mdr, x)
        loss.backward(retain_graph=True)
        mdr(batch(2))
        loss.backward()
        return (x.grad,)

    same(both(lambda: MDR(backend=backend), use, reentrant))


@kinds
def test_a_memory_bank_takes_a_batch_once(reentrant):
    found = []
    for call in (plain, lambda f, x: checkpoint(f, x, use_reentrant=reentrant)):
        bank, x = MemoryBank(20, 8), batch(0, n=6).requires_grad_()

        def keep(x, bank=bank):
            bank.add(x)
            return x.square().sum()

        call(keep, x).backward()
        found.append((bank.embeddings, x.grad))
    same(found)


@kinds
def test_draws_of_torchs_generator_are_repeated_and_those_of_your_own_refused(reentrant):
    found = []
    for call in (plain, lambda f, x: checkpoint(f, x, use_reentrant=reentrant)):
        torch.manual_seed(5)
        x = batch(0).requires_grad_()
        call(lambda x: TripletLoss(1.0, distance_weighted)(x, LABELS), x).backward()
        found.append((x.grad, torch.rand(1)))
    same(found)
    for miner, refused in ((distance_weighted, True), (hard_negatives, False)):
        loss = TripletLoss(1.0, miner, torch.Generator().manual_seed(0))
        value = checkpoint(lambda x, loss=loss: loss(x, LABELS), x, use_reentrant=reentrant)
        if refused:
            with pytest.raises(RuntimeError, match="cannot repeat a generator's draws"):
                value.backward()
        else:
            value.backward()


def test_every_forward_pass_counts_as_in_batch_norm(backend):
    """Closures of LBFGS and the two passes of SAM, accumulated gradients, and passes without gradient."""
    x, y = batch(0).requires_grad_(), batch(1, 2)
    mdr, norm = MDR(backend=backend), torch.nn.BatchNorm1d(8, momentum=0.1)
    passes = 0

    def closure():
        nonlocal passes
        passes += 1
        x.grad = None
        loss = mdr(x) + 0 * norm(x).sum()
        loss.backward()
        return loss

    torch.optim.LBFGS([x], max_iter=5).step(closure)
    assert passes == norm.num_batches_tracked > 1
    for value in (y, 2 * y):
        before, fresh = mdr.running_mean.item(), MDR()
        fresh(value)
        with torch.no_grad():
            mdr(value)
        want = 0.9 * before + 0.1 * fresh.running_mean.item()
        assert mdr.running_mean.item() == pytest.approx(want, rel=1e-5)
