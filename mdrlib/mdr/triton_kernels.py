"""The device code of backend "triton": what happens to a strip of scalar products between two products.

A strip holds the products a_r b_c of R points of the batch (left) with C points (right), row by row, each
padded to `stride` numbers, a multiple of ROWS, so that loads are wide whatever C is. A program reads a tile
of it once and computes everything for its pairs: distance, nearest level, loss, weight. It writes each sum to
its own slot, for torch.sum to add: no atomics, the same bits every time. Offsets into strip and points are
64-bit: at N = 65,536 they exceed 2^31. Where rounding spoils a distance (see distances.CANCELLATION) the tile
computes it again from the points.
"""

import triton
import triton.language as tl

from mdrlib import distances
from mdrlib.differences import DIMS, ROWS, forces

COLUMNS = tl.constexpr(128)  # of a tile; its rows are those of `forces`
CANCELLATION = tl.constexpr(distances.CANCELLATION)


@triton.jit
def _tile(strip, left, right, left_norms, right_norms, rows, columns, stride, dims, SELF: tl.constexpr):
    """Return the tile's rows, columns, offsets in the strip, which are pairs, which are near, distances."""
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    pair = (r < rows)[:, None] & (c < columns)[None, :]
    if SELF:  # right starts with left: the diagonal pairs a point with itself
        pair = pair & (r[:, None] != c[None, :])
    offsets = r[:, None].to(tl.int64) * stride + c[None, :]
    # Bounds alone: with any other mask each number would be loaded by itself.
    held = (r < rows)[:, None] & (c < stride)[None, :]
    scale = (
        tl.load(left_norms + r, mask=r < rows, other=0.0)[:, None]
        + tl.load(right_norms + c, mask=c < columns, other=0.0)[None, :]
    )
    sq = scale - 2.0 * tl.load(strip + offsets, mask=held, other=0.0)
    near = pair & (sq <= scale * CANCELLATION)
    if tl.max(near.to(tl.int32)) > 0:
        exact = tl.zeros_like(sq)
        a = left + r.to(tl.int64) * dims
        b = right + c.to(tl.int64) * dims
        for k in range(dims):
            u = tl.load(a + k, mask=r < rows, other=0.0)
            v = tl.load(b + k, mask=c < columns, other=0.0)
            difference = u[:, None] - v[None, :]
            exact += difference * difference
        sq = tl.where(near, exact, sq)
    return r, c, offsets, pair, near, tl.sqrt(tl.abs(sq))  # below 0 on the diagonal alone, by rounding


@triton.jit
def nearest_level(z, levels, LEVELS: tl.constexpr):
    """Return r = z - nearest level and the level's index, the first of equally near ones."""
    residual = z - tl.load(levels)
    nearest = tl.zeros_like(z).to(tl.int32)
    for k in tl.static_range(1, LEVELS):
        gap = z - tl.load(levels + k)
        nearer = tl.abs(gap) < tl.abs(residual)
        nearest = tl.where(nearer, k, nearest)
        residual = tl.where(nearer, gap, residual)
    return residual, nearest


@triton.jit
def sums_kernel(
    strip,
    left,
    right,
    left_norms,
    right_norms,
    shift,
    sums,
    rows,
    columns,
    stride,
    dims,
    once,
    SELF: tl.constexpr,
):
    """Sum d - shift and its square: sums (2, programs)."""
    r, c, _, pair, _, d = _tile(
        strip, left, right, left_norms, right_norms, rows, columns, stride, dims, SELF
    )
    deviation = tl.where(pair, d - tl.load(shift), 0.0)
    weighted = tl.where(c < once, 1.0, 2.0)[None, :] * deviation
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + program, tl.sum(weighted))
    tl.store(sums + tl.num_programs(0) * tl.num_programs(1) + program, tl.sum(weighted * deviation))


