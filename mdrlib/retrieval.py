"""Nearest-neighbour search, exact unless asked otherwise, and the metrics of zero-shot retrieval over it."""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mdrlib import approximate, checks, parts
from mdrlib.distances import full_precision
from mdrlib.parts import Part

CHUNK = 2**24  # numbers held at once: 64 MB in float32
CACHED = 2**17  # numbers gathered at once on a CPU, whose caches should hold them
SPARE = 4  # candidates beyond k + k/16, which tell whether rounding may have misplaced the cut


def search(
    query: Tensor,
    gallery: Tensor | Sequence[Part] | None = None,
    k: int = 1,
    index: Any = None,
    probes: int | None = None,
    candidates: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest gallery vectors of every query by Euclidean distance, nearest first.

    Parameters: query (Q, D); gallery (G, D), or None to search the queries among themselves, each left out
    of its own result by its index, so that duplicates of it stay. Returns distances (Q, k) float32 (float64
    for float64 input) and indices (Q, k) int64 into the gallery; equal distances in order of index.
    Matrix products, on a CPU through faiss if it is installed, choose candidates, and these are ranked by
    the differences themselves, in float64 wherever float32 could not tell two of them apart; a query whose
    k-th neighbour the products cannot tell from the next ones is compared with every vector that could be
    its k-th. Nothing of size Q x G is held. TF32 and autocast are off inside. Raises ValueError when k
    exceeds the neighbours there are, and as `checks.embeddings` does.

    For galleries that do not fit memory. A list of parts (G_i, D), tensors or arrays such as memory maps, is
    searched 64 MB at a time, exactly: with the ranks of one gallery of all parts, in order of the list.
    index: a string for `faiss.index_factory` ("IVF4096,Flat", "IVF4096,PQ32"), or an index of this gallery
    that `mdrlib.approximate.build` or faiss made, makes the search approximate: a neighbour that the index
    does not hand over is missed. It hands over `candidates` a query, 10 k and at least 100 if None, and these
    are ranked by their differences in float64, read from the gallery. probes: lists of an IVF index looked
    through, its own nprobe if None; a query that finds fewer than k in them is searched for again in twice as
    many, until it has k. Raises ImportError without faiss, ValueError for an index that faiss cannot make,
    that is not of this gallery, or that finds too few.
    """
    if index is not None:
        return approximate.search(query, gallery, k, index, probes, candidates)
    if probes is not None or candidates is not None:
        raise ValueError('probes and candidates belong to an index: give index="IVF4096,PQ32", for example')
    if isinstance(gallery, list | tuple):
        return parts.search(query, gallery, k, search)
    query, gallery, alone = _inputs(query, gallery)
    checks.neighbours(k, len(gallery) - alone)
    distances = torch.empty(len(query), k, dtype=query.dtype, device=query.device)
    indices = torch.empty(len(query), k, dtype=torch.int64, device=query.device)
    for rows, d, neighbours in _chunks(query, gallery, k, alone):
        distances[rows], indices[rows] = d, neighbours
    return distances, indices


def _inputs(query: Tensor, gallery: Tensor | None) -> tuple[Tensor, Tensor, bool]:
    """Both checked, of one kind and contiguous; whether the queries are their own gallery."""
    query = checks.embeddings(query.detach() if isinstance(query, Tensor) else query, "query", at_least=1)
    query = query.contiguous()
    if gallery is None:
        return query, query, True
    gallery = checks.embeddings(gallery, "gallery", at_least=1).detach().to(query).contiguous()
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query has {query.shape[1]} dimensions and gallery {gallery.shape[1]}")
    return query, gallery, False


def _chunks(
    query: Tensor, gallery: Tensor, k: int, alone: bool, same: Callable[[slice, Tensor], Tensor] | None = None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """`search`, some rows of the query at a time: yields (rows, distances, indices).

    same: tells (rows, candidates (R, C)) -> (R, C) bool, of two kinds. Where given, only neighbours of
    different kind are sure to be in their right order, and distances are those of the products.
    """
    there = len(gallery) - alone
    reach = min(k + k // 16 + SPARE, there)
    # Centring changes no distance and keeps the rounding of ||q||^2 + ||g||^2 - 2qg small.
    centre = gallery.mean(0)
    g = gallery - centre
    whole = g if alone else query - centre
    size = torch.linalg.vector_norm(whole, dim=1) + torch.linalg.vector_norm(g, dim=1).max()
    # How far apart products must be to be in their true order: twice what they were seen to be off by.
    rounding = 4 * query.shape[1] ** 0.5 * torch.finfo(query.dtype).eps * size.double().square()
    distinct: tuple[Tensor, Tensor] | None = None
    # faiss wants many queries a call, and gets them as long as their neighbours take no memory to speak of.
    step = max(1, CHUNK // 4 // (reach + 1))
    for start in range(0, len(query), step):
        rows = slice(start, min(start + step, len(query)))
        with full_precision(query.device):
            sq, indices = _nearest(whole[rows], g, reach + alone)
        if alone:
            sq, indices = _without_self(sq, indices, start)
        doubtful = sq[:, -1] - sq[:, k - 1] <= rounding[rows]
        if same is None:
            sq, indices = _ranked(query[rows], gallery, indices)
        else:
            unsure = _mixed(sq, same(rows, indices), rounding[rows])
            sq, indices = _settled(query[rows], gallery, sq.double(), indices, unsure)
        sq, indices = sq[:, :k], indices[:, :k]
        if reach < there and doubtful.any():
            if distinct is None:
                # Copies of one vector are compared once: constant embeddings would cost Q x G x D.
                distinct = torch.unique(gallery, dim=0, return_inverse=True)
            for some in doubtful.nonzero()[:, 0].split(max(1, CHUNK // 8 // len(gallery))):
                own = some + start if alone else None
                sq[some], indices[some] = _among_all(query[rows][some], centre, k, *distinct, own)
        yield rows, sq.sqrt().to(query.dtype), indices


def _faiss(x: Tensor) -> ModuleType | None:
    """faiss where it serves, on float32 on a CPU, and is installed."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return None
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _nearest(q: Tensor, g: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest by rounded matrix products: squared distances (Q, k), ascending, and indices."""
    if faiss := _faiss(q):
        sq, indices = faiss.knn(q.numpy(), g.numpy(), k)
        return torch.from_numpy(sq), torch.from_numpy(indices)
    step = max(1, CHUNK // len(g))
    parts = [_products(part, g).topk(k, dim=1, largest=False) for part in q.split(step)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _products(q: Tensor, g: Tensor) -> Tensor:
    """Squared distances (Q, G) as ||q||^2 + ||g||^2 - 2qg."""
    sq = torch.addmm(g.square().sum(1), q, g.T, alpha=-2)
    return sq.add_(q.square().sum(1)[:, None]).clamp_min_(0)


def _without_self(sq: Tensor, indices: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Drop from each row its own index, or its last candidate where duplicates crowded it out."""
    own = indices == torch.arange(start, start + len(indices), device=indices.device)[:, None]
    own[:, -1] |= ~own.any(dim=1)
    columns = torch.arange(indices.shape[1] - 1, device=indices.device)
    columns = columns + (columns >= own.byte().argmax(dim=1, keepdim=True))
    return sq.gather(1, columns), indices.gather(1, columns)


def _ranked(query: Tensor, gallery: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (Q, C) float64 from the differences, and candidates sorted by them, ties by index."""
    if not (faiss := _faiss(query)):
        candidates = candidates.sort(dim=1).values
        everyone = torch.arange(len(query), device=query.device)
        sq, order = _differences(query, everyone, gallery, candidates).sort(dim=1, stable=True)
        return sq, candidates.gather(1, order)
    single = torch.empty(candidates.shape)
    x, y, c, out = (faiss.swig_ptr(part.numpy()) for part in (query, gallery, candidates, single))
    faiss.fvec_L2sqr_by_idx(out, x, y, c, query.shape[1], *candidates.shape)
    single, order = single.sort(dim=1)
    # Squares that are summed in 8 lanes or more are off by less than this share, each half an eps at most.
    share = (query.shape[1] / 8 + 8) * torch.finfo(torch.float32).eps / 2
    near = single.diff(dim=1) <= 2 * share * single[:, 1:]
    unsure = pad(near, (0, 1)) | pad(near, (1, 0))
    return _settled(query, gallery, single.double(), candidates.gather(1, order), unsure)


def _mixed(sq: Tensor, same: Tensor, rounding: Tensor) -> Tensor:
    """Which (R, C) of the ascending squared distances are too near to one of the other kind; two kinds."""
    unsure = torch.zeros_like(same)
    for kind in (same, ~same):
        before = torch.where(kind, sq, -torch.inf).cummax(dim=1).values
        after = torch.where(kind, sq, torch.inf).flip(1).cummin(dim=1).values.flip(1)
        near = torch.minimum(sq - before, after - sq) <= rounding[:, None]
        unsure |= near & ~kind
    return unsure


def _settled(
    query: Tensor, gallery: Tensor, sq: Tensor, indices: Tensor, unsure: Tensor
) -> tuple[Tensor, Tensor]:
    """sq (Q, C) float64, ascending, and indices, where the unsure ones are compared by differences anew."""
    rows, columns = unsure.nonzero(as_tuple=True)
    if len(rows):
        # An exact 0 is no rounding: copies of the query need no second look, only the order of their index.
        rows, columns = (part[sq[rows, columns] > 0] for part in (rows, columns))
        sq[rows, columns] = _differences(query, rows, gallery, indices[rows, columns][:, None])[:, 0]
        some = unsure.any(dim=1).nonzero()[:, 0]
        by_index, first = indices[some].sort(dim=1)
        sq[some], second = sq[some].gather(1, first).sort(dim=1, stable=True)
        indices[some] = by_index.gather(1, second)
    return sq, indices


def _differences(query: Tensor, rows: Tensor, gallery: Tensor, columns: Tensor) -> Tensor:
    """Squared distances (P, C) float64 of query[rows] (P, D) to gallery[columns] (P, C, D)."""
    out = torch.empty(columns.shape, dtype=torch.float64, device=query.device)
    held = CACHED if query.device.type == "cpu" else CHUNK
    step = max(1, held // (columns.shape[1] * query.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = gallery[columns[part]].double().sub_(query[rows[part], None])
        out[part] = difference.square_().sum(2)
    return out


def _among_all(
    query: Tensor, centre: Tensor, k: int, distinct: Tensor, place: Tensor, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The k nearest of a whole gallery distinct[place], ties by index: squared distances and indices (Q, k).

    Only what products in float64 cannot tell from the k-th or put before it is compared by differences.
    own: index of each query in the gallery, or None.
    """

    def everywhere(sq: Tensor) -> tuple[Tensor, Tensor]:
        sq = sq[:, place]
        if own is not None:
            sq[torch.arange(len(own), device=sq.device), own] = torch.inf
        return sq, sq.kthvalue(k, dim=1, keepdim=True).values

    q, g = query.double() - centre, distinct.double() - centre  # in float32 this alone would be rounded
    size = torch.linalg.vector_norm(q, dim=1) + torch.linalg.vector_norm(g, dim=1).max()
    rounding = 4 * q.shape[1] ** 0.5 * torch.finfo(q.dtype).eps * size.square()
    sq = _products(q, g)
    rows, columns = (sq <= everywhere(sq)[1] + rounding[:, None]).nonzero(as_tuple=True)
    sq = torch.full_like(sq, torch.inf)
    sq[rows, columns] = _differences(query, rows, distinct, columns[:, None])[:, 0]
    sq, last = everywhere(sq)
    nearer, tied = sq < last, sq == last
    # Of those at the k-th distance the first by index, as many as there is room for.
    room = k - nearer.sum(dim=1, keepdim=True)
    kept = nearer | (tied & (tied.cumsum(dim=1, dtype=torch.int32) <= room))
    indices = kept.nonzero()[:, 1].reshape(len(query), k)
    sq, order = sq.gather(1, indices).sort(dim=1, stable=True)
    return sq, indices.gather(1, order)


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
    Neighbours are held for some queries at a time. Returns {"recall@1": ..., "r_precision": ...,
    "map@r": ...}. Raises TypeError or ValueError for bad input, and ValueError when no query has a match.
    """
    query, gallery, alone = _inputs(query, gallery)
    query_labels = checks.labels(query_labels, len(query), "query_labels").to(query.device)
    if alone != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels come together: give both or neither")
    if alone:
        gallery_labels = query_labels
    gallery_labels = checks.labels(gallery_labels, len(gallery), "gallery_labels").to(query.device)
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks):
        raise ValueError(f"ks must be integers of 1 or more, got {ks!r}")
    classes, members = torch.cat((gallery_labels, query_labels)).unique(return_inverse=True)
    counts = torch.bincount(members[: len(gallery)], minlength=len(classes))
    matches = counts[members[len(gallery) :]] - int(alone)
    counted = int((matches > 0).sum())
    if counted == 0:
        raise ValueError("no query has a match in the gallery: look at the labels of both")
    k = min(max(max(ks), int(matches.max())), len(gallery) - alone)
    rank = torch.arange(1, k + 1, device=query.device)
    hits, precision, average = torch.zeros(len(ks), dtype=torch.int64, device=query.device), 0.0, 0.0

    def same(rows: slice, indices: Tensor) -> Tensor:
        return gallery_labels[indices] == query_labels[rows, None]

    # Metrics see which neighbours match and no more, so only these and the others must be told apart.
    for rows, _, neighbours in _chunks(query, gallery, k, alone, same):
        # Lone queries are still gallery for the others, so they leave after the search.
        kept = matches[rows] > 0
        right, r = same(rows, neighbours)[kept], matches[rows][kept]
        hits += torch.stack([right[:, :n].any(dim=1).sum() for n in ks])
        relevant = (right & (rank <= r[:, None])).double()
        precision += (relevant.sum(1) / r).sum()
        average += ((relevant.cumsum(1) / rank * relevant).sum(1) / r).sum()
    metrics = {f"recall@{n}": hit / counted for n, hit in zip(ks, hits.tolist(), strict=True)}
    return metrics | {"r_precision": float(precision) / counted, "map@r": float(average) / counted}
