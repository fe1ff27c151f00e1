"""MDR with its gradient worked out by hand, one tile of the distance matrix at a time.

The equations are those of `analytic`. With W_ij = sign(r_ij) / d_ij, W_ii = 0, the sum over the pairs of i is
(W 1)_i e_i - (W E)_i: a matrix product. Distances within the batch are symmetric: tiles below the diagonal
are never computed. Cost: N^2 D / 2 multiply-adds for the statistics, 3 N^2 D / 2 for loss and gradient (for
a bank N M D and 2 N M D); memory O(N D + TILE^2). Nothing is summed in an order that could change, so two
calls give the same bits.

Passes over a tile use floats for masks: comparisons into bool and `where` cost five times an addition.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mdrlib.distances import CANCELLATION
from mdrlib.mdr import analytic
from mdrlib.mdr.analytic import Points
from mdrlib.mdr.precision import full_float32

TILE = 512  # most rows and columns of a tile
CHUNK = 2**21  # most numbers in the differences of near pairs held at once


class _Tile(NamedTuple):
    rows: slice
    left: Points  # the batch
    columns: slice
    right: Points  # the batch again, or the bank
    d: Tensor  # (R, C) distances, 0 on the diagonal of the batch's matrix
    near: tuple[Tensor, Tensor]  # row and column within the tile of each nearly coincident pair

    @property
    def diagonal(self) -> bool:
        return self.left is self.right and self.rows == self.columns

    @property
    def mirrored(self) -> bool:
        """Whether the tile stands for its reflection below the diagonal too."""
        return self.left is self.right and self.rows != self.columns


def statistics(x: Tensor, diagonal: bool = False, bank: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation of the distances of x (N, D): see `eager.statistics`."""
    with torch.no_grad(), full_float32():
        batch, other = analytic.points(x, bank)
        shift = analytic.rough_mean(batch, other)
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        squares = total.clone()
        for tile in _tiles(batch, other):
            deviation = tile.d.sub_(shift)
            if tile.diagonal:
                deviation.fill_diagonal_(0)
            weight = 2 if tile.mirrored else 1
            total += weight * deviation.sum().double()
            squares += weight * torch.linalg.vector_norm(deviation).double().square()
        zeros = len(x) if diagonal else 0
        return analytic.mean_and_std(shift, total, squares, analytic.pair_count(batch, other), zeros)


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
    batch, other = analytic.points(x, bank)
    # In units of distance from the mean, and sorted: a level owns what lies between its middles.
    ordered, order = (levels * std).sort()
    middles = (ordered[1:] + ordered[:-1]) / 2
    gradient = torch.zeros_like(batch.centred) if want_x else None
    pull = x.new_zeros(len(x))  # W 1
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    signs = torch.zeros(len(levels), dtype=torch.float64, device=x.device)
    for tile in _tiles(batch, other):
        sign, residual, by_level = _signs(tile, mean, ordered, middles)
        weight = 2 if tile.mirrored else 1
        total += weight * residual
        signs += weight * by_level
        if want_x:
            _add_gradient(gradient, pull, tile, sign)
    pairs = analytic.pair_count(batch, other)
    if want_x:
        gradient.addcmul_(batch.centred, pull[:, None]).mul_(2 / pairs).div_(std)
    pulls = torch.empty_like(levels).index_copy_(0, order, (-signs / pairs).to(levels.dtype))
    return (total / (pairs * std)).to(x.dtype), gradient, pulls if want_levels else None


def _tiles(batch: Points, bank: Points | None) -> Iterator[_Tile]:
    """The tiles on and above the diagonal of the batch's distance matrix, then those against the bank."""
    for rows in _cuts(len(batch.norms)):
        for columns in _cuts(len(batch.norms)):
            if columns.start >= rows.start:
                yield _tile(rows, batch, columns, batch)
    for rows in _cuts(len(batch.norms)) if bank is not None else ():
        for columns in _cuts(len(bank.norms)):
            yield _tile(rows, batch, columns, bank)


