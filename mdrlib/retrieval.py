"""Nearest-neighbour search, exact unless an index is given, and the metrics of zero-shot retrieval."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mdrlib import checks, sharded_search
from mdrlib.distances import full_precision
from mdrlib.sharded_search import CHUNK, Shard, squares

SPARE = 4  # candidates beyond k + k/16, which show whether rounding may have misplaced the k-th neighbour


def search(
    query: Tensor,
    gallery: Tensor | Sequence[Shard] | None = None,
    k: int = 1,
    index: Any = None,
    probes: int | None = None,
    candidates: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the k nearest gallery vectors of each query by Euclidean distance, nearest first.

    The result is exact without an index: matrix products choose candidates, and differences in float64 rank
    those that rounding may have misplaced. Nothing of size Q x G is held; TF32 and autocast are off inside.

    Args:
        query: Tensor (Q, D), floating point; half precision is computed in float32.
        gallery: (G, D); or a list of shards (G_i, D), tensors or arrays such as memory maps, which are read
            64 MB at a time and numbered as one gallery; or None to search the queries among themselves. Each
            query is then left out of its own result by its index, so that its duplicates stay.
        index: A string for `faiss.index_factory` ("IVF4096,PQ32"), or a faiss index of this gallery, for
            example from `sharded_search.build`. Neighbours that it does not return are missed.
        k: Number of neighbours, at least 1.
        probes: Number of lists of an IVF index to search, at least 1, by default its nprobe. A query that
            finds fewer than k neighbours searches twice as many lists until it finds k.
        candidates: Number of vectors that the index returns per query, by default 10 k and at least 100.

    Returns:
        Distances (Q, k) float32, float64 for float64 queries, and indices (Q, k) int64 into the gallery, on
        the device of the queries; equal distances in order of index. Distances are not squared, unlike those
        of faiss.

    Raises:
        TypeError, ValueError: Inputs do not fit or are not finite, faiss refuses the index, or the index
            finds fewer than k neighbours, an IVF index even in all its lists.
    """
    query = checks.embeddings(query, "query", at_least=1).detach().contiguous()
    alone = gallery is None
    shards = sharded_search.checked(query if alone else gallery, query.shape[1])
    count = sum(map(len, shards))
    k = checks.whole(k, "k", 1)
    if k > count - alone:
        raise ValueError(f"k must be at most {count - alone} (all neighbours), got {checks.shown(k)}")
    if index is not None:
        return sharded_search.search(query, shards, k, alone, index, probes, candidates)
    everyone = torch.arange(len(query), device=query.device)
    indices = everyone[:, None][:, :0]
    sq = indices.double()
    for first, piece in sharded_search.pieces(shards, query):
        more = torch.cat([part for _, part in _nearest(query, piece, min(k, len(piece) - alone), alone)])
        # A stable sort keeps equal distances in order of index: earlier pieces have the lower ones.
        sq, order = torch.cat((sq, squares(query, everyone, [piece], more)), dim=1).sort(dim=1, stable=True)
        indices = torch.cat((indices, more + first), dim=1).gather(1, order)
        sq, indices = sq[:, :k], indices[:, :k]
    return sq.sqrt().to(query.dtype), indices


