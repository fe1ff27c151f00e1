"""Search in galleries of shards that need not fit in memory, and through faiss indexes."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdrlib import checks

CHUNK = 2**24  # numbers held at once: 64 MB in float32
CACHED = 2**19  # numbers that a CPU's caches hold
TRAINED = 64  # vectors that train one list, or one of the 256 codewords of a byte; faiss asks for 39 or more

Shard = Tensor | np.ndarray


def train(gallery: Tensor | Sequence[Shard], index: str) -> Any:
    """Train an empty faiss index on vectors drawn evenly from a gallery: 64 per list, at least 16,384.

    Args:
        gallery: (G, D), or a list of shards (G_i, D): see `retrieval.search`.
        index: A string for `faiss.index_factory`, such as "IVF4096,PQ32".

    Raises:
        ValueError: faiss refuses the string, or the gallery is empty or not finite.
    """
    faiss = _faiss()
    # faiss ends the process for a graph of no neighbours, HNSW0, and for very long strings.
    if not isinstance(index, str) or len(index) > 200 or re.search("[A-Z]0", index):
        raise ValueError(f'index must be a string such as "IVF4096,PQ32", got {checks.shown(index)}')
    shards = checked(gallery)
    count = sum(map(len, shards))
    with _refusals(index):
        made = faiss.index_factory(shards[0].shape[1], index)
        if made.is_trained:
            return made
        ivf = faiss.downcast_index(faiss.try_extract_index_ivf(made))
        if isinstance(ivf, faiss.IndexIVFPQ):
            ivf.do_polysemous_training = False  # most of the time, for a filter that no search here uses
        wanted = min(count, TRAINED * max(256, ivf.nlist if ivf else 0))
        drawn = (np.arange(wanted) + np.random.default_rng(0).random(wanted)) * (count / wanted)
        drawn = torch.from_numpy(drawn.astype(np.int64)).clamp(max=count - 1)
        made.train(checks.embeddings(take(shards, drawn, torch.empty(0)), "gallery", at_least=1).numpy())
    return made


def build(gallery: Tensor | Sequence[Shard], index: Any, first: int | None = None) -> Any:
    """Return a faiss index of all vectors of a gallery, for `retrieval.search`; 64 MB are read at a time.

    `faiss.contrib.ondisk.merge_ondisk` makes one index, its lists on disk, of the stored indexes of several
    shards. Pass `first` for these: its shift_ids (faiss 1.15) numbers shards of different sizes wrongly.

    Args:
        gallery: As in `train`.
        index: A string for `faiss.index_factory`, or a trained index, to which the vectors are added.
        first: Number of the first vector, for an IVF index of one shard of a larger gallery. None continues
            from the number of vectors in the index.
    """
    shards = checked(gallery)
    made = train(shards, index) if isinstance(index, str) else _trained(index, shards[0].shape[1])
    first = first if first is None else checks.whole(first, "first", 0)
    for start, piece in pieces(shards, torch.empty(0)):
        with _refusals(index):
            if first is None:
                made.add(piece.numpy())
            else:
                made.add_with_ids(piece.numpy(), np.arange(first + start, first + start + len(piece)))
    return made


def search(
    query: Tensor,
    shards: list[Shard],
    k: int,
    alone: bool,
    index: Any,
    probes: int | None,
    candidates: int | None,
) -> tuple[Tensor, Tensor]:
    """Find neighbours through an index, as `retrieval.search` does; `alone`: the queries are the gallery."""
    faiss = _faiss()
    index = build(shards, index) if isinstance(index, str) else _trained(index, query.shape[1])
    count = sum(map(len, shards))
    if index.ntotal != count or index.metric_type != faiss.METRIC_L2:
        both = f"{index.ntotal} vectors and the gallery {count}"
        raise ValueError(f"the index has {both}: rebuild it from this gallery, for Euclidean distances")
    ivf = faiss.try_extract_index_ivf(index)
    before = ivf.nprobe if ivf else 1
    probes = before if probes is None else checks.whole(probes, "probes", 1)
    if probes < 1:  # faiss finds nothing, and doubling 0 would never end
        raise ValueError("the index has nprobe 0: set it to 1 or more, or pass probes")
    wanted = max(10 * k, 100) if candidates is None else checks.whole(candidates, "candidates", 1)
    reach = min(wanted, count - alone) + alone
    results = []
    try:
        for rows in torch.arange(len(query)).split(max(1, CHUNK // 4 // reach)):
            if ivf:
                ivf.nprobe = min(probes, ivf.nlist)
            x = query[rows].cpu()
            found = _candidates(x, k, reach, index, ivf, rows if alone else None).sort(dim=1).values
            sq = squares(x, torch.arange(len(x)), shards, found.clamp(min=0))
            sq, order = sq.masked_fill(found < 0, torch.inf).sort(dim=1, stable=True)  # equal ones by index
            results.append((sq[:, :k].sqrt(), found.gather(1, order[:, :k])))
    finally:
        if ivf:
            ivf.nprobe = before
    distances, indices = (torch.cat(part) for part in zip(*results, strict=True))
    return distances.to(query), indices.to(query.device)


def _candidates(query: Tensor, k: int, reach: int, index: Any, ivf: Any, own: Tensor | None) -> Tensor:
    """Return indices (Q, reach) of k candidates or more other than `own` in each row; -1 for a gap."""
    found = torch.empty(len(query), reach, dtype=torch.int64)
    lacking = torch.arange(len(query))
    while True:
        found[lacking] = torch.from_numpy(index.search(query[lacking].float().numpy(), reach)[1])
        if own is not None:
            found[found == own[:, None]] = -1
        lacking = ((found >= 0).sum(dim=1) < k).nonzero()[:, 0]
        if not len(lacking):
            return found
        if not ivf or ivf.nprobe >= ivf.nlist:
            few = f"fewer than {k} neighbours for {len(lacking)} of {len(query)} queries"
            raise ValueError(f"the index finds {few}: raise candidates or (for HNSW) efSearch, or lower k")
        ivf.nprobe *= 2


def checked(gallery: Tensor | Sequence[Shard], dims: int | None = None) -> list[Shard]:
    """Return a gallery as a list of shards (G_i, D) of `dims` dimensions; values are not read."""
    shards = list(gallery) if isinstance(gallery, list | tuple) else [gallery]
    for i, shard in enumerate(shards):
        if not isinstance(shard, Tensor | np.ndarray):
            raise TypeError(f"gallery[{i}] must be a torch.Tensor or an array, got {type(shard).__name__}")
        dims = dims or (shard.shape[1] if shard.ndim == 2 else 0) or "D"
        if shard.ndim != 2 or shard.shape[1] != dims:
            raise ValueError(f"gallery[{i}] must have shape (N, {dims}), got {tuple(shard.shape)}")
    if not any(map(len, shards)):
        raise ValueError("gallery has no vectors: give one shard or more")
    return [shard.detach() if isinstance(shard, Tensor) else shard for shard in shards]


def pieces(shards: list[Shard], like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (first index, vectors (N, D) like `like`), 64 MB at a time."""
    first, step = 0, max(1, CHUNK // shards[0].shape[1])
    for i, shard in enumerate(shards):
        for start in range(0, len(shard), step):
            piece = checks.embeddings(_tensor(shard[start : start + step]), f"gallery[{i}]", at_least=1)
            yield first + start, piece.to(like).contiguous()
        first += len(shard)


def take(shards: list[Shard], indices: Tensor, like: Tensor) -> Tensor:
    """Copy the vectors (P, D) at `indices` (P,) of the whole gallery, with dtype and device of `like`."""
    if len(shards) == 1 and isinstance(shards[0], Tensor):  # index_select is faster than an index
        return shards[0].index_select(0, indices.to(shards[0].device)).to(like)
    ends = torch.tensor([len(shard) for shard in shards]).cumsum(0)
    out = torch.empty(len(indices), shards[0].shape[1], dtype=like.dtype, device=like.device)
    place = torch.bucketize(indices, ends, right=True)
    for i in place.unique().tolist():
        here = (place == i).nonzero()[:, 0]
        rows = indices[here] - (ends[i] - len(shards[i]))
        out[here] = _tensor(shards[i][rows.numpy()]).to(like)
    return out


def squares(query: Tensor, rows: Tensor, shards: list[Shard], candidates: Tensor) -> Tensor:
    """Return squared distances (P, C) float64 of query[rows] (P, D) to the vectors `candidates` (P, C)."""
    sq = torch.empty(candidates.shape, dtype=torch.float64, device=query.device)
    held = CACHED if query.device.type == "cpu" else CHUNK
    step = max(1, held // (candidates.shape[1] * query.shape[1]))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        vectors = take(shards, candidates[some].flatten(), query).double()
        difference = vectors.view(*candidates[some].shape, -1).sub_(query[rows[some], None])
        sq[some] = difference.square_().sum(2)
    return sq


def _tensor(shard: Shard) -> Tensor:
    if isinstance(shard, Tensor):
        return shard
    # Copied: a memory map may be read-only, or in another byte order.
    return torch.from_numpy(np.array(shard, shard.dtype.newbyteorder("=")))


def _trained(index: Any, dims: int) -> Any:
    """Return a trained faiss index for vectors of `dims` dimensions."""
    if not isinstance(index, _faiss().Index):
        raise TypeError(f"index must be a faiss.Index or a string for its factory, got {checks.shown(index)}")
    if not index.is_trained:
        raise ValueError("the index is not trained: make it with sharded_search.train or build")
    if index.d != dims:
        raise ValueError(f"the index has {index.d} dimensions and the vectors {dims}: rebuild it from them")
    return index


@contextmanager
def _refusals(index: Any) -> Iterator[None]:
    """Turn an error of faiss into a ValueError of one line, without its place in C++."""
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        why = " ".join(re.split(r"\.(?:cpp|h):\d+: ", str(error))[-1].split())
        raise ValueError(f"faiss refuses the index {checks.shown(index)}: {why}") from error


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError('search through an index needs faiss: pip install "mdrlib[search]"') from error
    return faiss
