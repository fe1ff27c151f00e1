"""Distances and gradients on a GPU from differences of points: exact for near points, without waits.

It needs Triton, and is imported when it is first used. With TRITON_INTERPRET=1 the kernels run on the CPU. A
program takes a tile of pairs and some dimensions at a time, adds up each dimension, and sums over dimensions
once, at its end. It uses no atomics, so the bits are the same every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS, DIMS = tl.constexpr(16), tl.constexpr(16), tl.constexpr(32)  # of a tile


@triton.jit
def points(x, index, dims, k, count):
    """Load dimensions k (K,) of the points `index` (P,) as (P, K), 0 outside."""
    at = x + index[:, None].to(tl.int64) * dims + k[None, :]
    return tl.load(at, mask=(index < count)[:, None] & (k < dims)[None, :], other=0.0)


@triton.jit
def squares(x, y, r, c, n, m, dims):
    """Return the squared distances (R, C) of the points r of x (n, dims) and c of y (m, dims)."""
    total = tl.zeros((ROWS, COLUMNS, DIMS), dtype=x.dtype.element_ty)
    for first in range(0, dims, DIMS):
        k = first + tl.arange(0, DIMS)
        difference = points(x, r, dims, k, n)[:, None, :] - points(y, c, dims, k, m)[None, :, :]
        total += difference * difference
    return tl.sum(total, 2)


@triton.jit
def forces(
    w, d, x, y, r, k, n, m, dims, r_step, c_step, start, stop, DIVIDE: tl.constexpr, MIRROR: tl.constexpr
):
    """Sum w_rc (x_r - y_c) / d_rc over c in [start, stop), (R, K); no DIVIDE: no d; MIRROR: w_rc + w_cr."""
    total = tl.zeros((ROWS, COLUMNS, DIMS), dtype=x.dtype.element_ty)
    own = points(x, r, dims, k, n)[:, None, :]
    for first in range(start, stop, COLUMNS):
        c = first + tl.arange(0, COLUMNS)
        inside = (r < n)[:, None] & (c < m)[None, :]
        at = r[:, None].to(tl.int64) * r_step + c[None, :].to(tl.int64) * c_step
        weight = tl.load(w + at, mask=inside, other=0.0)
        if MIRROR:
            mirrored = r[:, None].to(tl.int64) * c_step + c[None, :].to(tl.int64) * r_step
            weight += tl.load(w + mirrored, mask=inside, other=0.0)
        if DIVIDE:
            length = tl.load(d + at, mask=inside, other=0.0)
            weight = tl.where(length > 0, weight / tl.where(length > 0, length, 1.0), 0.0)
        total += weight[:, :, None] * (own - points(y, c, dims, k, m)[None, :, :])
    return tl.sum(total, 1)


@triton.jit
def distances_kernel(
    x, y, d, moments, n, m, stride, dims, SQUARED: tl.constexpr, SELF: tl.constexpr, MOMENTS: tl.constexpr
):
    """Fill d (n, stride); SELF: mirror the upper tiles; MOMENTS: their sums of d, d^2 (2, tiles, tiles)."""
    i, j, tiles = tl.program_id(1), tl.program_id(0), tl.num_programs(0)
    if not SELF or j >= i:
        r, c = i * ROWS + tl.arange(0, ROWS), j * COLUMNS + tl.arange(0, COLUMNS)
        found = squares(x, y, r, c, n, m, dims)
        if not SQUARED:
            found = tl.sqrt(found)
        inside = (r < n)[:, None] & (c < m)[None, :]
        tl.store(d + r[:, None].to(tl.int64) * stride + c[None, :], found, mask=inside)
        if SELF:
            tl.store(d + c[None, :].to(tl.int64) * stride + r[:, None], found, mask=inside)
        if MOMENTS:
            wide = tl.where(inside & (r[:, None] != c[None, :]), found, 0.0).to(tl.float64)
            weight = tl.where(j > i, 2.0, 1.0).to(tl.float64)  # a tile on the diagonal has both directions
            tl.store(moments + i * tiles + j, weight * tl.sum(wide))
            tl.store(moments + (tiles + i) * tiles + j, weight * tl.sum(wide * wide))


@triton.jit
def _forces_kernel(
    w, d, x, y, out, n, m, dims, row_step, column_step, DIVIDE: tl.constexpr, MIRROR: tl.constexpr
):
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(0) * DIMS + tl.arange(0, DIMS)
    total = forces(w, d, x, y, r, k, n, m, dims, row_step, column_step, 0, m, DIVIDE, MIRROR)
    inside = (r < n)[:, None] & (k < dims)[None, :]
    tl.store(out + r[:, None].to(tl.int64) * dims + k[None, :], total, mask=inside)


INTERPRETED = not isinstance(_forces_kernel, triton.JITFunction)


def grid(across: int, down: int, width: tl.constexpr) -> tuple[int, int]:
    """Return the programs that cover `across` columns or dimensions, `width` each, and `down` rows."""
    return triton.cdiv(across, width.value), triton.cdiv(down, ROWS.value)


@torch.library.custom_op("mdrlib::distances", mutates_args=())
def distances(x: Tensor, y: Tensor | None, squared: bool) -> Tensor:
    """Return the distances of x (N, D) to y (M, D), or to itself, as (N, M): see `pairwise_distances`."""
    a = x.contiguous()
    b = a if y is None else y.contiguous()
    out = a.new_empty(len(a), len(b))
    with torch.cuda.device_of(a):
        distances_kernel[grid(len(b), len(a), COLUMNS)](
            *(a, b, out, out, len(a), len(b), len(b), a.shape[1]), squared, y is None, MOMENTS=False
        )
    return out


@distances.register_fake
def _(x: Tensor, y: Tensor | None, squared: bool) -> Tensor:
    return x.new_empty(len(x), len(x if y is None else y))


@torch.library.custom_op("mdrlib::distance_gradient", mutates_args=())
def gradient(upstream: Tensor, d: Tensor | None, x: Tensor, y: Tensor | None) -> Tensor:
    """Return sum over j of upstream_ij (x_i - y_j) / d_ij, (N, D); no d: undivided; no y: x, both ways."""
    a = x.contiguous()
    b = a if y is None else y.contiguous()
    length = upstream if d is None else d
    if length.stride() != upstream.stride():
        upstream = torch.empty_like(length).copy_(upstream)
    out = torch.empty_like(a)
    with torch.cuda.device_of(a):
        _forces_kernel[grid(a.shape[1], len(a), DIMS)](
            *(upstream, length, a, b, out, len(a), len(b), a.shape[1], *upstream.stride()),
            DIVIDE=d is not None,
            MIRROR=y is None,
            num_warps=8,  # with 4, 186 registers a thread
        )
    return out


@gradient.register_fake
def _(upstream: Tensor, d: Tensor | None, x: Tensor, y: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


def _setup(ctx, inputs: tuple, output: Tensor) -> None:
    x, y, ctx.squared = inputs
    ctx.save_for_backward(x, y, None if ctx.squared else output)


def _backward(ctx, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, y, d = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: products, which autograd can differentiate again
        from mdrlib.distances import plain

        inputs = [part for part in (x, y) if part is not None]
        found = torch.autograd.grad(plain(x, y, ctx.squared), inputs, upstream, create_graph=True)
        return *found, *[None] * (3 - len(found))
    upstream = 2 * upstream if ctx.squared else upstream
    want_x, want_y = ctx.needs_input_grad[:2]
    return (
        gradient(upstream, d, x, y) if want_x else None,
        gradient(upstream.T, None if d is None else d.T, y, x) if want_y else None,
        None,
    )


distances.register_autograd(_backward, setup_context=_setup)