def evaluate(
    query: Tensor,
    query_labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    per_class: bool = False,
) -> dict[str, Any]:
    """Compute Recall@K, R-Precision and MAP@R of a retrieval by Euclidean distance.

    Recall@K is the share of queries with a match among the K nearest. With R matches in the gallery,
    R-Precision is the share of matches among the R nearest, and MAP@R is 1/R times the sum over i <= R of the
    precision at i where the i-th is a match (Musgrave et al., "A Metric Learning Reality Check", ECCV 2020).
    A query without a match in the gallery counts in no metric. Equal distances are ordered by index. The
    search is exact, and nothing of size Q x G is held.

    Args:
        query: Tensor (Q, D), with a tensor of integer labels (Q,). All is computed on its device.
        gallery: Tensor (G, D), with integer labels (G,), or None to search the queries among themselves.
        ks: The K of Recall@K; a K beyond the gallery takes the whole gallery.
        per_class: Also measure each class of the queries.

    Returns:
        {"recall@1": ..., "r_precision": ..., "map@r": ...}, each from 0 to 1, with one recall for each K.
        With `per_class` also "per_class": tensors (C,), the classes of the queries in ascending order:
        "class" (labels), "queries" (how many count), "recall@1" and "map@r" (NaN where none count).

    Raises:
        TypeError, ValueError: Inputs do not fit or are not finite, or no query has a match.
    """
    query = checks.embeddings(query, "query", at_least=1).detach().contiguous()
    query_labels = checks.labels(query_labels, len(query), "query_labels").to(query.device)
    alone = gallery is None
    if alone != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels come together: give both or neither")
    if alone:
        gallery, gallery_labels = query, query_labels
    gallery = checks.embeddings(gallery, "gallery", at_least=1, dim=query.shape[1])
    gallery = gallery.detach().to(query).contiguous()
    gallery_labels = checks.labels(gallery_labels, len(gallery), "gallery_labels").to(query.device)
    numbers = [checks.whole(k, "each of ks", 1) for k in ks] if isinstance(ks, Iterable) else []
    if not numbers:
        raise ValueError(f"ks must be whole numbers such as (1, 2, 4, 8), got {checks.shown(ks)}")
    ks = [min(k, len(gallery)) for k in numbers]
    classes, members = torch.cat((gallery_labels, query_labels)).unique(return_inverse=True)
    gallery_classes, query_classes = members.split((len(gallery), len(query)))
    matches = torch.bincount(gallery_classes, minlength=len(classes))[query_classes] - int(alone)
    counted = int((matches > 0).sum())
    if counted == 0:
        raise ValueError("no query has a match in the gallery: check the labels of both")
    k = min(max(*ks, int(matches.max())), len(gallery) - alone)
    rank = torch.arange(1, k + 1, device=query.device)
    # Recall@1, each recall, R-Precision and MAP@R of every query.
    found = query.new_full((len(ks) + 3, len(query)), torch.nan, dtype=torch.float64)
    for rows, neighbours in _nearest(query, gallery, k, alone, (query_classes, gallery_classes)):
        kept = matches[rows] > 0  # the others were in the gallery, but do not count as queries
        r = matches[rows][kept]
        right = (gallery_classes[neighbours] == query_classes[rows, None])[kept]
        recalls = [right[:, :n].any(dim=1).double() for n in (1, *ks)]
        relevant = (right & (rank <= r[:, None])).double()
        average = (relevant.cumsum(1) / rank * relevant).sum(1) / r
        found[:, rows[kept]] = torch.stack([*recalls, relevant.sum(1) / r, average])
    names = [*(f"recall@{n}" for n in numbers), "r_precision", "map@r"]
    metrics = dict(zip(names, (found[1:].nansum(1) / counted).tolist(), strict=True))
    if per_class:
        metrics["per_class"] = _by_class(query_labels, found[0], found[-1])
    return metrics


def _by_class(labels: Tensor, first: Tensor, averages: Tensor) -> dict[str, Tensor]:
    """Return means over the queries of each class that count; those that do not are NaN."""
    classes, members = labels.unique(return_inverse=True)
    queries = torch.bincount(members[~first.isnan()], minlength=len(classes))
    found = {"class": classes, "queries": queries}
    for name, values in (("recall@1", first), ("map@r", averages)):
        found[name] = torch.bincount(members, values.nan_to_num(), minlength=len(classes)) / queries
    return found


