"""Backend "tiled": the analytic gradient in plain torch, one tile of the distance matrix at a time.

With W_ij = sign(r_ij) / d_ij, W_ii = 0, the sum over the pairs of i in `analytic` is (W 1)_i e_i - (W E)_i: a
matrix product. Tiles below the diagonal mirror those above and are not computed. Multiply-adds: N^2 D / 2
for the statistics, 3 N^2 D / 2 for loss and gradient (for a bank N M D and 2 N M D); memory O(N D + TILE^2).
The order of all sums is fixed. Distances that do not fit KEPT are computed again in the second pass. Masks
are floats: comparisons into bool and `where` cost five times an addition.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from mdrlib.distances import CANCELLATION
from mdrlib.mdr import analytic, dense
from mdrlib.mdr.analytic import Points

TILE = 512  # most rows and columns of a tile
KEPT = 2**22  # most distances kept between the two passes: 16 MB in float32
CHUNK = 2**21  # most numbers in the differences of near pairs held at once


class _Tile(NamedTuple):
    rows: slice
    left: Points  # the batch
    columns: slice
    right: Points  # the batch again, or the bank
    d: Tensor  # (R, C) distances, 0 on the diagonal of the batch's matrix
    near: tuple[Tensor, Tensor]  # row and column within the tile of each nearly coincident pair
    diagonal: bool  # on the diagonal of the batch's matrix
    mirrored: bool  # stands for its mirror image below the diagonal too


class Pairs(analytic.Pairs):
    @cached_property
    def matrix(self) -> dense.Matrix | None:
        """All distances, on a CPU, if they are few, none nearly coincide and there is no bank."""
        few = len(self.x) <= min(dense.LARGEST, TILE) and self.bank is None
        return dense.matrix(self.x.detach()) if few and self.x.device.type == "cpu" else None

    def tiles(self, keep: bool = False) -> Iterator[_Tile]:
        """Iterate over tiles; with `keep`, the first ones, up to KEPT numbers, stay for the next call."""
        kept, room = len(self.kept), KEPT if keep else 0
        for number, place in enumerate(self._places()):
            tile = self.kept[number] if number < kept else _tile(*place)
            room -= tile.d.numel() + 4 * len(tile.near[0])  # two indices, each the size of two float32
            if room >= 0 and number >= kept:
                self.kept.append(tile)
            yield tile

    def _places(self) -> Iterator[tuple[slice, Points, slice, Points]]:
        """Tiles on and above the diagonal of the batch's matrix, then those with the bank."""
        left = self.batch
        for right in self.others:
            for rows, columns in product(_cuts(len(left.norms)), _cuts(len(right.norms))):
                if right is not left or columns.start >= rows.start:
                    yield rows, left, columns, right


def pairs(x: Tensor, bank: Tensor | None = None) -> Pairs:
    """Prepare the input of `statistics` and `loss`: see `eager.pairs`."""
    return Pairs(x, bank)


def statistics(pairs: Pairs, diagonal: bool = False) -> tuple[Tensor, Tensor]:
    """Return mean and (unbiased) standard deviation of the distances: see `eager.statistics`."""
    if pairs.matrix is not None:
        return dense.statistics(pairs.matrix, diagonal)
    return analytic.statistics(pairs, pairs.tiles(keep=True), _sums, diagonal)


