"""Euclidean distances between the vectors of a batch, and the normalization that replaces the L2 norm."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mdrlib import checks

# ||x||^2 + ||y||^2 - 2xy loses all digits when x and y nearly coincide. Below this share of the norms the
# distance is that of the difference of x and y, not centred: centring rounds them.
CANCELLATION = 0.01
HELD = 2**22  # numbers of such differences held at once: 16 MB in float32
NOTHING_TO_DO = nullcontext()
TRITON = find_spec("triton") is not None


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Turn off autocast, TF32 and bfloat16: ``||x||^2 + ||y||^2 - 2xy`` needs the 24 bits of float32."""
    products = torch.backends.mkldnn.matmul if device.type == "cpu" else torch.backends.cuda.matmul
    # A compiled graph cannot set a switch of the process.
    coarse = not torch.compiler.is_compiling() and products.fp32_precision not in ("none", "ieee")
    cast = torch.is_autocast_enabled(device.type)
    return _full_precision(device, products if coarse else None) if coarse or cast else NOTHING_TO_DO


@contextmanager
def _full_precision(device: torch.device, products: Any | None) -> Iterator[None]:
    before = products and products.fp32_precision
    try:
        if products:
            products.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if products:
            products.fp32_precision = before


def by_chunks(function: Callable[..., Tensor], chunk: int, *vectors: Tensor) -> list[Tensor]:
    """Apply `function` to `chunk` entries at a time; the backward pass computes several chunks again."""
    chunks = list(zip(*(vector.split(chunk) for vector in vectors), strict=True))
    if len(chunks) == 1:
        return [function(*chunks[0])]
    return [checkpoint(function, *part, use_reentrant=False) for part in chunks]


def pairwise_distances(x: Tensor, y: Tensor | None = None, squared: bool = False) -> Tensor:
    """Return the Euclidean distances of every row of x to every row of y, or of x itself.

    The gradient at coincident points, where the distance has none, is 0. TF32 and autocast are off inside,
    but products of the backward pass follow the process's settings. On a GPU with Triton, one kernel computes
    the distances from differences and one the gradient; the CPU does not wait for them.

    Args:
        x: (N, D), floating point; half precision is computed in float32.
        y: (M, D), of the same dtype.
        squared: Return squared distances.

    Returns:
        (N, M), or without y (N, N) with exact zeros on the diagonal. Lengths over 1e19 overflow in float32.

    Raises:
        TypeError, ValueError: Bad input. On a CPU also values that are not finite; a GPU returns NaN.
    """
    x = checks.embeddings(x, "x", at_least=1, wait=False)
    if y is not None:
        y = checks.embeddings(y, "y", at_least=1, wait=False, dim=x.shape[1])
    if kernels_run(x.device):
        from mdrlib.differences import distances

        return distances(x, y, squared)
    return plain(x, y, squared)


def kernels_run(device: torch.device) -> bool:
    """Return whether `device` is a GPU for which Triton builds and launches kernels; if not, warn once."""
    if device.type != "cuda" or not TRITON:
        return False
    if torch.compiler.is_compiling():  # which itself needs Triton there
        return True
    return not checks.transformed() and tried(device)


@cache
def tried(device: torch.device) -> bool:
    """Launch a kernel on a GPU; return whether that worked, after a warning if it did not."""
    try:
        from mdrlib.differences import distances

        distances(torch.zeros(2, 2, device=device), None, False)
    except Exception as error:  # without a C compiler, say: whatever it is, there is another way
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(f"Triton cannot run on {device}, so plain torch computes: {reason}", stacklevel=2)
        return False
    return True


def plain(x: Tensor, y: Tensor | None, squared: bool) -> Tensor:
    """Compute `pairwise_distances` of checked input from products, in plain torch."""
    with full_precision(x.device):
        sq = _squared(x, y)
        if squared:
            return sq
        # The inner `where` keeps sqrt away from 0, whose infinite slope would make NaN of 0 * inf.
        zero = sq == 0
        return torch.where(zero, 0.0, torch.where(zero, 1.0, sq).sqrt())


def _squared(x: Tensor, y: Tensor | None) -> Tensor:
    # Distances do not change under translation; centring makes the norms, hence the rounding, small.
    other = x if y is None else y
    if checks.transformed():  # which cannot count near pairs: every difference, more slowly
        return torch.cdist(x, other, compute_mode="donot_use_mm_for_euclid_dist").square()
    centre = x.detach().mean(0)
    a = x - centre
    b = a if y is None else y - centre
    na, nb = a.square().sum(1), b.square().sum(1)
    scale = na[:, None] + nb[None, :]
    sq = scale - 2 * (a @ b.T)
    close = sq < CANCELLATION * scale
    if y is None:
        close.fill_diagonal_(False)
    i, j = close.nonzero(as_tuple=True)
    if len(i) > 64 * max(len(a), len(b)):
        # Collapsed embeddings: gathering so many differences would need N x N x D numbers.
        sq = torch.cdist(x, other, compute_mode="donot_use_mm_for_euclid_dist").square()
    elif len(i):
        step = max(1, HELD // x.shape[1])
        near = by_chunks(lambda i, j: (x[i] - other[j]).square().sum(1), step, i, j)
        sq = sq.index_put((i, j), torch.cat(near))
    if y is None:
        sq = sq.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), 0.0)
    return sq.clamp_min(0)


def normalize_by_mean_distance(x: Tensor) -> Tensor:
    """Divide embeddings by their mean distance ("Learning without L2 Norm", Kim & Park, section 3.1).

    The gradient flows through the mean.

    Args:
        x: (N, D), N >= 2.

    Returns:
        (N, D) in the dtype of x, with a mean distance of 1; identical embeddings are unchanged. Under
        autocast that dtype can be half precision: pass `x.float()`.
    """
    wide = checks.embeddings(x, wait=False)
    n = len(wide)
    mean = pairwise_distances(wide).sum() / (n * (n - 1))
    return (wide / torch.where(mean > 0, mean, 1.0)).to(x.dtype)
