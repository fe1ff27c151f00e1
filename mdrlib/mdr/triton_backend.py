"""Backend "triton": matrix products by the vendor's library, and one kernel for everything between them.

The equations are those of `analytic`. For each strip of rows a matrix product gives the scalar products. One
kernel replaces them, in place, by the weights W and sums loss and signs. Two more products give -W E and
-W^T E. Within the batch a strip begins at its own diagonal block; everything left of it mirrors earlier
strips. Cost: N^2 D / 2 multiply-adds for the statistics and 3 N^2 D / 2 for loss and gradient (N^2 D where
all products fit one strip, up to N = 10,000, and are kept), and four passes over half of the matrix; memory
O(N D + STRIP). Nothing waits for the GPU. The sizes of tiles and strips are not yet tuned.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdrlib.distances import full_precision
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
        """Columns whose pairs count once: the diagonal block has both directions, the bank only one."""
        return self.products.shape[0 if self.within else 1]


class Pairs:
    """The pairs of a batch x (N, D) and, if given, of x with a bank (M, D), as strips of scalar products."""

    def __init__(self, x: Tensor, bank: Tensor | None = None) -> None:
        self.x, self.kernels = x, _kernels(x)
        self.batch, self.bank = analytic.points(x, bank)
        self._places = list(self._cut())
        self._kept: list[Tensor] = []

    def strips(self, keep: bool = False) -> Iterator[_Strip]:
        """Iterate over all pairs in strips; each strip is overwritten when the next one is requested.

        With `keep`, products that fit STRIP together stay for the next call, which may overwrite them.
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
    """Prepare what `statistics` and `loss` take: see `eager.pairs`."""
    with torch.no_grad(), torch.cuda.device_of(x):
        return Pairs(x, bank)


def statistics(pairs: Pairs, diagonal: bool = False) -> tuple[Tensor, Tensor]:
    """Return mean and (unbiased) standard deviation of the distances: see `eager.statistics`."""
    with torch.no_grad(), full_precision(pairs.x.device), torch.cuda.device_of(pairs.x):
        shift = analytic.rough_mean(pairs.batch, pairs.bank)
        total = torch.zeros(2, dtype=torch.float64, device=shift.device)
        for strip in pairs.strips(keep=True):
            across, down = _grid(pairs.kernels, strip)
            sums = shift.new_empty(2, across * down)
            _launch(pairs.kernels, pairs.kernels.sums_kernel, strip, shift, sums)
            total += sums.sum(1, dtype=torch.float64)
        count = analytic.pair_count(pairs.batch, pairs.bank)
        return analytic.mean_and_std(shift, *total, count, len(pairs.x) if diagonal else 0)


def loss(pairs: Pairs, levels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return L_MDR for levels (S,), as `eager.loss`; it has no second derivative."""
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
            across, down = _grid(pairs.kernels, strip)
            sums = levels.new_empty(1 + len(levels), across * down)
            row_sums, column_sums = levels.new_empty(across, rows), levels.new_empty(down, columns)
            tiles = torch.empty(down, across, dtype=torch.int32, device=levels.device)
            if want_x and near.numel() < rows * columns:
                near = levels.new_empty(rows * columns)
            _launch(
                *(pairs.kernels, pairs.kernels.loss_kernel, strip),
                *(levels, mean, std, sums, row_sums, column_sums, near, tiles),
                SHARE=1.0 if strip.within else 0.5,  # a pair with the bank counts in one direction
                WEIGHTS=want_x,
                LEVELS=len(levels),
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
    """Add -W E of the strip to the gradient, in both directions beyond the diagonal block."""
    columns, once, w = strip.products.shape[1], strip.once, strip.products
    height, width, across = kernels.ROWS.value, kernels.COLUMNS.value, tiles.shape[1]
    left, right = strip.left.raw, strip.right.raw
    upper, below = gradient[strip.rows], gradient[strip.rows.stop :]
    upper.addmm_(w, strip.right.centred, alpha=-1)
    _add_near(kernels, (columns, 1, across, 1), (height, width), near, tiles, left, right, upper)
    if once < columns:
        below.addmm_(w[:, once:].T, strip.left.centred, alpha=-1)
        near, tiles, right = near[once:], tiles[:, once // width :], right[once:]
        _add_near(kernels, (1, columns, 1, across), (width, height), near, tiles, right, left, below)


def _add_near(kernels: ModuleType, steps: tuple[int, ...], sizes: tuple[int, int], *tensors: Tensor) -> None:
    """Add the near pairs' part, given steps in `near` and `tiles`, and a tile's own and other points."""
    _, _, own, other, _ = tensors
    (count, dims), part = own.shape, 32
    kernels.near_kernel[-(-count // sizes[0]), -(-dims // part)](
        *(*tensors, count, len(other), dims, *steps), OWN=sizes[0], OTHER=sizes[1], DIMS=part, TILES=128
    )


def _grid(kernels: ModuleType, strip: _Strip) -> tuple[int, int]:
    rows, columns = strip.products.shape
    return -(-columns // kernels.COLUMNS.value), -(-rows // kernels.ROWS.value)


def _launch(kernels: ModuleType, kernel: Any, strip: _Strip, *arguments: Tensor, **constants: Any) -> None:
    """Run a kernel once for each tile of the strip."""
    left, right = strip.left, strip.right
    kernel[_grid(kernels, strip)](
        *(strip.products, left.raw, right.raw, left.norms, right.norms, *arguments),
        *(*strip.products.shape, left.raw.shape[1], strip.once),
        SELF=strip.within,
        **constants,
    )


def _kernels(x: Tensor) -> ModuleType:
    """Import the device code when it is first used."""
    from mdrlib.mdr import triton_kernels

    if not (x.is_cuda or triton_kernels.INTERPRETED):
        raise ValueError(
            f'backend "triton" runs on a GPU and the embeddings are on {x.device}: move them, use '
            'backend="tiled", or set TRITON_INTERPRET=1 before Python starts to try the kernels on a CPU'
        )
    return triton_kernels
