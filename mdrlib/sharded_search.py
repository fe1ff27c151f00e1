"""Galleries in shards that need not fit in memory, and search through faiss indexes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mdrlib import checks

CHUNK = 2**24  # numbers held at once: 64 MB in float32
CACHED = 2**17  # numbers that a CPU's caches hold, with what is computed of them
TRAINED = 64  # vectors that train one list, or one of the 256 codewords of a byte; faiss asks for 39 or more

Shard = Tensor | np.ndarray


def train(gallery: Tensor | Sequence[Shard], index: str) -> Any:
    """Train an empty faiss index on a random sample of a gallery.

    Args:
        gallery: (G, D), or a list of shards (G_i, D), tensors or arrays such as memory maps.
        index: A string for `faiss.index_factory`, such as "IVF4096,PQ32".

    Returns:
        The `faiss.Index`, trained on 64 vectors per list and at least 16,384, and without vectors.

    Raises:
        ImportError: faiss is not installed.
        TypeError, ValueError: `gallery` has another type or shape.
        RuntimeError: faiss refuses the string, or the gallery is too small for it.
    """
    faiss = _faiss()
    shards = checked(gallery)
    count, dims = sum(map(len, shards)), shards[0].shape[1]
    made = faiss.index_factory(dims, index)
    ivf = faiss.downcast_index(faiss.try_extract_index_ivf(made))
    if isinstance(ivf, faiss.IndexIVFPQ):
        ivf.do_polysemous_training = False  # takes most of the time, for a filter that no search here uses
    if not made.is_trained:
        wanted = TRAINED * max(256, ivf.nlist if ivf else 0)
        drawn = np.random.default_rng(0).choice(count, min(count, wanted), replace=False)
        made.train(take(shards, torch.from_numpy(np.sort(drawn)), torch.empty(0)).numpy())
    return made


def build(gallery: Tensor | Sequence[Shard], index: Any, first: int | None = None) -> Any:
    """Add all vectors of a gallery to a faiss index, for `retrieval.search`; 64 MB are read at a time.

    `faiss.contrib.ondisk.merge_ondisk` makes one index, its lists on disk, of the stored indexes of several
    shards. Give these `first`: its shift_ids (faiss 1.15) numbers shards of different sizes wrongly.

    Args:
        gallery: As in `train`.
        index: A string for `faiss.index_factory`, or a trained index, to which the vectors are added.
        first: Number of the first vector, for an IVF index of one shard of a larger gallery. None continues
            from the number of vectors in the index.

    Returns:
        The `faiss.Index`.

    Raises:
        ImportError, TypeError, ValueError, RuntimeError: As in `train`, or a value is not finite.
    """
    shards = checked(gallery)
    made = train(shards, index) if isinstance(index, str) else index
    for start, piece in pieces(shards, torch.empty(0)):
        if first is None:
            made.add(piece.numpy())
        else:
            made.add_with_ids(piece.numpy(), np.arange(first + start, first + start + len(piece)))
    return made


def search(
    query: Tensor,
    shards: Sequence[Shard],
    k: int,
    alone: bool,
    index: Any,
    probes: int | None = None,
    candidates: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Find neighbours through an index; `retrieval.search` checks and documents the arguments.

    alone: Whether the queries are the gallery, so that each is left out of its own result.
    """
    faiss = _faiss()
    if isinstance(index, str):
        index = build(shards, index)
    count = sum(map(len, shards))
    if (index.ntotal, index.d, index.metric_type) != (count, query.shape[1], faiss.METRIC_L2):
        raise ValueError(
            f"the index has {index.ntotal} vectors of {index.d} dimensions and the gallery {count} of "
            f"{query.shape[1]}: rebuild the index from this gallery, for Euclidean distances"
        )
    params = None if probes is None else faiss.SearchParametersIVF(nprobe=probes)
    reach = min(candidates or max(10 * k, 100), count - alone) + alone
    results = []
    for rows in torch.arange(len(query)).split(max(1, CHUNK // 4 // reach)):
        x = query[rows].cpu()
        found = torch.from_numpy(index.search(x.float().numpy(), reach, params=params)[1])
        if alone:
            found[found == rows[:, None]] = -1
        lacking = int(((found >= 0).sum(dim=1) < k).sum())
        if lacking:
            raise ValueError(
                f"the index finds fewer than {k} neighbours for {lacking} of {len(rows)} queries: raise "
                "probes or candidates, lower k, or let the index search further (for HNSW: efSearch)"
            )
        sq, found = ranked(x, torch.arange(len(x)), shards, found)
        results.append((sq[:, :k].sqrt(), found[:, :k]))
    distances, indices = (torch.cat(part) for part in zip(*results, strict=True))
    return distances.to(query), indices.to(query.device)


def checked(gallery: Tensor | Sequence[Shard], dims: int | None = None) -> list[Shard]:
    """Return a gallery as a list of shards (G_i, D) of `dims` dimensions; values are not read."""
    shards = list(gallery) if isinstance(gallery, list | tuple) else [gallery]
    if not shards:
        raise ValueError("gallery is an empty list: give one shard or more")
    for i, shard in enumerate(shards):
        if not isinstance(shard, Tensor | np.ndarray):
            raise TypeError(f"gallery[{i}] must be a torch.Tensor or an array, got {type(shard).__name__}")
        dims = dims or shard.shape[-1]
        if shard.ndim != 2 or shard.shape[1] != dims:
            raise ValueError(f"gallery[{i}] must have shape (N, {dims}), got {tuple(shard.shape)}")
    return shards


def pieces(shards: Sequence[Shard], like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of the first vector, vectors (N, D) with the dtype and device of `like`), in order.

    Tensors are yielded whole, arrays 64 MB at a time.
    """
    first = 0
    for i, shard in enumerate(shards):
        step = len(shard) if isinstance(shard, Tensor) else CHUNK // shard.shape[1]
        for start in range(0, len(shard), max(1, step)):
            piece = checks.embeddings(_tensor(shard[start : start + step]), f"gallery[{i}]", at_least=1)
            yield first + start, piece.to(like).contiguous()
        first += len(shard)


def take(shards: Sequence[Shard], indices: Tensor, like: Tensor) -> Tensor:
    """Copy the vectors (P, D) at `indices` (P,) of the whole gallery, with dtype and device of `like`."""
    if len(shards) == 1:
        shard = shards[0]
        if isinstance(shard, Tensor):
            return shard.index_select(0, indices.to(shard.device)).to(like)
        return _tensor(shard[indices.numpy()]).to(like)
    ends = torch.tensor([len(shard) for shard in shards]).cumsum(0)
    out = torch.empty(len(indices), shards[0].shape[1], dtype=like.dtype, device=like.device)
    place = torch.bucketize(indices, ends, right=True)
    for i in place.unique().tolist():
        here = (place == i).nonzero()[:, 0]
        out[here] = take(shards[i : i + 1], indices[here] - (ends[i] - len(shards[i])), like)
    return out


def ranked(query: Tensor, rows: Tensor, shards: Sequence[Shard], candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Sort `candidates` (P, C) of query[rows] by distance, equal ones by index, negative ones last.

    Returns squared distances (P, C) float64, rounded to the query's dtype where that separates them, and
    indices (P, C).
    """
    sq = squares(query, rows, shards, candidates.clamp(min=0)).masked_fill(candidates < 0, torch.inf)
    # Squares that are summed in 8 lanes or more are off by less than half this share of them.
    share = (query.shape[1] / 8 + 8) * torch.finfo(sq.dtype).eps
    sq, order = sq.double().sort(dim=1)
    candidates = candidates.gather(1, order)
    near = sq.diff(dim=1) <= share * sq[:, :-1]
    at, columns = (pad(near, (1, 0)) | pad(near, (0, 1))).nonzero(as_tuple=True)
    sq[at, columns] = squares(query.double(), rows[at], shards, candidates[at, columns, None])[:, 0]
    candidates, order = candidates.sort(dim=1)
    sq, order = sq.gather(1, order).sort(dim=1, stable=True)
    return sq, candidates.gather(1, order)


def squares(query: Tensor, rows: Tensor, shards: Sequence[Shard], candidates: Tensor) -> Tensor:
    """Squared distances (P, C) of query[rows] to the vectors `candidates` (P, C), by differences."""
    sq = query.new_empty(candidates.shape)
    held = CACHED if query.device.type == "cpu" else CHUNK
    step = max(1, held // (candidates.shape[1] * query.shape[1]))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        vectors = take(shards, candidates[some].flatten(), query).view(*candidates[some].shape, -1)
        sq[some] = vectors.sub_(query[rows[some], None]).square_().sum(2)
    return sq


def _tensor(shard: Shard) -> Tensor:
    if isinstance(shard, np.ndarray):  # copied: a memory map may be read-only, or in another byte order
        shard = torch.from_numpy(np.array(shard, shard.dtype.newbyteorder("=")))
    return shard.detach()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError('search through an index needs faiss: pip install "mdrlib[search]"') from error
    return faiss
