"""Galleries in parts that need not be in memory together, and exact search through them."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mdrlib import checks

PIECE = 2**24  # numbers of a part read at once: 64 MB in float32
GATHERED = 2**17  # numbers of candidates gathered at once, which a CPU's caches should hold

Part = Tensor | np.ndarray


def checked(gallery: Sequence[Part]) -> list[Part]:
    """The parts (G_i, D), floating point, all of one D; raise TypeError or ValueError otherwise.

    Values are not looked at: that would read all of them.
    """
    if not gallery:
        raise ValueError("gallery is an empty list: give one part or more")
    for i, part in enumerate(gallery):
        name = f"gallery[{i}]" if len(gallery) > 1 else "gallery"
        if not isinstance(part, Tensor | np.ndarray):
            raise TypeError(f"{name} must be a tensor or an array (N, D), got {type(part).__name__}")
        floating = part.is_floating_point() if isinstance(part, Tensor) else part.dtype.kind == "f"
        if not floating:
            raise TypeError(f"{name} must be floating point, got {part.dtype}")
        if part.ndim != 2 or 0 in part.shape:
            raise ValueError(f"{name} must hold one vector or more, shape (N, D), got {tuple(part.shape)}")
        if part.shape[1] != gallery[0].shape[1]:
            raise ValueError(f"gallery[0] has {gallery[0].shape[1]} dimensions and {name} {part.shape[1]}")
    return list(gallery)


def pieces(parts: Sequence[Part], like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """All vectors in order, some at a time: (index of the first, (N, D) of the kind of `like`).

    Raises ValueError for NaN and infinite values.
    """
    first = 0
    for i, part in enumerate(parts):
        step = max(1, PIECE // part.shape[1])
        for start in range(0, len(part), step):
            piece = _tensor(part[start : start + step], like)
            yield first + start, checks.embeddings(piece, f"gallery[{i}]", at_least=1)
        first += len(part)


def take(parts: Sequence[Part], indices: Tensor, like: Tensor) -> Tensor:
    """The vectors (P, D) at `indices` (P,) int64 of the whole gallery, of the kind of `like`."""
    if len(parts) == 1:
        return _rows(parts[0], indices, like)
    ends = torch.tensor([len(part) for part in parts]).cumsum(0)
    place = torch.bucketize(indices, ends, right=True)
    out = torch.empty(len(indices), parts[0].shape[1], dtype=like.dtype, device=like.device)
    for i in place.unique().tolist():
        mine = (place == i).nonzero()[:, 0]
        out[mine] = _rows(parts[i], indices[mine] - (int(ends[i]) - len(parts[i])), like)
    return out


def _rows(part: Part, indices: Tensor, like: Tensor) -> Tensor:
    if isinstance(part, Tensor):
        return _tensor(part.detach().index_select(0, indices.to(part.device)), like)
    return _tensor(part[indices.numpy()], like)


def _tensor(part: Part, like: Tensor) -> Tensor:
    # A copy in memory: what is mapped may be read-only, which torch has no word for.
    x = (
        part.detach()
        if isinstance(part, Tensor)
        else torch.from_numpy(np.array(part, part.dtype.newbyteorder("=")))
    )
    return x.to(like).contiguous()


def squares(query: Tensor, parts: Sequence[Part], candidates: Tensor) -> Tensor:
    """Squared distances (Q, C) float64 of each query to its candidates (Q, C), from the differences.

    Candidates of index -1, which stand for none, are infinitely far.
    """
    sq = torch.full(candidates.shape, torch.inf, dtype=torch.float64)
    step = max(1, GATHERED // (candidates.shape[1] * query.shape[1]))
    for start in range(0, len(query), step):
        rows = slice(start, start + step)
        some = candidates[rows]
        vectors = take(parts, some.clamp(min=0).flatten(), query).double().view(*some.shape, -1)
        sq[rows] = vectors.sub_(query[rows, None]).square_().sum(2).masked_fill_(some < 0, torch.inf)
    return sq


def search(
    query: Tensor, gallery: Sequence[Part], k: int, exact: Callable[..., tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """The k nearest of all parts, by `exact(query, piece, k)` for a piece at a time.

    Ranks, with equal distances in order of index, are those of one gallery of all parts: what each piece
    finds is compared by differences in float64. Returns distances (Q, k) and indices (Q, k) as `exact` does.
    """
    query = checks.embeddings(query.detach() if isinstance(query, Tensor) else query, "query", at_least=1)
    parts = checked(gallery)
    if query.shape[1] != parts[0].shape[1]:
        raise ValueError(f"query has {query.shape[1]} dimensions and gallery {parts[0].shape[1]}")
    checks.neighbours(k, sum(len(part) for part in parts))
    sq = torch.empty(len(query), 0, dtype=torch.float64)
    indices = torch.empty(len(query), 0, dtype=torch.int64)
    for first, piece in pieces(parts, query):
        found = exact(query, piece, min(k, len(piece)))[1].cpu()
        sq = torch.cat((sq, squares(query.cpu(), [piece], found)), dim=1)
        # A stable sort keeps equal distances in order of index: what was found before lies before.
        sq, order = sq.sort(dim=1, stable=True)
        indices = torch.cat((indices, found + first), dim=1).gather(1, order)
        sq, indices = sq[:, :k], indices[:, :k]
    return sq.sqrt().to(query), indices.to(query.device)
