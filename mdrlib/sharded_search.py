"""Galleries in shards that need not fit memory, and search through indices of faiss."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdrlib import checks

PIECE = 2**24  # numbers read from a shard at once: 64 MB in float32
GATHERED = {"cpu": 2**19}  # numbers of candidates gathered at once: what a CPU's caches hold
TRAINED = 64  # vectors that train one list, or one of the 256 codewords of a byte; faiss asks for 39 or more
HANDED = 10, 100  # candidates that an index returns: this many times k, and at least as many
HELD = 2**22  # candidates held at once

Shard = Tensor | np.ndarray


def train(gallery: Tensor | Sequence[Shard], index: str) -> Any:
    """Train an empty faiss index on a sample drawn evenly from a gallery.

    Args:
        gallery: (G, D), or a list of shards (G_i, D), tensors or arrays such as memory maps.
        index: A string for `faiss.index_factory`, such as "IVF4096,PQ32".

    Returns:
        The `faiss.Index`, trained on 64 vectors per list and at least 16,384, and without vectors.

    Raises:
        ImportError: faiss is not installed.
        TypeError, ValueError: `gallery` has another type, shape or dtype, or faiss refuses the string.
    """
    faiss = _faiss()
    if not isinstance(index, str):
        raise TypeError(f"index must be a string for faiss.index_factory, got {type(index).__name__}")
    shards = checked(gallery)
    count, dims = sum(map(len, shards)), shards[0].shape[1]
    try:
        made = faiss.index_factory(dims, index)
        ivf = faiss.try_extract_index_ivf(made)
        if ivf is not None and hasattr(faiss.downcast_index(ivf), "do_polysemous_training"):
            # This takes minutes and serves a filter that no search here uses.
            faiss.downcast_index(ivf).do_polysemous_training = False
        if not made.is_trained:
            lists = 0 if ivf is None else ivf.nlist
            sample = take(shards, _drawn(count, TRAINED * max(lists, 256)), torch.empty(0))
            made.train(checks.embeddings(sample, "gallery", at_least=1).numpy())
    except RuntimeError as error:  # what faiss raises, whatever the reason
        raise ValueError(
            f"faiss cannot make the index {index!r} of {count} vectors of {dims} dimensions: use "
            '"IVF<lists>,Flat" or "IVF<lists>,PQ<bytes>" with at most as many lists as vectors and bytes '
            f"that divide the dimensions ({error})"
        ) from error
    return made


def build(gallery: Tensor | Sequence[Shard], index: Any, first: int | None = None) -> Any:
    """Add all vectors of a gallery to a faiss index, for `retrieval.search`; 64 MB are read at a time.

    `faiss.write_index` stores it. `faiss.contrib.ondisk.merge_ondisk` makes one index, its lists on disk, of
    the indices of several shards. These need `first`: its shift_ids (faiss 1.15) numbers shards of different
    sizes wrongly.

    Args:
        gallery: As in `train`.
        index: A string for `faiss.index_factory`, or a trained index, to which the vectors are added.
        first: Number of the first vector, for an IVF index of one shard of a larger gallery. None continues
            from the number of vectors in the index.

    Returns:
        The `faiss.Index`.

    Raises:
        ImportError, TypeError, ValueError: As in `train`; ValueError also for NaN or infinite values.
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
    gallery: Tensor | Sequence[Shard] | None,
    k: int,
    index: Any,
    probes: int | None = None,
    candidates: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Find neighbours through an index; `retrieval.search` documents arguments, result and errors."""
    faiss = _faiss()
    query = checks.embeddings(query, "query", at_least=1).detach()
    alone = gallery is None
    shards = checked(query if alone else gallery, query.shape[1])
    count = sum(map(len, shards))
    checks.neighbours(k, count - alone)
    for name, value, least in (("probes", probes, 1), ("candidates", candidates, k)):
        integer = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not integer or value < least):
            raise ValueError(f"{name} must be None or an integer of {least} or more, got {value!r}")
    if isinstance(index, str):
        index = build(shards, index)
    if not isinstance(index, faiss.Index):
        raise TypeError(f'index must be a string such as "IVF4096,PQ32" or a faiss.Index, got {index!r}')
    if (index.ntotal, index.d) != (count, query.shape[1]):
        raise ValueError(
            f"the index has {index.ntotal} vectors of {index.d} dimensions and the gallery {count} of "
            f"{query.shape[1]}: rebuild the index from this gallery, in the same order"
        )
    if index.metric_type != faiss.METRIC_L2:
        raise ValueError("the index must use Euclidean distances: make it with faiss.METRIC_L2")
    ivf = faiss.try_extract_index_ivf(index)
    if probes is not None and ivf is None:
        raise ValueError(f"probes needs an IVF index, got {type(index).__name__}: leave probes out")
    handed = min(max(HANDED[0] * k, HANDED[1]) if candidates is None else candidates, count - alone)
    before = None if ivf is None else ivf.nprobe
    results = []
    try:
        for rows in torch.arange(len(query)).split(max(1, HELD // (handed + 1))):
            if ivf is not None:
                ivf.nprobe = min(before if probes is None else probes, ivf.nlist)
            x = query[rows].cpu()
            found = _handed(x, k, handed, index, ivf, rows if alone else None).sort(dim=1).values
            if (last := int(found.max())) >= count:
                raise ValueError(
                    f"the index numbers a vector {last} and the gallery has {count}: number the vectors "
                    "from 0, in the gallery's order"
                )
            sq = squares(x, torch.arange(len(x)), shards, found.clamp(min=0))
            sq = sq.masked_fill(found < 0, torch.inf)
            sq, order = sq.sort(dim=1, stable=True)  # equal distances in order of index
            results.append((sq[:, :k].sqrt(), found.gather(1, order[:, :k])))
    finally:
        if ivf is not None:
            ivf.nprobe = before
    distances, indices = (torch.cat(part) for part in zip(*results, strict=True))
    return distances.to(query), indices.to(query.device)


def _handed(query: Tensor, k: int, count: int, index: Any, ivf: Any, own: Tensor | None) -> Tensor:
    """Candidates (Q, C) with k or more other than `own` in each row, -1 for none.

    A query that finds fewer searches twice as many lists, until it finds them.
    """
    x = query.float().numpy()
    found = torch.from_numpy(index.search(x, count + (own is not None))[1])
    while True:
        if own is not None:
            found[found == own[:, None]] = -1
        lacking = ((found >= 0).sum(dim=1) < k).nonzero()[:, 0]
        if not len(lacking):
            return found
        if ivf is None or ivf.nprobe >= ivf.nlist:
            raise ValueError(
                f"the index finds fewer than {k} neighbours for {len(lacking)} of {len(query)} queries: "
                "lower k, or let the index search further (for HNSW: efSearch)"
            )
        ivf.nprobe = min(2 * ivf.nprobe, ivf.nlist)
        found[lacking] = torch.from_numpy(index.search(x[lacking.numpy()], found.shape[1])[1])


def checked(gallery: Tensor | Sequence[Shard], dims: int | None = None) -> list[Shard]:
    """Return a gallery as a list of shards (G_i, D) of `dims` dimensions; values are not read."""
    shards = [gallery] if isinstance(gallery, Tensor) else gallery
    if not isinstance(shards, list | tuple):
        raise TypeError(
            f"gallery must be a torch.Tensor (G, D) or a list of shards, got {type(shards).__name__}"
        )
    if not shards:
        raise ValueError("gallery is an empty list: give one shard or more")
    for i, shard in enumerate(shards):
        name = "gallery" if len(shards) == 1 else f"gallery[{i}]"
        if not isinstance(shard, Tensor | np.ndarray):
            raise TypeError(f"{name} must be a tensor or an array (N, D), got {type(shard).__name__}")
        if not (shard.is_floating_point() if isinstance(shard, Tensor) else shard.dtype.kind == "f"):
            raise TypeError(f"{name} must be floating point, got {shard.dtype}")
        if shard.ndim != 2 or 0 in shard.shape:
            raise ValueError(f"{name} must hold one vector or more, shape (N, D), got {tuple(shard.shape)}")
        if shard.shape[1] != (dims or shards[0].shape[1]):
            first = f"gallery[0] has {shards[0].shape[1]}" if dims is None else f"query has {dims}"
            raise ValueError(f"{first} dimensions and {name} {shard.shape[1]}")
    return list(shards)


def pieces(shards: Sequence[Shard], like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of the first vector, vectors (N, D) of the dtype and device of `like`), in order."""
    first = 0
    for i, shard in enumerate(shards):
        step = max(1, PIECE // shard.shape[1])
        for start in range(0, len(shard), step):
            piece = _tensor(shard[start : start + step], like)
            yield first + start, checks.embeddings(piece, f"gallery[{i}]", at_least=1)
        first += len(shard)


def take(shards: Sequence[Shard], indices: Tensor, like: Tensor) -> Tensor:
    """Copy the vectors (P, D) at `indices` (P,) of the whole gallery, with dtype and device of `like`."""
    if len(shards) == 1:
        shard = shards[0]
        if isinstance(shard, Tensor):
            return _tensor(shard.index_select(0, indices.to(shard.device)), like)
        return _tensor(shard[indices.numpy()], like)
    ends = torch.tensor([len(shard) for shard in shards]).cumsum(0)
    out = torch.empty(len(indices), shards[0].shape[1], dtype=like.dtype, device=like.device)
    place = torch.bucketize(indices, ends, right=True)
    for i in place.unique().tolist():
        here = (place == i).nonzero()[:, 0]
        out[here] = take(shards[i : i + 1], indices[here] - (ends[i] - len(shards[i])), like)
    return out


def squares(
    query: Tensor,
    rows: Tensor,
    shards: Sequence[Shard],
    candidates: Tensor,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Squared distances (P, C) of query[rows] (P, D) to the vectors `candidates` (P, C), by differences."""
    sq = torch.empty(candidates.shape, dtype=dtype, device=query.device)
    step = max(1, GATHERED.get(query.device.type, PIECE) // (candidates.shape[1] * query.shape[1]))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        vectors = take(shards, candidates[some].flatten(), query).to(dtype)
        difference = vectors.view(*candidates[some].shape, -1).sub_(query[rows[some], None])
        sq[some] = difference.square_().sum(2)
    return sq


def _tensor(shard: Shard, like: Tensor) -> Tensor:
    if isinstance(shard, np.ndarray):  # copied: a memory map may be read-only, or in another byte order
        shard = torch.from_numpy(np.array(shard, shard.dtype.newbyteorder("=")))
    return shard.detach().to(like).contiguous()


def _drawn(there: int, count: int) -> Tensor:
    """Indices of `count` vectors, one at random from each of as many equal stretches; or of all vectors."""
    if count >= there:
        return torch.arange(there)
    places = np.arange(count) + np.random.default_rng(0).random(count)
    return torch.from_numpy((places * (there / count)).astype(np.int64).clip(max=there - 1))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError('search through an index needs faiss: pip install "mdrlib[search]"') from error
    return faiss
