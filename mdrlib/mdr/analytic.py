"""The analytic gradient, the points and the statistics of the backends "tiled" and "triton".

With r_ij = z_ij - s(i, j) and P the number of pairs,

    dL/de_i = 1/(std P) sum over the pairs of i of c sign(r_ij) (e_i - e_j) / d_ij,
    dL/ds   = -1/P sum over the pairs of s of sign(r_ij),

where c is 2 within the batch, whose pairs count in both directions, and 1 for a pair with the bank. A backend
computes the gradient together with the loss, a scalar, and the backward pass only scales it: nothing of size
N x N outlives the forward pass.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from mdrlib import checks

# A standard deviation below this share of the mean is rounding, not spread; dividing by it would turn
# rounding errors into levels. The absolute part serves batches of identical embeddings (mean 0).
RELATIVE_FLOOR, ABSOLUTE_FLOOR = 1e-4, 1e-8


def loss(compute: Callable, pairs: Any, levels: Tensor, mean: Any, std: Any) -> Tensor:
    """Return a backend's loss, differentiable once in pairs.x (N, D) and levels (S,).

    compute(pairs, levels, mean, std, want_x, want_levels) gives the loss, dL/dx or None, dL/dlevels or None.
    """
    return _Loss.apply(compute, pairs, pairs.x, levels, mean, std)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, compute: Callable, pairs: Any, x: Tensor, levels: Tensor, mean: Any, std: Any
    ) -> Tensor:
        with torch.cuda.device_of(x):
            value, *gradients = compute(pairs, levels, mean, std, *ctx.needs_input_grad[2:4])
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: autograd would take the gradient for a constant
            raise RuntimeError('only MDR\'s backend="eager" has a second derivative (create_graph=True)')
        x, levels = ctx.saved_tensors
        x = None if x is None else x * upstream
        return None, None, x, None if levels is None else levels * upstream, None, None


class Points(NamedTuple):
    """Embeddings, as the matrix products and as the differences of near points need them."""

    raw: Tensor  # (N, D) as given: centring rounds, which would spoil a difference of near points
    centred: Tensor  # (N, D) minus the batch's mean, which keeps norms, hence rounding, small
    norms: Tensor  # (N,) squared norms of `centred`


class Pairs:
    """The pairs of a batch x (N, D) and, if given, of x with a bank (M, D)."""

    def __init__(self, x: Tensor, bank: Tensor | None = None) -> None:
        self.x, self.bank = x, bank
        n, m = len(x), 0 if bank is None else len(bank)
        self.count = n * (n - 1 + m)  # within the batch in both directions, with the bank once
        self.kept = []  # parts of the distance matrix that the first pass leaves to the second

    @cached_property
    def others(self) -> tuple[Points, ...]:
        """The points of the batch, then those of the bank, if any."""
        with torch.no_grad():
            if self.x.device.type == "cpu":
                checks.finite(self.x)
            centre = self.x.mean(0)
            return tuple(_points(part, centre) for part in (self.x, self.bank) if part is not None)

    @property
    def batch(self) -> Points:
        return self.others[0]

    def rough_mean(self) -> Tensor:
        """Return the root mean square distance: in a centred batch the products cancel in `|a - b|^2`."""
        n, own = len(self.x), self.batch.norms.mean()
        if self.bank is None:
            return own.mul_(2 * n * n / self.count).sqrt_()
        m, other = len(self.bank), self.others[1].norms.mean()
        return own.mul_(2 * n + m).add_(other, alpha=m).mul_(n / self.count).sqrt_()


def _points(raw: Tensor, centre: Tensor) -> Points:
    centred = (raw - centre).contiguous()
    # A norm squared, unlike square().sum(), makes no second (N, D).
    return Points(raw.contiguous(), centred, torch.linalg.vector_norm(centred, dim=1).square_())


def statistics(pairs: Pairs, parts: Iterable, sums: Callable, diagonal: bool) -> tuple[Tensor, Tensor]:
    """Return mean and (unbiased) standard deviation of the distances: see `eager.statistics`.

    sums(part, shift) gives the sums of d - shift and (d - shift)^2 as (2,) float64. Without the shift, a
    rough mean, the variance would be a small difference of large sums.
    """
    with torch.no_grad(), torch.cuda.device_of(pairs.x):
        shift = pairs.rough_mean()
        total = torch.zeros(2, dtype=torch.float64, device=shift.device)
        for part in parts:
            total += sums(part, shift)
        (total, squares), wide, count = total, shift.double(), pairs.count
        if diagonal:
            zeros = len(pairs.x)
            count += zeros
            total, squares = total - zeros * wide, torch.addcmul(squares, wide, wide, value=zeros)
        variance = torch.addcmul(squares, total, total, value=-1 / count).clamp_min_(0)
        std = variance.div_(max(count - 1, 1)).sqrt_()
        return torch.add(wide, total, alpha=1 / count).to(shift.dtype), std.to(shift.dtype)
