"""Backend "triton" for small batches without a bank: the whole step in three kernels, by differences.

The first kernel computes the distances of tiles on and above the diagonal, mirrors them, and sums them and
their squares in float64. The second one turns these sums into statistics and running statistics, and each
distance into its loss and its weight W_ij of `analytic`. The third one sums W_ij (e_i - e_j) and the losses.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mdrlib.differences import COLUMNS, DIMS, ROWS, distances_kernel, forces, grid
from mdrlib.mdr.analytic import ABSOLUTE_FLOOR, RELATIVE_FLOOR
from mdrlib.mdr.triton_kernels import nearest_level

WIDE = tl.constexpr(128)  # columns of a tile of weights
PARTS = tl.constexpr(512)  # partial sums that a program adds at a time


@triton.jit
def _statistics(moments, tiles, n, dtype: tl.constexpr, DIAGONAL: tl.constexpr):
    """Return mean and (unbiased) standard deviation."""
    total = tl.zeros((PARTS,), dtype=tl.float64)
    square = tl.zeros((PARTS,), dtype=tl.float64)
    for first in range(0, tiles * tiles, PARTS):
        t = first + tl.arange(0, PARTS)
        written = (t < tiles * tiles) & (t % tiles >= t // tiles)
        total += tl.load(moments + t, mask=written, other=0.0)
        square += tl.load(moments + tiles * tiles + t, mask=written, other=0.0)
    count = n.to(tl.float64) * (n if DIAGONAL else n - 1)
    mean = tl.sum(total) / count
    variance = tl.maximum(tl.sum(square) - mean * mean * count, 0.0) / tl.maximum(count - 1.0, 1.0)
    return mean.to(dtype), tl.sqrt(variance).to(dtype)


@triton.jit
def _blend(batch, running, keep):
    return tl.where(keep < 0.5, batch + keep * (running - batch), running - (running - batch) * (1 - keep))


@triton.jit
def weights_kernel(
    d,  # (n, stride); in: distances; out: W_ij = 2 sign(r_ij) / (P std d_ij)
    moments,  # (2, tiles, tiles) float64: sums of d and d^2, upper tiles alone
    levels,
    running_mean,
    running_std,
    initialized,
    state,  # (5,), out: running mean and std, initialized, the batch's mean and std
    sums,  # (1 + LEVELS, programs), out: of |r|, then of sign(r) by level
    n,
    stride,
    tiles,
    momentum,
    RELATIVE: tl.constexpr,  # floors of the standard deviation
    ABSOLUTE: tl.constexpr,
    UPDATE: tl.constexpr,
    DIAGONAL: tl.constexpr,
    LEVELS: tl.constexpr,
):
    dtype: tl.constexpr = d.dtype.element_ty
    wide: tl.constexpr = state.dtype.element_ty
    mean, std, ready = tl.load(running_mean), tl.load(running_std), tl.load(initialized).to(wide)
    batch_mean, batch_std = mean.to(dtype), std.to(dtype)
    if UPDATE:
        batch_mean, batch_std = _statistics(moments, tiles, n, dtype, DIAGONAL)
        keep = tl.where(ready > 0, momentum, 0.0).to(wide)
        both = batch_mean + batch_std
        finite = both - both == 0  # otherwise one bad batch would spoil them permanently
        mean = tl.where(finite, _blend(batch_mean.to(wide), mean, keep), mean)
        std = tl.where(finite, _blend(batch_std.to(wide), std, keep), std)
        ready = tl.where(finite, 1.0, ready).to(wide)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    if program == 0:
        tl.store(state, mean)
        tl.store(state + 1, std)
        tl.store(state + 2, ready)
        tl.store(state + 3, batch_mean.to(wide))
        tl.store(state + 4, batch_std.to(wide))
    mean = mean.to(dtype)
    std = tl.maximum(tl.maximum(std.to(dtype), RELATIVE * tl.abs(mean)), ABSOLUTE).to(dtype)

    r, c = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    at = r[:, None] * stride + c[None, :]
    held = (r < n)[:, None] & (c < stride)[None, :]
    length = tl.load(d + at, mask=held, other=0.0)
    z = (length - mean) / std
    residual, nearest = nearest_level(z, levels, LEVELS)
    pair = (r < n)[:, None] & (c < n)[None, :] & (r[:, None] != c[None, :])
    residual = tl.where(pair, residual, 0.0)
    sign = tl.where(residual > 0, 1.0, tl.where(residual < 0, -1.0, 0.0)).to(dtype)
    programs = tl.num_programs(0) * tl.num_programs(1)
    tl.store(sums + program, tl.sum(tl.abs(residual)))
    for k in tl.static_range(0, LEVELS):
        tl.store(sums + (1 + k) * programs + program, tl.sum(tl.where(nearest == k, sign, 0.0)))
    factor = (2.0 / (n.to(tl.float64) * (n - 1) * std)).to(dtype)
    apart = pair & (length > 0)
    tl.store(d + at, tl.where(apart, factor * sign / tl.where(apart, length, 1.0), 0.0), mask=held)


@triton.jit
def gradient_kernel(
    w, sums, x, out, value, pulls, n, stride, dims, programs, GRADIENT: tl.constexpr, LEVELS: tl.constexpr
):
    if GRADIENT:
        r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        k = tl.program_id(0) * DIMS + tl.arange(0, DIMS)
        found = forces(w, w, x, x, r, k, n, n, dims, stride, 1, 0, n, DIVIDE=False, MIRROR=False)
        inside = (r < n)[:, None] & (k < dims)[None, :]
        tl.store(out + r[:, None] * dims + k[None, :], found, mask=inside)
    if tl.program_id(0) + tl.program_id(1) == 0:
        pairs = n.to(tl.float64) * (n - 1)
        for row in tl.static_range(0, 1 + LEVELS):
            total = tl.zeros((PARTS,), dtype=tl.float64)
            for first in range(0, programs, PARTS):
                p = first + tl.arange(0, PARTS)
                total += tl.load(sums + row * programs + p, mask=p < programs, other=0.0).to(tl.float64)
            mean = (tl.sum(total) / pairs).to(w.dtype.element_ty)
            if row == 0:
                tl.store(value, mean)
            else:
                tl.store(pulls + row - 1, -mean)


@torch.library.custom_op("mdrlib::mdr_step", mutates_args=())
def mdr_step(
    x: Tensor,
    levels: Tensor,
    running_mean: Tensor,
    running_std: Tensor,
    initialized: Tensor,
    momentum: float,
    diagonal: bool,
    update: bool,
    want_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss, its gradients, and (5,): running mean, std and `initialized`, the batch's mean and std.

    The loss is that of x (N, D) and levels (S,) with these running statistics: without `update` the given
    ones, in place of the batch's too. Without want_x, dL/dx is empty. Only the loss is differentiable.
    """
    x, levels, (n, dims) = x.contiguous(), levels.contiguous(), x.shape
    across, down = grid(n, n, COLUMNS)
    stride = -(-n // ROWS.value) * ROWS.value  # so that loads of a row are wide
    d, moments = x.new_empty(n, stride), x.new_empty(2, across, down, dtype=torch.float64)
    tiles = grid(n, n, WIDE)
    sums = x.new_empty(1 + len(levels), tiles[0] * tiles[1])
    loss, gradient, pulls, state = _results(x, levels, running_mean, want_x)
    with torch.cuda.device_of(x):
        distances_kernel[across, down](x, x, d, moments, n, n, stride, dims, False, True, MOMENTS=True)
        weights_kernel[tiles](
            *(d, moments, levels, running_mean, running_std, initialized, state, sums),
            *(n, stride, across, momentum, RELATIVE_FLOOR, ABSOLUTE_FLOOR),
            UPDATE=update,
            DIAGONAL=diagonal,
            LEVELS=len(levels),
        )
        gradient_kernel[grid(dims, n, DIMS) if want_x else (1, 1)](
            *(d, sums, x, gradient, loss, pulls, n, stride, dims, sums.shape[1]),
            GRADIENT=want_x,
            LEVELS=len(levels),
            num_warps=8,  # with 4 registers spill
        )
    return loss, gradient, pulls, state


def _results(x: Tensor, levels: Tensor, running: Tensor, want_x: bool) -> tuple[Tensor, ...]:
    gradient = x.new_empty(x.shape if want_x else 0)
    return x.new_empty(()), gradient, levels.new_empty(len(levels)), running.new_empty(5)


@mdr_step.register_fake
def _(x, levels, running_mean, running_std, initialized, momentum, diagonal, update, want_x):
    return _results(x, levels, running_mean, want_x)


def _setup(ctx, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*output[1:3])


def _backward(ctx, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # create_graph=True: autograd would take the gradient for a constant
        raise RuntimeError('only MDR\'s backend="eager" has a second derivative (create_graph=True)')
    found = [
        gradient * upstream if wanted else None
        for gradient, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
    ]
    return *found, *[None] * 7


mdr_step.register_autograd(_backward, setup_context=_setup)
