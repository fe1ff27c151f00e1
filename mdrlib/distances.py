"""Euclidean distances between the vectors of a batch, and the normalization that replaces the L2 norm."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mdrlib import checks

# ||x||^2 + ||y||^2 - 2xy loses all digits when x and y nearly coincide. Below this share of
# ||x||^2 + ||y||^2 the squared distance is computed from the difference of x and y as given: centring
# rounds them, which would spoil a difference of near points.
CANCELLATION = 0.01
HELD = 2**22  # numbers of such differences held at once: 16 MB in float32
# N x M x D up to which the differences of all pairs are computed, by device: 256 embeddings of 512
# dimensions. To count the near pairs, the CPU would have to wait for the GPU.
ALL_PAIRS = {"cuda": 2**25}


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turn off autocast, TF32 and bfloat16 inside float32 products.

    ``||x||^2 + ||y||^2 - 2xy`` and the bounds on its rounding rely on the 24 bits of float32.
    """
    with torch.autocast(device.type, enabled=False):
        if torch.compiler.is_compiling():  # a graph cannot set a switch of the process
            yield
            return
        products = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
        if hasattr(products[0], "fp32_precision"):  # torch 2.9, which refuses a mix with the older switch
            before = [part.fp32_precision for part in products]
            try:
                for part in products:
                    part.fp32_precision = "ieee"
                yield
            finally:
                for part, value in zip(products, before, strict=True):
                    part.fp32_precision = value
        else:
            once = torch.get_float32_matmul_precision()
            try:
                torch.set_float32_matmul_precision("highest")
                yield
            finally:
                torch.set_float32_matmul_precision(once)


def pairwise_distances(x: Tensor, y: Tensor | None = None, squared: bool = False) -> Tensor:
    """Return the Euclidean distances of every row of x to every row of y, or of x itself.

    The gradient at coincident points, where the distance has none, is 0. TF32 and autocast are off inside,
    but products of the backward pass follow the process's settings.

    Args:
        x: (N, D), floating point; half precision is computed in float32.
        y: (M, D), of the same dtype.
        squared: Return squared distances.

    Returns:
        (N, M), or without y (N, N) with exact zeros on the diagonal.

    Raises:
        TypeError, ValueError: For bad input, on a CPU also for NaN or infinite values. On a GPU, where a
            check would have to wait, these give NaN. Lengths over 1e19 overflow in float32: inf or NaN.
    """
    x = checks.embeddings(x, "x", at_least=1, wait=False)
    if y is not None:
        y = checks.embeddings(y, "y", at_least=1, wait=False)
        if y.shape[1] != x.shape[1]:
            raise ValueError(f"x has {x.shape[1]} dimensions and y {y.shape[1]}; they must agree")
    with full_precision(x.device):
        sq = _squared(x, y)
        if squared:
            return sq
        # The inner `where` keeps sqrt away from 0, whose infinite slope would make NaN of 0 * inf.
        zero = sq == 0
        return torch.where(zero, 0.0, torch.where(zero, 1.0, sq).sqrt())


def _squared(x: Tensor, y: Tensor | None) -> Tensor:
    # Distances do not change under translation; centring makes the norms, hence the rounding, small.
    centre = x.detach().mean(0)
    a = x - centre
    other = x if y is None else y
    b = a if y is None else y - centre
    na, nb = a.square().sum(1), b.square().sum(1)
    scale = na[:, None] + nb[None, :]
    sq = scale - 2 * (a @ b.T)
    with torch.no_grad():
        close = sq < CANCELLATION * scale
        if y is None:
            close.fill_diagonal_(False)
        everywhere = len(a) * b.numel() <= ALL_PAIRS.get(x.device.type, 0)
        if not everywhere:
            rows, columns = close.nonzero(as_tuple=True)
    if everywhere:
        sq = torch.where(close, (x[:, None] - other).square().sum(2), sq)
    elif len(rows) > 64 * max(a.shape[0], b.shape[0]):
        # Collapsed embeddings: gathering so many differences would need N x N x D numbers.
        sq = torch.cdist(x, other, compute_mode="donot_use_mm_for_euclid_dist").square()
    elif len(rows):
        step = max(1, HELD // x.shape[1])
        parts = list(zip(rows.split(step), columns.split(step), strict=True))
        if len(parts) == 1:
            near = _differences(x, other, rows, columns)
        else:  # computed again in the backward pass, which would otherwise keep all of them
            near = torch.cat([checkpoint(_differences, x, other, *p, use_reentrant=False) for p in parts])
        sq = sq.index_put((rows, columns), near)
    if y is None:
        sq = sq.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), 0.0)
    return sq.clamp_min(0)


def _differences(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return squared distances (K,) of x[rows] (K, D) to y[columns] (K, D)."""
    return (x[rows] - y[columns]).square().sum(1)


def normalize_by_mean_distance(x: Tensor) -> Tensor:
    """Divide embeddings by their mean distance ("Learning without L2 Norm", Kim & Park, section 3.1).

    The gradient flows through the mean. Errors are those of `pairwise_distances`.

    Args:
        x: (N, D), N >= 2.

    Returns:
        (N, D) with a mean distance of 1 over the pairs i != j; identical embeddings are unchanged.
    """
    wide = checks.embeddings(x, wait=False)
    n = len(wide)
    mean = pairwise_distances(wide).sum() / (n * (n - 1))
    return (wide / torch.where(mean > 0, mean, 1.0)).to(x.dtype)
