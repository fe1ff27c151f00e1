"""The angle between the expected gradients of two losses, estimated by products across batches.

On batches i and j that are drawn independently, with the network unchanged, E <g_i, r_j> = <E g, E r>: the
noises of two batches are independent. On one batch, E <g_i, r_i> also contains the covariance of the two, and
the cosine of two single gradients is mostly noise.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor, nn

CONFIDENCE = 0.95
Loss = Callable[[Tensor, Tensor], Tensor]  # embeddings (N, D) and labels (N,) -> scalar


class Angle(NamedTuple):
    """Two expected gradients. NaN where a squared length is not estimated as positive: too few batches."""

    cosine: float  #: Consistent, not confined to [-1, 1].
    low: float  #: Ends of its interval, by the jackknife over batches.
    high: float
    lengths: tuple[float, float]
    noise: tuple[float, float]  #: Mean squared length of one batch's gradient over that of the expected one.


def of_batches(
    network: nn.Module, losses: Sequence[Loss], batches: Iterable[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """Return, for each loss, its gradients by the network's parameters: (batches, parameters).

    They are those of a copy of the network in training mode. MDR has to be in evaluation mode, or its running
    statistics would carry something from batch to batch.
    """
    network = copy.deepcopy(network).train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    rows: list[list[Tensor]] = [[] for _ in losses]
    for images, labels in batches:
        x = network(images)
        for row, loss in zip(rows, losses, strict=True):
            parts = torch.autograd.grad(loss(x, labels), parameters, retain_graph=True)
            row.append(torch.cat([part.flatten() for part in parts]))
    return [torch.stack(row) for row in rows]


def across(g: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of <g_i, r_j> over i != j, and the same without each batch in turn, (n,).

    Args:
        g, r: (n, P), the gradients of n >= 3 independent batches.
    """
    n = len(g)
    products = (g.double() @ r.double().T).fill_diagonal_(0)
    total = products.sum()
    without = total - products.sum(0) - products.sum(1)
    return total / (n * (n - 1)), without / ((n - 1) * (n - 2))


def angle(g: Tensor, r: Tensor) -> Angle:
    """Estimate the cosine of the angle between E g and E r.

    Args:
        g, r: (n, P), as `of_batches` returns them, of the same n >= 3 batches.
    """
    n = len(g)
    both, g_square, r_square = across(g, r), across(g, g), across(r, r)
    cosine, without = (a / b.sqrt() / c.sqrt() for a, b, c in zip(both, g_square, r_square, strict=True))
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * error
    squares = torch.stack([g_square[0], r_square[0]])
    single = torch.stack([v.double().square().sum(1).mean() for v in (g, r)])
    ends = (float(v) for v in (cosine, cosine - half, cosine + half))
    return Angle(*ends, tuple(squares.sqrt().tolist()), tuple((single / squares).tolist()))
