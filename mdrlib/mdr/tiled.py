"""MDR with its gradient worked out by hand, one tile of the distance matrix at a time.

With r_ij = z_ij - s(i, j), M = N(N-1) and W_ij = sign(r_ij) / (std M d_ij), W_ii = 0,

    dL/dE = 2 (diag(W 1) E - W E),    dL/ds = -1/M sum over the pairs of s of sign(r_ij).

The loss is a scalar, so its gradient is computed in the forward pass, (N, D) and (S,) numbers, and only
scaled in the backward pass. Distances are symmetric: tiles below the diagonal are never computed. Cost:
N^2 D / 2 multiply-adds for the statistics, 3 N^2 D / 2 for loss and gradient; memory O(N D + TILE^2).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from mdrlib.distances import CANCELLATION

TILE = 512  # rows and columns of a tile


class _Tile(NamedTuple):
    rows: slice
    columns: slice
    d: Tensor  # (R, C) distances, 0 on the diagonal of the whole matrix
    i: Tensor  # (K,) row within the tile of each nearly coincident pair
    j: Tensor  # (K,) its column
    difference: Tensor  # (K, D) e_i - e_j, which the matrix product would have rounded away


def _tiles(x: Tensor, e: Tensor) -> Iterator[_Tile]:
    """The tiles on and above the diagonal of the distance matrix of x (N, D), by its centred copy e."""
    norms = e.square().sum(1)
    for top in range(0, len(e), TILE):
        rows = slice(top, min(top + TILE, len(e)))
        for left in range(top, len(e), TILE):
            columns = slice(left, min(left + TILE, len(e)))
            scale = norms[rows, None] + norms[None, columns]
            sq = torch.addmm(scale, e[rows], e[columns].T, alpha=-2)
            if left == top:
                sq.fill_diagonal_(torch.inf)
            i, j = (sq < scale.mul_(CANCELLATION)).nonzero(as_tuple=True)
            if left == top:
                sq.fill_diagonal_(0)
            difference = x[rows][i] - x[columns][j]  # not of e, which centring has rounded
            sq[i, j] = difference.square().sum(1)
            yield _Tile(rows, columns, sq.sqrt_(), i, j, difference)


@torch.no_grad()
def statistics(x: Tensor, diagonal: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation of the distances of x (N, D): see `eager.statistics`."""
    n = len(x)
    e = x - x.mean(0)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    squares, shift = total.clone(), None
    for tile in _tiles(x, e):
        if shift is None:
            # Sums about a rough mean: the variance is a small difference of large sums otherwise.
            shift = tile.d.mean()
        weight = 1 if tile.rows == tile.columns else 2
        d = tile.d - shift
        if tile.rows == tile.columns:
            d.fill_diagonal_(0)
        total += weight * d.sum(dtype=torch.float64)
        squares += weight * d.square_().sum(dtype=torch.float64)
    count = n * (n - 1)
    if diagonal:
        count += n
        total, squares = total - n * shift, squares + n * shift.double().square()
    variance = (squares - total.square() / count).clamp_min(0) / max(count - 1, 1)
    return (shift + total / count).to(x.dtype), variance.sqrt().to(x.dtype)


def loss(x: Tensor, levels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """L_MDR of x (N, D) for levels (S,), as `eager.loss`; no second derivative."""
    return _Loss.apply(x, levels, mean, std)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, levels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        n = len(x)
        e = x - x.mean(0)
        ordered, order = levels.sort()
        # Sorted, a level owns the distances between the midpoints to its neighbours.
        middles = (ordered[1:] + ordered[:-1]) / 2
        want_x, want_levels = ctx.needs_input_grad[:2]
        grad_x = torch.zeros_like(x) if want_x else None
        pulls = torch.zeros(len(levels), dtype=torch.float64, device=x.device)
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for tile in _tiles(x, e):
            same = tile.rows == tile.columns
            nearest = torch.bucketize((tile.d - mean) / std, middles)
            residual = ((tile.d - mean) / std).sub_(ordered[nearest])
            if same:
                residual.fill_diagonal_(0)
            weight = 1 if same else 2
            total += weight * residual.abs().sum(dtype=torch.float64)
            sign = residual.sign_()
            if want_levels:
                pulls += weight * torch.bincount(
                    nearest.flatten(), weights=sign.flatten().double(), minlength=len(levels)
                )
            if want_x:
                _add_gradient(grad_x, e, tile, sign)
        pairs = n * (n - 1)
        gradient = (
            grad_x.mul_(2 / pairs).div_(std) if want_x else None,
            torch.empty_like(levels).index_copy_(0, order, (-pulls / pairs).to(levels.dtype))
            if want_levels
            else None,
        )
        ctx.save_for_backward(x, levels, *gradient)
        return (total / pairs).to(x.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, grad_x, grad_levels = ctx.saved_tensors
        scaled = (None if g is None else _Scale.apply(g, upstream, *inputs) for g in (grad_x, grad_levels))
        return *scaled, None, None


def _add_gradient(gradient: Tensor, e: Tensor, tile: _Tile, sign: Tensor) -> None:
    """Add sum_j W_ij (e_i - e_j) of the tile's pairs, both ways round, with W_ij = sign_ij / d_ij."""
    w = torch.where(tile.d > 0, sign / tile.d, 0.0)
    # W e_i - W e_j cancels for near points as d^2 did: those pairs go through their difference.
    near = w[tile.i, tile.j, None] * tile.difference
    w[tile.i, tile.j] = 0
    gradient[tile.rows] += w.sum(1)[:, None] * e[tile.rows] - w @ e[tile.columns]
    gradient[tile.rows].index_add_(0, tile.i, near)
    if tile.rows != tile.columns:  # on a diagonal tile, (i, j) and (j, i) are both there already
        gradient[tile.columns] += w.sum(0)[:, None] * e[tile.columns] - w.T @ e[tile.rows]
        gradient[tile.columns].index_add_(0, tile.j, near, alpha=-1)


class _Scale(torch.autograd.Function):
    """gradient * upstream, refusing to be differentiated again, by name.

    It takes the loss's inputs, on which the gradient depends, so that autograd comes here to ask.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, gradient: Tensor, upstream: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        return gradient * upstream

    @staticmethod
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            'MDR\'s "tiled" backend has no second derivative; use backend="eager" for double backward'
        )
