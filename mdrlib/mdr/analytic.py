"""What the backends "tiled" and "triton" share: the autograd function, counts and sums.

Both compute the gradient by hand. With r_ij = z_ij - s(i, j) and P the number of pairs,

    dL/de_i = 1/(std P) sum over the pairs of i of c sign(r_ij) (e_i - e_j) / d_ij,
    dL/ds   = -1/P sum over the pairs of s of sign(r_ij),

where c is 2 within the batch, whose pairs count in both directions, and 1 for a pair with the bank. The
loss is a scalar, so a backend computes the gradient, (N, D) and (S,) numbers, together with the loss, and
the backward pass only scales it: nothing of size N x N outlives the forward pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from mdrlib.distances import full_precision


def loss(compute: Callable, pairs: Any, levels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return a backend's loss, differentiable once in pairs.x (N, D) and levels (S,).

    Args:
        compute: (pairs, levels, mean, std, want_x, want_levels) -> loss, dL/dx or None, dL/dlevels or None.
    """
    return _Loss.apply(compute, pairs, pairs.x, levels, mean, std)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, compute: Callable, pairs: Any, x: Tensor, levels: Tensor, mean: Tensor, std: Tensor
    ) -> Tensor:
        with full_precision(x.device):
            value, *gradients = compute(pairs, levels, mean, std, *ctx.needs_input_grad[2:4])
        ctx.save_for_backward(x, levels, *gradients)
        return value

    @staticmethod
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, grad_x, grad_levels = ctx.saved_tensors
        scaled = (None if g is None else _Scale.apply(g, upstream, *inputs) for g in (grad_x, grad_levels))
        return None, None, *scaled, None, None


class _Scale(torch.autograd.Function):
    """gradient * upstream, with an error in place of its derivative.

    It takes the loss's inputs, on which the gradient depends, so that autograd reaches the error.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, gradient: Tensor, upstream: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        return gradient * upstream

    @staticmethod
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            'MDR\'s backends "tiled" and "triton" have no second derivative; '
            'use backend="eager" for double backward'
        )


class Points(NamedTuple):
    """Embeddings, as the matrix products and as the differences of near points need them."""

    raw: Tensor  # (N, D) as given: centring rounds, which would spoil a difference of near points
    centred: Tensor  # (N, D) minus the batch's mean, which keeps norms, hence rounding, small
    norms: Tensor  # (N,) squared norms of `centred`


def points(x: Tensor, bank: Tensor | None) -> tuple[Points, Points | None]:
    """Prepare the batch x (N, D) and the bank (M, D), both centred at the batch's mean."""
    centre = x.mean(0)

    def prepare(raw: Tensor) -> Points:
        centred = (raw - centre).contiguous()
        # A norm squared, unlike square().sum(), makes no second (N, D).
        return Points(raw.contiguous(), centred, torch.linalg.vector_norm(centred, dim=1).square_())

    return prepare(x), None if bank is None else prepare(bank)


def pair_count(batch: Points, bank: Points | None) -> int:
    """Return P = N(N-1) + N M: a pair within the batch in both directions, a pair with the bank once."""
    n, m = len(batch.norms), 0 if bank is None else len(bank.norms)
    return n * (n - 1 + m)


def rough_mean(batch: Points, bank: Points | None) -> Tensor:
    """Return the root mean square distance over the pairs, which needs only the norms.

    The batch is centred, so products vanish from the mean of |a - b|^2 = |a|^2 + |b|^2 - 2ab.
    """
    n, own, pairs = len(batch.norms), batch.norms.mean(), pair_count(batch, bank)
    if bank is None:
        return own.mul_(2 * n * n / pairs).sqrt_()
    m, other = len(bank.norms), bank.norms.mean()
    return own.mul_(2 * n + m).add_(other, alpha=m).mul_(n / pairs).sqrt_()


def mean_and_std(
    shift: Tensor, total: Tensor, squares: Tensor, pairs: int, zeros: int
) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased standard deviation of `pairs` distances d and of `zeros` more that are 0.

    total and squares, in float64, are the sums of d - shift and (d - shift)^2. shift is a rough mean: without
    it the variance would be a small difference of large sums.
    """
    wide, count = shift.double(), pairs + zeros
    if zeros:
        total, squares = total - zeros * wide, torch.addcmul(squares, wide, wide, value=zeros)
    variance = torch.addcmul(squares, total, total, value=-1 / count).clamp_min_(0).div_(max(count - 1, 1))
    return torch.add(wide, total, alpha=1 / count).to(shift.dtype), variance.sqrt_().to(shift.dtype)
