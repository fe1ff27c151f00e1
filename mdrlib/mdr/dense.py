"""The path of backend "tiled" for small batches, where calls cost most: the whole matrix at once.

Single numbers are Python's: reading one from a tensor on a CPU costs less than an operation on it. There are
no slices and no sums that start from zeros, and the diagonal holds a number that needs no special case.
"""

import math
from ctypes import c_double, c_float
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdrlib import checks
from mdrlib.distances import CANCELLATION

LARGEST = 256  # embeddings


class Matrix(NamedTuple):
    centred: Tensor  # (N, D) embeddings minus their mean
    d: Tensor  # (N, N) distances, with `rough` on the diagonal
    rough: float  # a rough mean of the distances, not 0


def matrix(x: Tensor) -> Matrix | None:
    """Return the distances of a batch (N, D), or None if points nearly coincide, which `tiled` handles."""
    centred = torch.sub(x, x.sum(0), alpha=1 / len(x))
    norms = torch.linalg.vector_norm(centred, dim=1).square_()
    numbers = norms.tolist()
    if not math.isfinite(sum(numbers)):
        checks.finite(x)
    rough = math.sqrt(2 * sum(numbers) / (len(numbers) - 1)) or 1.0
    sq = (norms.unsqueeze(1) + norms).addmm_(centred, centred.T, alpha=-2).fill_diagonal_(rough * rough)
    if sq.min().item() <= 2 * CANCELLATION * max(numbers):
        return None
    return Matrix(centred, sq.sqrt_(), rough)


def statistics(found: Matrix, diagonal: bool) -> tuple[float, float]:
    """Return mean and (unbiased) standard deviation of the distances: see `analytic.statistics`."""
    n = len(found.d)
    deviation = found.d - found.rough
    total, squares = deviation.sum().item(), deviation.square_().sum().item()
    count = n * (n - 1)
    if diagonal:
        count += n
        total, squares = total - n * found.rough, squares + n * found.rough**2
    variance = max(squares - total**2 / count, 0.0) / (count - 1)
    return found.rough + total / count, math.sqrt(variance)


def compute(
    pairs: Any, levels: Tensor, mean: float | Tensor, std: float | Tensor, want_x: bool, want_levels: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the loss and its gradients as `analytic.loss` expects them."""
    found, mean, std, values = pairs.matrix, float(mean), float(std), levels.tolist()
    order = sorted(range(len(values)), key=values.__getitem__)
    rounded = c_double if levels.dtype == torch.float64 else c_float
    ordered = [values[k] * std for k in order]
    d = (found.d - mean).fill_diagonal_(ordered[0]).view(-1)  # on the diagonal r = 0
    above = [torch.gt(d, (low + high) / 2, out=torch.empty_like(d)) for low, high in pairwise(ordered)]
    residual = d.sub_(ordered[0])
    reached = rounded(ordered[0]).value
    for mask, level in zip(above, ordered[1:], strict=True):
        step = rounded(level - reached).value
        residual.sub_(mask, alpha=step)
        reached = rounded(reached + step).value
    sign = residual.sign()
    value = residual.mul_(sign).sum() / (pairs.count * std)
    gradient = pulls = None
    if want_levels:
        sums = [sign.sum().item(), *(torch.dot(sign, mask).item() for mask in above), 0.0]
        by_level = [(high - low) / pairs.count for low, high in pairwise(sums)]
        pulls = levels.new_tensor([by_level[order.index(k)] for k in range(len(values))])
    if want_x:
        w = sign.view_as(found.d).div_(found.d).mul_(2 / (pairs.count * std))
        gradient = (found.centred * w.sum(1, keepdim=True)).addmm_(w, found.centred, alpha=-1)
    return value, gradient, pulls
