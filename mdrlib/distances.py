"""Euclidean distances between the vectors of a batch, and the normalization that replaces the L2 norm."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mdrlib import checks

# ||x||^2 + ||y||^2 - 2xy loses all digits when x and y nearly coincide. Below this share of
# ||x||^2 + ||y||^2 the squared distance is computed again from the difference itself, of x and y as they
# came: centring rounds them, which a difference of near points would feel.
CANCELLATION = 0.01
HELD = 2**22  # numbers of such differences held at once: 16 MB in float32
# N x M x D up to which the differences of all pairs are taken, by device: 256 embeddings of 512 dimensions.
# To count the near pairs, the CPU would have to wait for the GPU.
ALL_PAIRS = {"cuda": 2**25}


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32 nor bfloat16 inside float32 products, whatever is set outside.

    The difference ||x||^2 + ||y||^2 - 2xy and the bounds on its rounding count on float32's 24 bits.
    """
    with torch.autocast(device.type, enabled=False):
        if torch.compiler.is_compiling():  # a switch of the process, which a graph cannot set
            yield
            return
        products = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
        if hasattr(products[0], "fp32_precision"):  # torch 2.9: the older switch cannot be read beside it
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
    """Euclidean distance of every row of `x` to every row of `y`, or of `x` itself.

    Parameters: x (N, D) and y (M, D) floating point; half precision is computed in float32.
    Returns (N, M), or (N, N) with exact zeros on the diagonal when `y` is None; squared if asked.
    The gradient at coincident points, where the distance has none, is 0.
    Raises TypeError or ValueError for other dtypes or shapes, and on a CPU for NaN or infinite values; on a
    GPU these come out as NaN, since a look at values makes the CPU wait. A square that overflows (vectors
    longer than 1e19 in float32) shows as inf or NaN. TF32 and autocast are off inside, but not in the
    backward pass of what is inside: its products follow the settings.
    """
    x = checks.embeddings(x, "x", at_least=1, wait=False)
    if y is not None:
        y = checks.embeddings(y, "y", at_least=1, wait=False)
        if y.shape[1] != x.shape[1]:
            raise ValueError(f"x has {x.shape[1]} dimensions and y {y.shape[1]}; they must agree")
        if y.dtype != x.dtype:
            raise TypeError(f"x is {x.dtype} and y {y.dtype}; convert one of them")
    with full_precision(x.device):
        sq = _squared(x, y)
        if squared:
            return sq
        # The inner `where` keeps sqrt away from 0, whose infinite slope would make NaN of 0 * inf.
        zero = sq == 0
        return torch.where(zero, 0.0, torch.where(zero, 1.0, sq).sqrt())


def _squared(x: Tensor, y: Tensor | None) -> Tensor:
    # Distances do not see a translation; centring makes the norms, hence the rounding, small.
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
        else:  # taken again in the backward pass, or all of them would be kept for it
            near = torch.cat([checkpoint(_differences, x, other, *p, use_reentrant=False) for p in parts])
        sq = sq.index_put((rows, columns), near)
    if y is None:
        sq = sq.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), 0.0)
    return sq.clamp_min(0)


def _differences(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Squared distances (K,) of x[rows] (K, D) to y[columns] (K, D)."""
    return (x[rows] - y[columns]).square().sum(1)


def normalize_by_mean_distance(x: Tensor) -> Tensor:
    """Divide embeddings by their mean distance over the pairs i != j.

    The paper's "Learning without L2 Norm" (Kim & Park, section 3.1).
    Parameters: x (N, D), N >= 2. Returns (N, D) whose mean off-diagonal distance is 1.
    The gradient flows through the mean. All-identical embeddings, whose mean distance is 0, come back as
    they are. Raises TypeError or ValueError as `pairwise_distances` does.
    """
    wide = checks.embeddings(x, wait=False)
    n = len(wide)
    mean = pairwise_distances(wide).sum() / (n * (n - 1))
    return (wide / torch.where(mean > 0, mean, 1.0)).to(x.dtype)