@triton.jit
def loss_kernel(
    strip,  # in: products
    left,
    right,
    left_norms,
    right_norms,
    levels,
    mean,
    std,
    sums,  # (1 + LEVELS, programs): of |r|, then of sign(r) by level
    row_sums,  # (column tiles, rows): of W
    column_sums,  # (row tiles, columns)
    weights,  # out: W_ij = SHARE sign(r_ij) / d_ij, 0 for near pairs; may be `strip`. If HALVES, 2 x bfloat16
    near_weights,  # (rows, stride): W of the near pairs, written in tiles that have one
    near_tiles,  # (row tiles, column tiles): which have one
    rows,
    columns,
    stride,
    dims,
    once,
    SHARE: tl.constexpr,
    WEIGHTS: tl.constexpr,
    LEVELS: tl.constexpr,
    HALVES: tl.constexpr,
    SELF: tl.constexpr,
):
    r, c, offsets, pair, near, d = _tile(
        strip, left, right, left_norms, right_norms, rows, columns, stride, dims, SELF
    )
    residual, nearest = nearest_level((d - tl.load(mean)) / tl.load(std), levels, LEVELS)
    residual = tl.where(pair, residual, 0.0)
    sign = tl.where(residual > 0, 1.0, tl.where(residual < 0, -1.0, 0.0)).to(d.dtype)

    weight = tl.where(c < once, 1.0, 2.0)[None, :]
    programs = tl.num_programs(0) * tl.num_programs(1)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + program, tl.sum(weight * tl.abs(residual)))
    for k in tl.static_range(0, LEVELS):
        by_level = tl.sum(tl.where(nearest == k, weight * sign, 0.0))
        tl.store(sums + (1 + k) * programs + program, by_level)

    if WEIGHTS:
        w = tl.where(d > 0, SHARE * sign / tl.where(d > 0, d, 1.0), 0.0)
        far = tl.where(near, 0.0, w)
        inside = (r < rows)[:, None] & (c < columns)[None, :]
        if HALVES:
            high = far.to(tl.bfloat16)
            tl.store(weights + offsets, high, mask=inside)
            low = weights + rows.to(tl.int64) * stride
            tl.store(low + offsets, (far - high.to(far.dtype)).to(tl.bfloat16), mask=inside)
        else:
            tl.store(weights + offsets, far, mask=inside)
        tl.store(row_sums + tl.program_id(0).to(tl.int64) * rows + r, tl.sum(far, 1), mask=r < rows)
        tl.store(column_sums + tl.program_id(1).to(tl.int64) * columns + c, tl.sum(far, 0), mask=c < columns)
        any_near = tl.max(near.to(tl.int32))
        tl.store(near_tiles + program, any_near)
        if any_near > 0:
            tl.store(near_weights + offsets, tl.where(near, w, 0.0), mask=inside)


@triton.jit
def near_kernel(
    weights,  # W of the near pairs, of own point o and other point p at o own_step + p other_step
    tiles,  # which of its tiles were written, of own tile s and other tile t at s own_tile + t other_tile
    own,
    other,
    gradient,  # (own count, dims): each program adds to its own part
    own_count,
    other_count,
    dims,
    own_step,
    other_step,
    own_tile,
    other_tile,
    OWN: tl.constexpr,  # points of a tile
    OTHER: tl.constexpr,
    TILES: tl.constexpr,  # flags read together
):
    """Add sum over p of W_op (own_o - other_p) to gradient_o; (W 1) own - W other would cancel."""
    o = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(1) * DIMS + tl.arange(0, DIMS)
    flags = tiles + tl.program_id(0) * ROWS // OWN * own_tile
    count = tl.cdiv(other_count, OTHER)
    total = tl.zeros((ROWS, DIMS), dtype=gradient.dtype.element_ty)
    for first in range(0, count, TILES):
        t = first + tl.arange(0, TILES)
        if tl.max(tl.load(flags + t * other_tile, mask=t < count, other=0)) > 0:
            for tile in range(first, tl.minimum(first + TILES, count)):
                if tl.load(flags + tile * other_tile) > 0:
                    start, stop = tile * OTHER, (tile + 1) * OTHER
                    total += forces(
                        weights, weights, own, other, o, k, own_count, other_count, dims,
                        own_step, other_step, start, stop, DIVIDE=False, MIRROR=False,
                    )  # fmt: skip
    inside = (o < own_count)[:, None] & (k < dims)[None, :]
    target = gradient + o[:, None].to(tl.int64) * dims + k[None, :]
    tl.store(target, tl.load(target, mask=inside, other=0.0) + total, mask=inside)


# Triton decides when it is imported: with TRITON_INTERPRET=1 the kernels run in Python, on any tensor.
INTERPRETED = not isinstance(loss_kernel, triton.JITFunction)
