"""Exact nearest-neighbour search, and the metrics of zero-shot retrieval over its result."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mdrlib import checks

CHUNK = 2**24  # numbers held at once: 64 MB in float32
SPARE = 4  # candidates beyond k, which tell whether rounding may have misplaced the cut


def search(query: Tensor, gallery: Tensor | None = None, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest gallery vectors of every query by Euclidean distance, nearest first.

    Parameters: query (Q, D); gallery (G, D), or None to search the queries among themselves, each left out
    of its own result by its index, so that duplicates of it stay. Returns distances (Q, k) float32 (float64
    for float64 input) and indices (Q, k) int64 into the gallery; equal distances in order of index.
    Matrix products, on a CPU through faiss if it is installed, choose candidates, and these are ranked by
    the differences themselves; a query whose k-th neighbour the products cannot tell from the next ones is
    compared with the whole gallery. Nothing of size Q x G is held. Raises ValueError when k exceeds the
    neighbours there are, and as `checks.embeddings` does.
    """
    alone = gallery is None
    query = checks.embeddings(query.detach() if isinstance(query, Tensor) else query, "query", at_least=1)
    gallery = query if alone else checks.embeddings(gallery, "gallery", at_least=1).detach().to(query)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query has {query.shape[1]} dimensions and gallery {gallery.shape[1]}")
    there = len(gallery) - alone
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= there:
        raise ValueError(f"k must be an integer from 1 to the {there} neighbours there are, got {k}")
    reach = min(k + SPARE, there)
    with torch.autocast(query.device.type, enabled=False):
        # Centring changes no distance and keeps the rounding of ||q||^2 + ||g||^2 - 2qg small.
        centre = gallery.mean(0)
        q, g = query - centre, gallery - centre
        candidates = _nearest(q, g, reach + alone)
    if alone:
        candidates = _without_self(candidates)
    d, indices = _ranked(query, gallery, candidates)
    if reach < there:
        size = torch.linalg.vector_norm(q, dim=1) + torch.linalg.vector_norm(g, dim=1).max()
        # Twice what the products were seen to be off by, on either side of the cut.
        rounding = 4 * q.shape[1] ** 0.5 * torch.finfo(q.dtype).eps * size.square()
        doubtful = (d[:, -1].square() - d[:, k - 1].square() <= rounding).nonzero()[:, 0]
        for rows in doubtful.split(max(1, CHUNK // len(gallery))):
            d[rows], indices[rows] = _ranked_all(query, gallery, rows, reach, alone)
    return d[:, :k], indices[:, :k]


def _nearest(q: Tensor, g: Tensor, k: int) -> Tensor:
    """Indices (Q, k) of the k nearest by the rounded matrix product, nearest first."""
    if q.device.type == "cpu" and q.dtype == torch.float32:
        try:
            import faiss
        except ImportError:
            pass
        else:
            return torch.from_numpy(faiss.knn(q.numpy(), g.numpy(), k)[1])
    norms = g.square().sum(1)
    step = max(1, CHUNK // len(g))
    parts = [(norms - 2 * (part @ g.T)).topk(k, dim=1, largest=False).indices for part in q.split(step)]
    return torch.cat(parts)


def _without_self(candidates: Tensor) -> Tensor:
    """Drop from each row its own index, or its last candidate where duplicates crowded it out."""
    own = candidates == torch.arange(len(candidates), device=candidates.device)[:, None]
    own[~own.any(dim=1), -1] = True
    return candidates[~own].reshape(len(candidates), -1)


def _ranked(query: Tensor, gallery: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Distances from the differences themselves, and candidates sorted by them, ties by index."""
    candidates = candidates.sort(dim=1).values
    d = torch.empty(candidates.shape, dtype=query.dtype, device=query.device)
    step = max(1, CHUNK // (candidates.shape[1] * query.shape[1]))
    for start in range(0, len(query), step):
        rows = slice(start, start + step)
        d[rows] = torch.linalg.vector_norm(gallery[candidates[rows]] - query[rows, None], dim=2)
    d, order = d.sort(dim=1, stable=True)
    return d, candidates.gather(1, order)


def _ranked_all(query: Tensor, gallery: Tensor, rows: Tensor, k: int, alone: bool) -> tuple[Tensor, Tensor]:
    """As `_ranked`, for some rows of the query among the whole gallery; the k first."""
    d = torch.cdist(query[rows], gallery, compute_mode="donot_use_mm_for_euclid_dist")
    if alone:
        d[torch.arange(len(rows), device=rows.device), rows] = torch.inf
    d, order = d.sort(dim=1, stable=True)
    return d[:, :k], order[:, :k]


def evaluate(
    query: Tensor,
    query_labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
) -> dict[str, float]:
    """Recall@K, R-Precision and MAP@R, each from 0 to 1, of a retrieval by Euclidean distance.

    Parameters: as `search`, with integer labels (Q,) and (G,); ks the K of Recall@K, any order.
    Recall@K: share of queries with a match among the K nearest. R-Precision: matches among the R nearest
    over R, with R the query's matches in the gallery. MAP@R: 1/R sum over i <= R of precision(i) where the
    i-th is a match (Musgrave et al., "A Metric Learning Reality Check", ECCV 2020).
    Corners: a query that has no match in the gallery counts in no metric, since it can only fail; K beyond
    the gallery takes the whole gallery; equal distances are ordered by index, which knows no labels.
    Returns {"recall@1": ..., "r_precision": ..., "map@r": ...}. Raises TypeError or ValueError for bad
    input, and ValueError when no query has a match.
    """
    alone = gallery is None
    query = checks.embeddings(query.detach() if isinstance(query, Tensor) else query, "query", at_least=1)
    query_labels = checks.labels(query_labels, len(query), "query_labels").to(query.device)
    if alone != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels come together: give both or neither")
    if alone:
        gallery, gallery_labels = query, query_labels
    gallery = checks.embeddings(gallery, "gallery", at_least=1)
    gallery_labels = checks.labels(gallery_labels, len(gallery), "gallery_labels").to(query.device)
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks):
        raise ValueError(f"ks must be integers of 1 or more, got {ks!r}")
    classes, members = torch.cat((gallery_labels, query_labels)).unique(return_inverse=True)
    counts = torch.bincount(members[: len(gallery)], minlength=len(classes))
    matches = counts[members[len(gallery) :]] - int(alone)
    kept = matches > 0
    if not kept.any():
        raise ValueError("no query has a match in the gallery: look at the labels of both")
    r = matches[kept]
    k = min(max(max(ks), int(r.max())), len(gallery) - alone)
    # Lone queries are still gallery for the others, so they leave after the search.
    neighbours = search(query, None if alone else gallery, k)[1][kept]
    right = gallery_labels[neighbours] == query_labels[kept, None]
    metrics = {f"recall@{n}": right[:, :n].any(dim=1).double().mean().item() for n in ks}
    rank = torch.arange(1, k + 1, device=query.device)
    relevant = (right & (rank <= r[:, None])).double()
    metrics["r_precision"] = (relevant.sum(1) / r).mean().item()
    metrics["map@r"] = ((relevant.cumsum(1) / rank * relevant).sum(1) / r).mean().item()
    return metrics