def _nearest(
    query: Tensor, gallery: Tensor, k: int, alone: bool, classes: tuple[Tensor, Tensor] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (rows (R,) of the query, indices (R, k) of their nearest), some rows at a time.

    With the classes of query and gallery, only the order of matches among other neighbours is exact.
    """
    centre = gallery.mean(0)  # changes no distance and keeps the rounding of ||q||^2 + ||g||^2 - 2qg small
    q, g = query - centre, gallery - centre
    size = torch.linalg.vector_norm(q, dim=1) + torch.linalg.vector_norm(g, dim=1).max()
    # How far apart products must be to be in their true order: twice the largest error that was seen.
    rounding = 4 * q.shape[1] ** 0.5 * torch.finfo(q.dtype).eps * size.double().square()[:, None]

    @cache
    def without_surplus() -> tuple[Tensor, Tensor]:
        # More copies of a vector are never among the k nearest; all of them would be candidates.
        _, place, copies = torch.unique(gallery, dim=0, return_inverse=True, return_counts=True)
        order = place.argsort(stable=True)
        earlier = whole[0] - (copies.cumsum(0) - copies)[place[order]]
        kept = order[earlier < k + alone].sort().values
        return kept, g[kept]

    def ranked(rows: Tensor, count: int, kept: Tensor, g: Tensor) -> Tensor:
        sq, indices = _candidates(q[rows], g, min(count, len(g)))
        indices = kept[indices]
        if alone:
            sq, order = sq.masked_fill(indices == rows[:, None], torch.inf).sort(dim=1)
            indices = indices.gather(1, order)
        # Rounding may have put one of the k nearest behind all candidates: these queries need more.
        doubtful = sq[:, -1 - alone] - sq[:, k - 1] <= rounding[rows, 0]
        near = sq.diff(dim=1) <= rounding[rows]
        border = near
        if classes is not None:
            border = near & (classes[1][indices] == classes[0][rows, None]).diff(dim=1)
        indices = _settled(query, rows, gallery, indices, near, border)[:, :k]
        if count < len(g) and doubtful.any():
            for some in doubtful.nonzero()[:, 0].split(max(1, CHUNK // 64 // count)):
                indices[some] = ranked(rows[some], 16 * count, *without_surplus())
        return indices

    count = k + k // 16 + SPARE + alone
    whole = torch.arange(len(gallery), device=query.device), g
    # faiss wants many queries per call, and gets them as long as their neighbours need little memory.
    for rows in torch.arange(len(query), device=query.device).split(max(1, CHUNK // 4 // count)):
        yield rows, ranked(rows, count, *whole)


def _candidates(q: Tensor, g: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` nearest by products of centred vectors: ascending squared distances, and indices."""
    try:
        import faiss
    except ImportError:
        faiss = None
    if faiss and q.device.type == "cpu" and q.dtype == torch.float32:
        sq, indices = faiss.knn(q.numpy(), g.numpy(), count)
        return torch.from_numpy(sq), torch.from_numpy(indices)
    found = []
    with full_precision(q.device):
        for part in q.split(max(1, CHUNK // len(g))):
            products = torch.addmm(g.square().sum(1), part, g.T, alpha=-2)
            products.add_(part.square().sum(1)[:, None]).clamp_min_(0)
            found.append(products.topk(count, dim=1, largest=False))
    sq, indices = zip(*found, strict=True)
    return torch.cat(sq), torch.cat(indices)


def _settled(
    query: Tensor, rows: Tensor, gallery: Tensor, indices: Tensor, near: Tensor, border: Tensor
) -> Tensor:
    """Sort by differences in float64, equal ones by index, the runs of near candidates with a border in them.

    near (R, C - 1): rounding may have misordered one and the next; border: and the order of the two counts.
    """
    run = pad((~near).cumsum(1), (1, 0))
    unsure = torch.zeros_like(run).scatter_add_(1, run[:, 1:], border.long()).gather(1, run) > 0
    at, columns = unsure.nonzero(as_tuple=True)
    found = indices[at, columns]
    exact = squares(query, rows[at], [gallery], found[:, None])[:, 0]
    order = found.argsort()
    for key in (exact, at * run.shape[1] + run[at, columns]):
        order = order[key[order].argsort(stable=True)]
    indices[at, columns] = found[order]
    return indices
