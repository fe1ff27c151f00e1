"""Backend "triton": matrix products by the vendor's library, and one kernel for everything between them.

For each strip of rows a matrix product gives the scalar products. One kernel replaces them by the weights W
and sums loss and signs. Two more products give -W E and -W^T E. Within the batch a strip begins at its own
diagonal block; everything left of it mirrors earlier strips. Multiply-adds as in `tiled`, or N^2 D for loss
and gradient where all products fit STRIP, up to N = 10,000, and are kept; memory O(N D + STRIP).

From HALVED embeddings on, float32 products run on tensor cores: each factor is the sum of two bfloat16, high
and low, and low x low is left out (bf16x3: 16 of float32's 24 bits a factor; the errors cancel in the sums).
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
SMALL = 1024  # embeddings up to which differences are faster than products, by estimate
HALVED = 4096  # embeddings; below it the gradient's error would be over 5e-7, and launches take the time
SHORTEST = 512  # rows of a strip: fewer would leave processors without a part of the products


def _kernels() -> ModuleType:
    """Import the device code, which needs triton, when it is first used."""
    from mdrlib.mdr import triton_kernels

    return triton_kernels


class _Strip(NamedTuple):
    rows: slice  # of the batch
    left: Points  # these rows
    right: Points  # the batch from the first of them on, or the bank
    halves: tuple[Tensor, Tensor] | None  # of left and right: see `_halves`
    products: Tensor  # (R, C); a row is `stride` numbers from the next one
    within: bool  # the batch with itself

    @property
    def once(self) -> int:
        """Columns whose pairs count once: the diagonal block has both directions, the bank only one."""
        return self.products.shape[0 if self.within else 1]

    @property
    def stride(self) -> int:
        return self.products.stride(0)

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
            *(*self.products.shape, self.stride, left.raw.shape[1], self.once),
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
        sizes = [len(left.norms) * _padded(len(right.norms)) for _, left, right, _, _ in places]
        keep = keep and sum(sizes) <= STRIP
        buffer = None if keep else self.batch.norms.new_empty(max(sizes))
        for (rows, left, right, halves, within), size in zip(places, sizes, strict=True):
            memory = self.batch.norms.new_empty(size) if keep else buffer[:size]
            out, padding = memory.view(len(left.norms), -1).tensor_split([len(right.norms)], dim=1)
            padding.zero_()  # an operation on nothing launches nothing
            if halves is None:
                torch.mm(left.centred, right.centred.T, out=out)
            else:
                dims = left.centred.shape[1]
                _product(halves[0][:, : 3 * dims], halves[1][:, dims:].T, out)
            strip = _Strip(rows, left, right, halves, out, within)
            if keep:
                self.kept.append(strip)
            yield strip

    def _places(self) -> Iterator[tuple[slice, Points, Points, tuple[Tensor, Tensor] | None, bool]]:
        n, dims = self.x.shape
        halved = n >= HALVED and self.x.dtype == torch.float32
        own = _halves(self.batch.centred) if halved else None
        for points in self.others:
            within = points is self.batch
            other = own if within else _halves(points.centred) if halved else None
            # Eight strips compute 9/16 of the batch's matrix where one computes all of it. A multiple of
            # 128, the kernels' columns, so that what follows the diagonal block begins with a tile.
            step = min(max(SHORTEST, n // 8), max(STRIP, n * dims) // len(points.norms))
            step = max(step // 128, 1) * 128
            for start in range(0, n, step):
                rows, columns = slice(start, min(start + step, n)), slice(start if within else 0, None)
                left = Points(*(part[rows] for part in self.batch))
                right = Points(*(part[columns] for part in points))
                yield rows, left, right, (own[rows], other[columns]) if halved else None, within


def _padded(columns: int) -> int:
    return -(-columns // 16) * 16


def _halves(x: Tensor) -> Tensor:
    """Return high, high, low, high (N, 4 D) bfloat16 of x = high + low: 3 D on the left, 3 D on the right."""
    high = x.bfloat16()
    return torch.cat((high, high, (x - high).bfloat16(), high), dim=1)


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Multiply bfloat16 matrices into a float32 one."""
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)  # Triton's interpreter


def pairs(x: Tensor, bank: Tensor | None = None) -> Pairs:
    """Prepare the input of `statistics` and `loss`: see `eager.pairs`."""
    _require_gpu(x)
    with torch.no_grad():
        return Pairs(x, bank)


def _require_gpu(x: Tensor) -> None:
    if not (x.is_cuda or _kernels().INTERPRETED):
        raise ValueError(f'backend "triton" needs embeddings on a GPU, not {x.device}: use backend="tiled"')


