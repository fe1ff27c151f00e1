"""Backend "triton": matrix products by the vendor's library, everything between them in one kernel each.

The equations are those of `analytic`. The distance matrix is taken in strips of rows. For each strip a
matrix product gives the scalar products, one kernel turns them, in place, into the weights W while it sums
loss and signs, and two more products give -W E and -W^T E. Within the batch a strip begins at its own
diagonal block: what lies left of it is the reflection of strips before. Cost: N^2 D / 2 multiply-adds for
the statistics, 3 N^2 D / 2 for loss and gradient, and four passes over half of the matrix; memory
O(N D + STRIP). Nothing waits for the GPU. Correct by tests in triton's interpreter; sizes of tiles and
strips are by design and have not been tuned by measurement.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from mdrlib.distances import CANCELLATION
from mdrlib.mdr import analytic
from mdrlib.mdr.analytic import Points
from mdrlib.mdr.precision import full_float32

STRIP = 2**26  # most numbers in a strip (256 MB in float32), unless N D is more
SHORTEST = 512  # rows of a strip: fewer would leave processors without a part of the products


class _Strip(NamedTuple):
    rows: slice  # of the batch
    left: Points  # these rows
    right: Points  # the batch from the first of them on, or the bank
    products: Tensor  # (R, C)
    within: bool  # the batch with itself

    @property
    def once(self) -> int:
        """Columns whose pairs count once: the diagonal block has both directions, the bank has but one."""
        return self.products.shape[0 if self.within else 1]


def statistics(x: Tensor, diagonal: bool = False, bank: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation of the distances of x (N, D): see `eager.statistics`."""
    kernels = _kernels(x)
    with torch.no_grad(), full_float32(), torch.cuda.device_of(x):
        batch, other = analytic.points(x, bank)
        shift = analytic.rough_mean(batch, other)
        total = torch.zeros(2, dtype=torch.float64, device=x.device)
        for strip in _strips(batch, other):
            grid = _grid(kernels, strip)
            sums = x.new_empty(2, grid[0] * grid[1])
            kernels.sums_kernel[grid](
                *_arguments(strip), shift, sums, *_shape(strip), **_options(kernels, strip)
            )
            total += sums.sum(1, dtype=torch.float64)
        zeros = len(x) if diagonal else 0
        return analytic.mean_and_std(shift, *total, analytic.pair_count(batch, other), zeros)


def loss(x: Tensor, levels: Tensor, mean: Tensor, std: Tensor, bank: Tensor | None = None) -> Tensor:
    """L_MDR of x (N, D) for levels (S,), as `eager.loss`; no second derivative."""
    return analytic.loss(_compute, x, levels, mean, std, bank)


