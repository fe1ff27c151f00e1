"""Backend "triton": matrix products by the vendor's library, everything between them in one kernel each.

The equations are those of `analytic`. The distance matrix is taken in strips of rows. For each strip a
matrix product gives the scalar products, one kernel turns them, in place, into the weights W while it sums
loss and signs, and two more products give -W E and -W^T E. Within the batch a strip begins at its own
diagonal block: what lies left of it is the reflection of strips before. Cost: N^2 D / 2 multiply-adds for
the statistics, 3 N^2 D / 2 for loss and gradient (less the half that is kept between them where it fits one
strip, up to N = 10,000), and four passes over half of the matrix; memory O(N D + STRIP). Nothing waits for
the GPU. Correct by tests in triton's interpreter; sizes of tiles and strips are by design and have not been
tuned by measurement.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from mdrlib.distances import CANCELLATION, full_precision
from mdrlib.mdr import analytic
from mdrlib.mdr.analytic import Points

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


class Pairs:
    """The pairs of a batch x (N, D) and, if given, of x with a bank (M, D), as strips of scalar products."""

    def __init__(self, x: Tensor, bank: Tensor | None = None) -> None:
        self.x, self.kernels = x, _kernels(x)
        self.batch, self.bank = analytic.points(x, bank)
        self._places = list(self._cut())
        self._kept: list[Tensor] = []

    def strips(self, keep: bool = False) -> Iterator[_Strip]:
        """All pairs, in strips; each is overwritten when the next one is asked for.

        Unless `keep`, and they fit STRIP together: then the next call, which may overwrite them, has them
        without computing them again.
        """
        sizes = [len(left.norms) * len(right.norms) for _, left, right, _ in self._places]
        keep = keep and sum(sizes) <= STRIP
        buffers, self._kept = self._kept, []
        ready = len(buffers) > 0
        if not ready:
            shared = self.batch.norms.new_empty(sum(sizes) if keep else max(sizes))
            buffers = shared.split(sizes) if keep else [shared[:size] for size in sizes]
        for (rows, left, right, within), buffer in zip(self._places, buffers, strict=True):
            products = buffer.view(len(left.norms), len(right.norms))
            if not ready:
                torch.mm(left.centred, right.centred.T, out=products)
            yield _Strip(rows, left, right, products, within)
        if keep:
            self._kept = list(buffers)

    def _cut(self) -> Iterator[tuple[slice, Points, Points, bool]]:
        n, dims = self.x.shape
        sides = [(self.batch, True)] if self.bank is None else [(self.batch, True), (self.bank, False)]
        for points, within in sides:
            # Eight strips compute 9/16 of the batch's matrix where one computes all of it. A multiple of
            # 128, the kernels' columns, so that what follows the diagonal block begins with a tile.
            step = min(max(SHORTEST, n // 8), max(STRIP, n * dims) // len(points.norms))
            step = max(step // 128, 1) * 128
            for start in range(0, n, step):
                rows = slice(start, min(start + step, n))
                left = Points(*(part[rows] for part in self.batch))
                yield rows, left, Points(*(part[start:] for part in points)) if within else points, within


def pairs(x: Tensor, bank: Tensor | None = None) -> Pairs:
    """What `statistics` and `loss` take: see `eager.pairs`."""
    with torch.no_grad(), torch.cuda.device_of(x):
        return Pairs(x, bank)


def statistics(pairs: Pairs, diagonal: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation of the distances: see `eager.statistics`."""
    with torch.no_grad(), full_precision(pairs.x.device), torch.cuda.device_of(pairs.x):
        shift = analytic.rough_mean(pairs.batch, pairs.bank)
        total = torch.zeros(2, dtype=torch.float64, device=shift.device)
        for strip in pairs.strips(keep=True):
            grid = _grid(pairs.kernels, strip)
            sums = shift.new_empty(2, grid[0] * grid[1])
            pairs.kernels.sums_kernel[grid](
                *_arguments(strip), shift, sums, *_shape(strip), **_options(pairs.kernels, strip)
            )
            total += sums.sum(1, dtype=torch.float64)
        count = analytic.pair_count(pairs.batch, pairs.bank)
        return analytic.mean_and_std(shift, *total, count, len(pairs.x) if diagonal else 0)


def loss(pairs: Pairs, levels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """L_MDR for levels (S,), as `eager.loss`; no second derivative."""
    return analytic.loss(_compute, pairs, levels, mean, std)


def _compute(
    pairs: Pairs, levels: Tensor, mean: Tensor, std: Tensor, want_x: bool, want_levels: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    with torch.cuda.device_of(pairs.x):
        levels = levels.contiguous()
        gradient = torch.zeros_like(pairs.batch.centred) if want_x else None
        pull = torch.zeros_like(pairs.batch.norms)  # W 1
        total = torch.zeros(1 + len(levels), dtype=torch.float64, device=levels.device)
        near = levels.new_empty(0)
        for strip in pairs.strips():
            rows, columns = strip.products.shape
            across, down = grid = _grid(pairs.kernels, strip)
            sums = levels.new_empty(1 + len(levels), across * down)
            row_sums, column_sums = levels.new_empty(across, rows), levels.new_empty(down, columns)
            tiles = torch.empty(down, across, dtype=torch.int32, device=levels.device)
            if want_x and near.numel() < rows * columns:
                near = levels.new_empty(rows * columns)
            pairs.kernels.loss_kernel[grid](
                *_arguments(strip),
                *(levels, mean, std, sums, row_sums, column_sums, near, tiles),
                *_shape(strip),
                SHARE=1.0 if strip.within else 0.5,  # a pair with the bank counts in one direction
                WEIGHTS=want_x,
                LEVELS=len(levels),
                **_options(pairs.kernels, strip),
            )
            total += sums.sum(1, dtype=torch.float64)
            if want_x:
                pull[strip.rows] += row_sums.sum(0)
                if strip.once < columns:
                    pull[strip.rows.stop :] += column_sums[:, strip.once :].sum(0)
                _add_gradient(pairs.kernels, gradient, strip, near, tiles)
        count = analytic.pair_count(pairs.batch, pairs.bank)
        if want_x:
            gradient.addcmul_(pairs.batch.centred, pull[:, None]).mul_(2 / (count * std))
        value, signs = total[0] / count, -total[1:] / count
        return value.to(mean.dtype), gradient, signs.to(levels.dtype) if want_levels else None


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
