"""torch.compile, torch.export and torch.func on the loss and the module."""

from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mdrlib import MDR, mdr_loss
from mdrlib.losses import TripletLoss
from mdrlib.miners import all_triplets

LEVELS, MEAN, STD = (-1.0, 0.2, 1.5), 3.8, 0.8


def batch(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(function, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


def test_func_grad_and_jacrev(backend):
    x = batch(12, 8)

    def loss(x):
        return mdr_loss(x, LEVELS, MEAN, STD, backend)

    want = gradient(loss, x)
    torch.testing.assert_close(torch.func.grad(loss)(x), want)
    torch.testing.assert_close(torch.func.jacrev(loss)(x), want)
    by_levels = torch.func.grad(lambda s: mdr_loss(x, s, MEAN, STD, backend))(torch.tensor(LEVELS))
    torch.testing.assert_close(
        by_levels, gradient(lambda s: mdr_loss(x, s, MEAN, STD, backend), torch.tensor(LEVELS))
    )
    module = MDR(backend=backend)
    module(x)
    module.eval()
    got = torch.func.grad(lambda p: torch.func.functional_call(module, p, (x,)))(
        dict(module.named_parameters())
    )
    module(x).backward()
    torch.testing.assert_close(got["levels"], module.levels.grad)


def test_vmap_over_batches_and_levels():
    xs, levels = batch(3, 12, 8), torch.tensor(LEVELS) + batch(3, 3, seed=1) / 9

    def loss(x, s):
        return mdr_loss(x, s, MEAN, STD)

    torch.testing.assert_close(torch.vmap(loss)(xs, levels), torch.stack([*map(loss, xs, levels)]))
    each = torch.stack([gradient(lambda x, s=s: loss(x, s), x) for x, s in zip(xs, levels, strict=True)])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(xs, levels), each)
    torch.testing.assert_close(torch.vmap(loss, (None, 0))(xs[0], levels)[1], loss(xs[0], levels[1]))
    bank = batch(5, 8, seed=2)
    both = torch.vmap(lambda x: mdr_loss(x, LEVELS, MEAN, STD, bank=bank))(xs)
    torch.testing.assert_close(both[2], mdr_loss(xs[2], LEVELS, MEAN, STD, bank=bank))


def test_the_second_derivative_is_right(backend):
    x = batch(6, 4)

    def slope(x):
        return torch.func.grad(lambda x: mdr_loss(x, LEVELS, MEAN, STD, backend))(x).square().sum()

    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(mdr_loss(leaf, LEVELS, MEAN, STD, "eager"), leaf, create_graph=True)
    want = torch.autograd.grad(first.square().sum(), leaf)[0]
    torch.testing.assert_close(torch.func.grad(slope)(x), want)


@pytest.mark.parametrize("training", (True, False), ids=("training", "evaluation"))
@pytest.mark.parametrize("with_bank", (False, True), ids=("alone", "bank"))
def test_compile_as_one_graph(training, with_bank, backend):
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        mdr = MDR(backend=backend)
        mdr(batch(12, 8, seed=1))
        mdr.train(training)
        call = torch.compile(mdr, fullgraph=True, backend="aot_eager") if compiled else mdr
        for seed in (2, 3):
            x = batch(12, 8, seed=seed).requires_grad_()
            loss = call(x, batch(5, 8)) if with_bank else call(x)
            loss.backward()
        found.append((loss.detach(), x.grad, mdr.levels.grad, mdr.running_mean, mdr.running_std))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("fullgraph", (True, False))
def test_compiled_within_a_checkpoint_it_is_right_or_refused(fullgraph):
    """The backward pass of such a graph would compute it again with the updated statistics."""
    torch._dynamo.reset()
    gradients = []
    for compiled in (False, True):
        mdr, x = MDR(), (3 * batch(12, 8)).requires_grad_()
        mdr(batch(12, 8, seed=1))
        step = partial(checkpoint, mdr, use_reentrant=False)
        if compiled:
            step = torch.compile(step, fullgraph=fullgraph, backend="aot_eager")
        if compiled and fullgraph:
            with pytest.raises(torch._dynamo.exc.Unsupported, match="checkpoint"):
                step(x)
            return
        step(x).backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_compiled_and_not_trained_yet():
    torch._dynamo.reset()
    mdr, x = MDR(), batch(12, 8)
    compiled = torch.compile(mdr, fullgraph=True, backend="aot_eager")
    with pytest.warns(UserWarning, match="no batch in training mode"):
        want = MDR().eval()(x)
    torch.testing.assert_close(compiled.eval()(x), want)
    assert not mdr.initialized
    torch.testing.assert_close(compiled.train()(x), want)
    assert mdr.initialized


def test_compiled_losses_of_distances():
    """Points that coincide have to be told from the others in the graph as well."""
    torch._dynamo.reset()
    x = batch(12, 8)
    x[1] = x[0]
    x[3] = x[2] + 1e-5
    labels = torch.arange(4).repeat_interleave(3)
    for function in (
        lambda x: mdr_loss(x, LEVELS, MEAN, STD, "eager"),
        lambda x: mdr_loss(x, LEVELS, MEAN, STD),
        lambda x: TripletLoss(1.0, all_triplets)(x, labels),
    ):
        compiled = torch.compile(function, backend="aot_eager")
        torch.testing.assert_close(compiled(x), function(x))
        torch.testing.assert_close(gradient(compiled, x), gradient(function, x), rtol=1e-4, atol=1e-5)


def test_export(backend):
    mdr, x = MDR(backend=backend), batch(12, 8)
    mdr(x)
    mdr.eval()
    size = torch.export.Dim("size", min=3, max=64)
    program = torch.export.export(mdr, (x,), dynamic_shapes=({0: size},))
    for other in (x, batch(20, 8, seed=1)):
        torch.testing.assert_close(program.module()(other), mdr(other))
