"""The paper's equations as they stand: the backend to read, and the oracle for the others.

Kim & Park, "Multi-level Distance Regularization for Deep Metric Learning", AAAI 2021, section 3.1.
"""

import torch
from torch import Tensor

from mdrlib.distances import pairwise_distances


def off_diagonal(matrix: Tensor) -> Tensor:
    """The N(N-1) entries (i, j), i != j, of an (N, N) matrix, as one vector."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)]


@torch.no_grad()
def statistics(x: Tensor, diagonal: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation of the distances of a batch x (N, D), as scalars.

    Over the pairs i != j, or over the full matrix with its N zeros if `diagonal`.
    """
    d = pairwise_distances(x)
    values = d.flatten() if diagonal else off_diagonal(d)
    return values.mean(), values.std()


def normalized_distances(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """z_ij = (d_ij - mean) / std, (N, N); mean and std are constants to the gradient."""
    return (pairwise_distances(x) - mean) / std


def loss(x: Tensor, levels: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """L_MDR = 1/|P| sum over i != j of |z_ij - s(i, j)|, with s(i, j) the level nearest to z_ij."""
    z = off_diagonal(normalized_distances(x, mean, std))
    return (z[:, None] - levels).abs().min(dim=1).values.mean()