def _cuts(n: int) -> Iterator[slice]:
    """Slices of at most TILE, equal but for the last."""
    step = -(-n // -(-n // TILE)) if n else 1
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _tile(rows: slice, left: Points, columns: slice, right: Points) -> _Tile:
    a, b = left.norms[rows], right.norms[columns]
    sq = torch.addmm(a[:, None] + b, left.centred[rows], right.centred[columns].T, alpha=-2)
    if left is right and rows == columns:
        sq.fill_diagonal_(torch.inf)
    i = j = torch.empty(0, dtype=torch.int64, device=sq.device)
    if sq.min() <= CANCELLATION * (a.max() + b.max()):  # one cheap pass spares most tiles the costly one
        i, j = (sq <= CANCELLATION * (a[:, None] + b)).nonzero(as_tuple=True)
    tile = _Tile(rows, left, columns, right, sq, (i, j))
    for part, difference in _differences(tile):
        sq[i[part], j[part]] = difference.square_().sum(1)
    if tile.diagonal:
        sq.fill_diagonal_(0)
    sq.sqrt_()
    return tile


def _differences(tile: _Tile) -> Iterator[tuple[slice, Tensor]]:
    """e_i - e_j of the near pairs, which the matrix product has rounded away, a bounded part at a time."""
    i, j = tile.near
    left, right = tile.left.raw[tile.rows], tile.right.raw[tile.columns]
    step = max(1, CHUNK // left.shape[1])
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        yield part, left[i[part]].sub_(right[j[part]])


def _signs(tile: _Tile, mean: Tensor, levels: Tensor, middles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sign(r) of the tile's pairs (R, C), the sum of |r| std, and for each level the sum of its signs.

    With t the levels and m the middles between them, sign(r) = sum_k sign(d - t_k) - sum_k sign(d - m_k):
    between t_k and m_k one more level than middles lies below, between m_k and t_k+1 it is one fewer.
    The same sums over the tile give the signs of each level by subtraction.
    """
    d = tile.d - mean
    if tile.diagonal:
        d.fill_diagonal_(torch.inf)  # beyond the last level, from whose sum it is taken away
    sign, mask = torch.zeros_like(d), torch.empty_like(d)
    above = []  # by level: pairs above less pairs below it; by middle: pairs above it
    for level in levels:
        torch.sub(d, level, out=mask)
        sign += mask.sign_()
        above.append(mask.sum())
    beyond = []
    for middle in middles:
        torch.gt(d, middle, out=mask)  # on the middle itself the lower level is the nearest, as in `eager`
        sign.sub_(mask, alpha=2)
        beyond.append(mask.sum())
    sign += len(middles)
    if tile.diagonal:
        d.fill_diagonal_(0)
        sign.fill_diagonal_(0)
    beyond = torch.stack([d.new_tensor(d.numel()), *beyond, d.new_tensor(len(d) if tile.diagonal else 0)])
    # (pairs above the level + pairs not below it) - (pairs above its middles)
    by_level = (torch.stack(above) + d.numel() - beyond[:-1] - beyond[1:]).double()
    residual = torch.dot(sign.flatten(), d.flatten()).double() - levels.double() @ by_level
    return sign, residual, by_level


def _add_gradient(gradient: Tensor, pull: Tensor, tile: _Tile, sign: Tensor) -> None:
    """Add -W E to the gradient and W 1 to `pull`, over the tile, both ways round if mirrored."""
    i, j = tile.near
    share = 1.0 if tile.left is tile.right else 0.5  # a pair with the bank counts in one direction
    if tile.diagonal:
        tile.d.fill_diagonal_(1)
    near = torch.where(tile.d[i, j] > 0, sign[i, j] / tile.d[i, j], 0.0)
    w = sign.div_(tile.d)
    w[i, j] = 0  # W e_i - W e_j cancels for near points as d^2 did: they go through their difference
    gradient[tile.rows].addmm_(w, tile.right.centred[tile.columns], alpha=-share)
    pull[tile.rows].add_(w.sum(1), alpha=share)
    if tile.mirrored:  # on a diagonal tile, (i, j) and (j, i) are both there already
        gradient[tile.columns].addmm_(w.T, tile.left.centred[tile.rows], alpha=-1)
        pull[tile.columns].add_(w.sum(0))
    for part, difference in _differences(tile):
        force = difference.mul_(near[part, None])
        _add_rows(gradient[tile.rows], i[part], force, share)
        if tile.mirrored:
            _add_rows(gradient[tile.columns], j[part], force, -1.0)


def _add_rows(target: Tensor, index: Tensor, rows: Tensor, factor: float) -> None:
    if target.is_cuda:  # where index_add_ adds in any order
        target.index_put_((index,), rows * factor, accumulate=True)
    else:
        target.index_add_(0, index, rows, alpha=factor)
