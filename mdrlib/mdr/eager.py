"""The paper's equations as they stand: the backend to read, and the oracle for the others.

Kim & Park, "Multi-level Distance Regularization for Deep Metric Learning", AAAI 2021, section 3.1.
"""

import torch
from torch import Tensor

from mdrlib.distances import pairwise_distances


def off_diagonal(matrix: Tensor) -> Tensor:
    """The N(N-1) entries (i, j), i != j, of an (N, N) matrix, as one vector."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)]


def distances(x: Tensor, bank: Tensor | None = None) -> Tensor:
    """Distances of the pairs of x (N, D), i != j, then of x to each of the bank (M, D): (N(N-1) + N M,)."""
    own = off_diagonal(pairwise_distances(x))
    return own if bank is None else torch.cat((own, pairwise_distances(x, bank).flatten()))


@torch.no_grad()
def statistics(x: Tensor, diagonal: bool = False, bank: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation of `distances(x, bank)`, as scalars.

    The N zeros of the diagonal of the batch's matrix are taken in if `diagonal`.
    """
    values = distances(x, bank)
    if diagonal:
        values = torch.cat((values, values.new_zeros(len(x))))
    return values.mean(), values.std()


def loss(
    x: Tensor,
    levels: Tensor,
    mean: Tensor | float,
    std: Tensor | float,
    bank: Tensor | None = None,
) -> Tensor:
    """L_MDR = 1/|P| sum over P of |z_ij - s(i, j)|, with s(i, j) the level nearest to z_ij.

    z = (d - mean) / std; mean and std are constants to the gradient.
    """
    z = (distances(x, bank) - mean) / std
    return (z[:, None] - levels).abs().min(dim=1).values.mean()