def loss(pairs: Pairs, levels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return L_MDR for levels (S,), as `eager.loss`; it has no second derivative."""
    return analytic.loss(_compute, pairs, levels, mean, std)


def _sums(tile: _Tile, shift: Tensor) -> Tensor:
    deviation = tile.d - shift
    if tile.diagonal:
        deviation.fill_diagonal_(0)
    sums = torch.stack([deviation.sum(), deviation.square_().sum()]).double()
    return 2 * sums if tile.mirrored else sums


def _compute(
    pairs: Pairs, levels: Tensor, mean: Tensor, std: Tensor, want_x: bool, want_levels: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if pairs.matrix is not None:
        return dense.compute(pairs, levels, mean, std, want_x, want_levels)
    # In units of distance from the mean, and sorted: a level owns what lies between its middles.
    ordered, order = (levels * std).sort()
    middles = (ordered[1:] + ordered[:-1]) / 2
    gradient = torch.zeros_like(pairs.batch.centred) if want_x else None
    pull = torch.zeros_like(pairs.batch.norms)  # W 1
    sums = torch.zeros(1 + len(levels), dtype=torch.float64, device=levels.device)
    for tile in pairs.tiles():
        sign, found = _signs(tile, mean, ordered, middles)
        sums += found.mul_(2) if tile.mirrored else found
        if want_x:
            _add_gradient(gradient, pull, tile, sign)
    if want_x:
        gradient.addcmul_(pairs.batch.centred, pull[:, None]).mul_(2 / (pairs.count * std))
    value = sums[0] / (pairs.count * std)
    pulls = torch.empty_like(levels).index_copy_(0, order, (sums[1:] / -pairs.count).to(levels.dtype))
    return value.to(levels.dtype), gradient, pulls if want_levels else None


def _cuts(n: int) -> Iterator[slice]:
    """Slices of at most TILE, equal except for the last."""
    step = -(-n // -(-n // TILE)) if n else 1
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _tile(rows: slice, left: Points, columns: slice, right: Points) -> _Tile:
    within, diagonal = left is right, left is right and rows == columns
    a, b = left.norms[rows], right.norms[columns]
    sq = torch.addmm(a[:, None] + b, left.centred[rows], right.centred[columns].T, alpha=-2)
    if diagonal:
        sq.fill_diagonal_(torch.inf)
    i = j = torch.empty(0, dtype=torch.int64, device=sq.device)
    if sq.min() <= CANCELLATION * (a.max() + b.max()):  # a cheap test saves most tiles the costly one
        i, j = (sq <= CANCELLATION * (a[:, None] + b)).nonzero(as_tuple=True)
    tile = _Tile(rows, left, columns, right, sq, (i, j), diagonal, within and not diagonal)
    for part, difference in _differences(tile):
        sq[i[part], j[part]] = difference.square_().sum(1)
    if diagonal:
        sq.fill_diagonal_(0)
    sq.sqrt_()
    return tile


def _differences(tile: _Tile) -> Iterator[tuple[slice, Tensor]]:
    """e_i - e_j of the near pairs, which the matrix product rounds away, a bounded part at a time."""
    i, j = tile.near
    left, right = tile.left.raw[tile.rows], tile.right.raw[tile.columns]
    step = max(1, CHUNK // left.shape[1])
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        yield part, left[i[part]].sub_(right[j[part]])


def _signs(tile: _Tile, mean: Tensor, levels: Tensor, middles: Tensor) -> tuple[Tensor, Tensor]:
    """Return sign(r) (R, C) of the tile's pairs, and float64 sums (1 + S,): |r| std, sign(r) by level."""
    d = tile.d - mean
    residual = d - levels[0]
    beyond = []  # each middle: 1 where d lies above it and the next level is nearer, 0 elsewhere
    reached = levels[0]
    for level, middle in zip(levels[1:], middles, strict=True):
        beyond.append(torch.gt(d, middle, out=torch.empty_like(d)))
        # The sum of the rounded steps, not the level: so a pair on a level of 0 has r = 0, as in `eager`.
        step = level - reached
        residual.addcmul_(beyond[-1], step, value=-1)
        reached = reached + step
    sign = residual.sign()
    if tile.diagonal:
        sign.fill_diagonal_(0)
    signed = residual.mul_(sign).sum()
    # sum, not dot, for numbers that are not whole: it adds in pairs and keeps float32's digits.
    above = [sign.sum(), *(torch.dot(sign.flatten(), mask.flatten()) for mask in beyond)]
    sums = torch.stack([signed, *above]).double()
    sums[1:-1] -= sums[2:].clone()  # above its own middle, minus above the next one
    return sign, sums


def _add_gradient(gradient: Tensor, pull: Tensor, tile: _Tile, sign: Tensor) -> None:
    """Add the tile's -W E to the gradient and its W 1 to `pull`, in both directions if mirrored."""
    (i, j), share = tile.near, 1.0 if tile.left is tile.right else 0.5  # the bank counts in one direction
    w = sign.div_(tile.d)
    if tile.diagonal:
        w.fill_diagonal_(0)
    if len(i):  # W e_i - W e_j cancels for near points as d^2 does: use their difference
        near = torch.where(tile.d[i, j] > 0, w[i, j], 0.0)
        w[i, j] = 0
    gradient[tile.rows].addmm_(w, tile.right.centred[tile.columns], alpha=-share)
    pull[tile.rows].add_(w.sum(1), alpha=share)
    if tile.mirrored:  # a diagonal tile has both (i, j) and (j, i) already
        gradient[tile.columns].addmm_(w.T, tile.left.centred[tile.rows], alpha=-1)
        pull[tile.columns].add_(w.sum(0))
    for part, difference in _differences(tile):
        force = difference.mul_(near[part, None])
        _add_rows(gradient[tile.rows], i[part], force, share)
        if tile.mirrored:
            _add_rows(gradient[tile.columns], j[part], force, -1.0)


def _add_rows(target: Tensor, index: Tensor, rows: Tensor, factor: float) -> None:
    if target.is_cuda:  # there index_add_ has no fixed order
        target.index_put_((index,), rows * factor, accumulate=True)
    else:
        target.index_add_(0, index, rows, alpha=factor)