def _compute(
    x: Tensor,
    levels: Tensor,
    mean: Tensor,
    std: Tensor,
    bank: Tensor | None,
    want_x: bool,
    want_levels: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    kernels = _kernels(x)
    with torch.cuda.device_of(x):
        batch, other = analytic.points(x, bank)
        levels = levels.contiguous()
        gradient = torch.zeros_like(batch.centred) if want_x else None
        pull = x.new_zeros(len(x))  # W 1
        total = torch.zeros(1 + len(levels), dtype=torch.float64, device=x.device)
        near = None
        for strip in _strips(batch, other):
            grid = _grid(kernels, strip)
            rows, columns = strip.products.shape
            sums = x.new_empty(1 + len(levels), grid[0] * grid[1])
            row_sums, column_sums = x.new_empty(grid[0], rows), x.new_empty(grid[1], columns)
            tiles = torch.empty(grid[1], grid[0], dtype=torch.int32, device=x.device)
            if near is None or near.numel() < rows * columns:
                near = x.new_empty(rows * columns if want_x else 0)
            kernels.loss_kernel[grid](
                *_arguments(strip),
                *(levels, mean, std, sums, row_sums, column_sums, near, tiles),
                *_shape(strip),
                SHARE=1.0 if strip.within else 0.5,  # a pair with the bank counts in one direction
                WEIGHTS=want_x,
                LEVELS=len(levels),
                **_options(kernels, strip),
            )
            total += sums.sum(1, dtype=torch.float64)
            if want_x:
                pull[strip.rows] += row_sums.sum(0)
                if strip.once < columns:
                    pull[strip.rows.stop :] += column_sums[:, strip.once :].sum(0)
                _add_gradient(kernels, gradient, strip, near, tiles)
        pairs = analytic.pair_count(batch, other)
        if want_x:
            gradient.addcmul_(batch.centred, pull[:, None]).mul_(2 / pairs).div_(std)
        value, signs = total[0] / pairs, -total[1:] / pairs
        return value.to(x.dtype), gradient, signs.to(levels.dtype) if want_levels else None


def _strips(batch: Points, bank: Points | None) -> Iterator[_Strip]:
    """All pairs, in strips of one buffer: a strip is overwritten when the next one is asked for."""
    n, dims = batch.centred.shape
    sides = [(batch, True)] if bank is None else [(batch, True), (bank, False)]
    buffer = None
    for points, within in sides:
        width = len(points.norms)
        # Eight strips compute 9/16 of the batch's matrix where one computes all of it. A multiple of the
        # kernels' columns, so that what follows the diagonal block begins with a tile.
        step = min(max(SHORTEST, n // 8), max(STRIP, n * dims) // width)
        step = max(step // 128, 1) * 128
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            left = Points(*(part[rows] for part in batch))
            right = Points(*(part[start:] for part in points)) if within else points
            size = len(left.norms) * len(right.norms)
            if buffer is None or buffer.numel() < size:
                buffer = batch.centred.new_empty(size)
            products = buffer[:size].view(len(left.norms), len(right.norms))
            torch.mm(left.centred, right.centred.T, out=products)
            yield _Strip(rows, left, right, products, within)


def _add_gradient(kernels: ModuleType, gradient: Tensor, strip: _Strip, near: Tensor, tiles: Tensor) -> None:
    """Add -W E of the strip to the gradient, both ways round beyond the diagonal block."""
    (rows, columns), once, w = strip.products.shape, strip.once, strip.products
    height, width = kernels.ROWS, kernels.COLUMNS
    gradient[strip.rows].addmm_(w, strip.right.centred, alpha=-1)
    _launch_near(
        kernels,
        *(near, tiles, strip.left.raw, strip.right.raw, gradient[strip.rows], rows, columns),
        *(columns, 1, len(tiles[0]), 1, height, width),
    )
    if once < columns:
        below = gradient[strip.rows.stop :]
        below.addmm_(w[:, once:].T, strip.left.centred, alpha=-1)
        _launch_near(
            kernels,
            *(near[once:], tiles[:, once // width :], strip.right.raw[once:], strip.left.raw, below),
            *(columns - once, rows, 1, columns, 1, len(tiles[0]), width, height),
        )


def _launch_near(
    kernels: ModuleType,
    near: Tensor,
    tiles: Tensor,
    own: Tensor,
    other: Tensor,
    gradient: Tensor,
    own_count: int,
    other_count: int,
    own_step: int,
    other_step: int,
    own_tile: int,
    other_tile: int,
    own_size: int,
    other_size: int,
) -> None:
    dims, part = own.shape[1], 32
    kernels.near_kernel[-(-own_count // own_size), -(-dims // part)](
        *(near, tiles, own, other, gradient, own_count, other_count, dims),
        *(own_step, other_step, own_tile, other_tile),
        OWN=own_size,
        OTHER=other_size,
        DIMS=part,
        TILES=128,
    )


def _grid(kernels: ModuleType, strip: _Strip) -> tuple[int, int]:
    rows, columns = strip.products.shape
    return -(-columns // kernels.COLUMNS), -(-rows // kernels.ROWS)


def _arguments(strip: _Strip) -> tuple[Tensor, ...]:
    return strip.products, strip.left.raw, strip.right.raw, strip.left.norms, strip.right.norms


def _shape(strip: _Strip) -> tuple[int, ...]:
    return *strip.products.shape, strip.left.raw.shape[1], strip.once


def _options(kernels: ModuleType, strip: _Strip) -> dict[str, object]:
    return {
        "SELF": strip.within,
        "CANCELLATION": CANCELLATION,
        "ROWS": kernels.ROWS,
        "COLUMNS": kernels.COLUMNS,
    }


def _kernels(x: Tensor) -> ModuleType:
    """The device code, loaded when first used; raises where it cannot run on x."""
    from mdrlib.mdr import triton_kernels

    if not (x.is_cuda or triton_kernels.INTERPRETED):
        raise ValueError(
            f'backend "triton" runs on a GPU and the embeddings are on {x.device}: move them or use '
            'backend="tiled" (to try the kernels on a CPU, set TRITON_INTERPRET=1 before python starts)'
        )
    return triton_kernels