def is_small(x: Tensor, bank: Tensor | None) -> bool:
    """Return whether `step` takes a batch x (N, D): without a bank, and N up to SMALL."""
    return len(x) <= SMALL and (bank is None or len(bank) == 0)


def step(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Return loss, and mean, std, initialized, the batch's mean and std: see `triton_small.mdr_step`."""
    _require_gpu(x)
    from mdrlib.mdr.triton_small import mdr_step

    loss, _, _, state = mdr_step(x, *rest, x.requires_grad and torch.is_grad_enabled())
    return loss, state.detach()


def statistics(pairs: Pairs, diagonal: bool = False) -> tuple[Tensor, Tensor]:
    """Return mean and (unbiased) standard deviation of the distances: see `eager.statistics`."""
    if is_small(pairs.x, pairs.bank):
        zero = pairs.x.new_zeros(())
        return step(pairs.x.detach(), zero[None], zero, zero, zero, 0.0, diagonal, True)[1][3:].unbind()
    return analytic.statistics(pairs, pairs.strips(keep=True), _sums, diagonal)


def loss(pairs: Pairs, levels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return L_MDR for levels (S,), as `eager.loss`; it has no second derivative."""
    mean, std = (
        value.to(levels) if isinstance(value, Tensor) else levels.new_full((), value) for value in (mean, std)
    )
    if is_small(pairs.x, pairs.bank):
        return step(pairs.x, levels, mean, std, mean, 0.0, False, False)[0]
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
        weights = strip.products
        if want_x and near.numel() < rows * strip.stride:
            near = levels.new_empty(rows * strip.stride)
        if want_x and strip.halves is not None:
            weights = levels.new_empty(2, rows, strip.stride, dtype=torch.bfloat16)
        strip.launch(
            _kernels().loss_kernel,
            *(levels, mean, std, sums, row_sums, column_sums, weights, near, tiles),
            SHARE=1.0 if strip.within else 0.5,  # a pair with the bank counts in one direction
            WEIGHTS=want_x,
            LEVELS=len(levels),
            HALVES=strip.halves is not None,
        )
        total += sums.sum(1, dtype=torch.float64)
        if want_x:
            pull[strip.rows] += row_sums.sum(0)
            if strip.once < columns:
                pull[strip.rows.stop :] += column_sums[:, strip.once :].sum(0)
            _add_gradient(gradient, strip, weights[..., :columns], near, tiles)
    if want_x:
        gradient.addcmul_(pairs.batch.centred, pull[:, None]).mul_(2 / (pairs.count * std))
    value, signs = total[0] / pairs.count, -total[1:] / pairs.count
    return value.to(mean.dtype), gradient, signs.to(levels.dtype) if want_levels else None


def _add_gradient(gradient: Tensor, strip: _Strip, w: Tensor, near: Tensor, tiles: Tensor) -> None:
    """Add -W E of the strip to the gradient, in both directions beyond the diagonal block."""
    columns, once, stride = strip.products.shape[1], strip.once, strip.stride
    height, width, across = _kernels().ROWS.value, _kernels().COLUMNS.value, tiles.shape[1]
    left, right = strip.left.raw, strip.right.raw
    halves = strip.halves or (None, None)
    upper, below = gradient[strip.rows], gradient[strip.rows.stop :]
    _subtract(upper, w, strip.right.centred, halves[1])
    _add_near((stride, 1, across, 1), (height, width), near, tiles, left, right, upper)
    if once < columns:
        _subtract(below, w[..., once:].mT, strip.left.centred, halves[0])
        near, tiles, right = near[once:], tiles[:, once // width :], right[once:]
        _add_near((1, stride, 1, across), (width, height), near, tiles, right, left, below)


def _subtract(target: Tensor, w: Tensor, x: Tensor, halves: Tensor | None) -> None:
    """Subtract W x from the target, W (R, C) or, as high and low, (2, R, C)."""
    if halves is None:
        target.addmm_(w, x, alpha=-1)
        return
    dims = x.shape[1]
    high, low = halves[:, :dims], halves[:, 2 * dims : 3 * dims]
    product = torch.empty_like(target)
    for a, b in ((w[1], high), (w[0], low), (w[0], high)):
        target.sub_(_product(a, b, product))


def _add_near(steps: tuple[int, ...], sizes: tuple[int, int], *tensors: Tensor) -> None:
    """Add the near pairs' part, given steps in `near` and `tiles`, and a tile's own and other points."""
    _, _, own, other, _ = tensors
    count, dims = own.shape
    _kernels().near_kernel[-(-count // _kernels().ROWS.value), -(-dims // _kernels().DIMS.value)](
        *(*tensors, count, len(other), dims, *steps), OWN=sizes[0], OTHER=sizes[1], TILES=128, num_warps=8
    )
