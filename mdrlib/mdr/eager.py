"""Backend "eager": the paper's equations, unchanged. The backend to read, and the oracle for the others.

Kim & Park, "Multi-level Distance Regularization for Deep Metric Learning", AAAI 2021, section 3.1.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mdrlib.distances import pairwise_distances


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return the N(N-1) entries (i, j), i != j, of an (N, N) matrix, as one vector."""
    n = matrix.shape[0]  # without the first entry, each row of n + 1 ends on the diagonal
    return matrix.flatten()[1:].view(n - 1, n + 1)[:, :-1].flatten()


class Pairs(NamedTuple):
    d: Tensor  # (P,) distances of the N(N-1) pairs i != j of the batch, then of the N M pairs with the bank
    n: int  # of the batch


def pairs(x: Tensor, bank: Tensor | None = None) -> Pairs:
    """Return the distances of all pairs of a batch x (N, D), and of x with a bank (M, D), if given."""
    own = off_diagonal(pairwise_distances(x))
    return Pairs(own if bank is None else torch.cat((own, pairwise_distances(x, bank).flatten())), x.shape[0])


@torch.no_grad()
def statistics(pairs: Pairs, diagonal: bool = False) -> tuple[Tensor, Tensor]:
    """Return mean and (unbiased) standard deviation of the distances; `diagonal` adds the batch's N zeros."""
    values = torch.cat((pairs.d, pairs.d.new_zeros(pairs.n))) if diagonal else pairs.d
    return values.mean(), values.std()


def loss(pairs: Pairs, levels: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Return L_MDR, the mean over all pairs of ``|z_ij - s(i, j)|``, with s(i, j) the level nearest to z_ij.

    z = (d - mean) / std for levels (S,); mean and std are constants to the gradient.
    """
    z = (pairs.d - mean) / std
    return (z[:, None] - levels).abs().min(dim=1).values.mean()
