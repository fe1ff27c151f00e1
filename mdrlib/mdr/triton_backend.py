"""Backend "triton": matrix products by the vendor's library, and one kernel for everything between them.

For each strip of rows a matrix product gives the scalar products. One kernel replaces them, in place, by the
weights W and sums loss and signs. Two more products give -W E and -W^T E. Within the batch a strip begins at
its own diagonal block; everything left of it mirrors earlier strips. Multiply-adds as in `tiled`, or N^2 D
for loss and gradient where all products fit STRIP, up to N = 10,000, and are kept; memory O(N D + STRIP).
Nothing waits for the GPU. The sizes of tiles and strips are not yet tuned.
"""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdrlib.mdr import analytic
from mdrlib.mdr.analytic import Points

STRIP = 2**26  # most numbers in a strip (256 MB in float32), unless N D is more
SHORTEST = 512  # rows of a strip: fewer would leave processors without a part of the products


def _kernels() -> ModuleType:
    """Import the device code, which needs triton, when it is first used."""
    from mdrlib.mdr import triton_kernels

    return triton_kernels


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

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles across and down."""
        rows, columns = self.products.shape
        return -(-columns // _kernels().COLUMNS.value), -(-rows // _kernels().ROWS.value)

    def launch(self, kernel: Any, *arguments: Tensor, **constants: Any) -> None:
        """Run a kernel once for each tile."""
        left, right = self.left, self.right
        kernel[self.grid](
            *(self.products, left.raw, right.raw, left.norms, right.norms, *arguments),
            *(*self.products.shape, left.raw.shape[1], self.once),
            SELF=self.within,
            **constants,
        )


class Pairs(analytic.Pairs):
    def strips(self, keep: bool = False) -> Iterator[_Strip]:
        """Iterate over strips, each in place of the last; with `keep`, all stay if they fit STRIP."""
        kept, self.kept = self.kept, []
        if kept:
            yield from kept
            return
        places = list(self._places())
        sizes = [len(left.norms) * len(right.norms) for _, left, right, _ in places]
        keep = keep and sum(sizes) <= STRIP
        buffer = None if keep else self.batch.norms.new_empty(max(sizes))
        for (rows, left, right, within), size in zip(places, sizes, strict=True):
            out = None if keep else buffer[:size].view(len(left.norms), len(right.norms))
            strip = _Strip(rows, left, right, torch.mm(left.centred, right.centred.T, out=out), within)
            if keep:
                self.kept.append(strip)
            yield strip

    def _places(self) -> Iterator[tuple[slice, Points, Points, bool]]:
        n, dims = self.x.shape
        for points in self.others:
            # Eight strips compute 9/16 of the batch's matrix where one computes all of it. A multiple of
            # 128, the kernels' columns, so that what follows the diagonal block begins with a tile.
            step = min(max(SHORTEST, n // 8), max(STRIP, n * dims) // len(points.norms))
            step = max(step // 128, 1) * 128
            for start in range(0, n, step):
                rows, within = slice(start, min(start + step, n)), points is self.batch
                left = Points(*(part[rows] for part in self.batch))
                yield rows, left, Points(*(part[start:] for part in points)) if within else points, within


def pairs(x: Tensor, bank: Tensor | None = None) -> Pairs:
    """Prepare what `statistics` and `loss` take: see `eager.pairs`."""
    if not (x.is_cuda or _kernels().INTERPRETED):
        raise ValueError(f'backend "triton" needs embeddings on a GPU, not {x.device}: use backend="tiled"')
    with torch.no_grad():
        return Pairs(x, bank)


def statistics(pairs: Pairs, diagonal: bool = False) -> tuple[Tensor, Tensor]:
    """Return mean and (unbiased) standard deviation of the distances: see `eager.statistics`."""
    return analytic.statistics(pairs, pairs.strips(keep=True), _sums, diagonal)


def loss(pairs: Pairs, levels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return L_MDR for levels (S,), as `eager.loss`; it has no second derivative."""
    mean, std = (torch.as_tensor(v, dtype=levels.dtype, device=levels.device) for v in (mean, std))
    return analytic.loss(_compute, pairs, levels, mean, std)


def _sums(strip: _Strip, shift: Tensor) -> Tensor:
    sums = shift.new_empty(2, math.prod(strip.grid))
    strip.launch(_kernels().sums_kernel, shift, sums)
    return sums.sum(1, dtype=torch.float64)


def _compute(
    pairs: Pairs, levels: Tensor, mean: Tensor, std: Tensor, want_x: bool, want_levels: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    levels = levels.contiguous()
    gradient = torch.zeros_like(pairs.batch.centred) if want_x else None
    pull = torch.zeros_like(pairs.batch.norms)  # W 1
    total = torch.zeros(1 + len(levels), dtype=torch.float64, device=levels.device)
    near = levels.new_empty(0)
    for strip in pairs.strips():
        rows, columns = strip.products.shape
        across, down = strip.grid
        sums = levels.new_empty(1 + len(levels), across * down)
        row_sums, column_sums = levels.new_empty(across, rows), levels.new_empty(down, columns)
        tiles = torch.empty(down, across, dtype=torch.int32, device=levels.device)
        if want_x and near.numel() < rows * columns:
            near = levels.new_empty(rows * columns)
        strip.launch(
            _kernels().loss_kernel,
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
            _add_gradient(gradient, strip, near, tiles)
    if want_x:
        gradient.addcmul_(pairs.batch.centred, pull[:, None]).mul_(2 / (pairs.count * std))
    value, signs = total[0] / pairs.count, -total[1:] / pairs.count
    return value.to(mean.dtype), gradient, signs.to(levels.dtype) if want_levels else None


def _add_gradient(gradient: Tensor, strip: _Strip, near: Tensor, tiles: Tensor) -> None:
    """Add -W E of the strip to the gradient, in both directions beyond the diagonal block."""
    columns, once, w = strip.products.shape[1], strip.once, strip.products
    height, width, across = _kernels().ROWS.value, _kernels().COLUMNS.value, tiles.shape[1]
    left, right = strip.left.raw, strip.right.raw
    upper, below = gradient[strip.rows], gradient[strip.rows.stop :]
    upper.addmm_(w, strip.right.centred, alpha=-1)
    _add_near((columns, 1, across, 1), (height, width), near, tiles, left, right, upper)
    if once < columns:
        below.addmm_(w[:, once:].T, strip.left.centred, alpha=-1)
        near, tiles, right = near[once:], tiles[:, once // width :], right[once:]
        _add_near((1, columns, 1, across), (width, height), near, tiles, right, left, below)


def _add_near(steps: tuple[int, ...], sizes: tuple[int, int], *tensors: Tensor) -> None:
    """Add the near pairs' part, given steps in `near` and `tiles`, and a tile's own and other points."""
    _, _, own, other, _ = tensors
    (count, dims), part = own.shape, 32
    _kernels().near_kernel[-(-count // sizes[0]), -(-dims // part)](
        *(*tensors, count, len(other), dims, *steps), OWN=sizes[0], OTHER=sizes[1], DIMS=part, TILES=128
    )
