"""Approximate search through an index of faiss, whose candidates are ranked by their true distances."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdrlib import checks, parts
from mdrlib.parts import Part

TRAINED = 64  # vectors that train one list or one of the 256 codewords of a byte; faiss asks for 39 or more
HANDED = 10, 100  # candidates that an index hands over: this many times k, and at least as many
HELD = 2**22  # candidates held at once


def train(gallery: Tensor | Sequence[Part], index: str) -> Any:
    """An empty index of faiss, trained on a sample of a gallery.

    Parameters: gallery (G, D), or a list of parts (G_i, D), tensors or arrays such as memory maps; index a
    string for `faiss.index_factory`, such as "IVF4096,PQ32". The sample is drawn evenly from the whole
    gallery, 64 vectors for each list of an IVF index and at least 16,384, if there are as many.
    Raises ImportError without faiss, TypeError or ValueError for a gallery that is none, ValueError with what
    faiss says of a string that it refuses.
    """
    faiss = library()
    if not isinstance(index, str):
        raise TypeError(f"index must be a string for faiss.index_factory, got {type(index).__name__}")
    every = _parts(gallery)
    there, dims = sum(len(part) for part in every), every[0].shape[1]
    try:
        made = faiss.index_factory(dims, index)
        ivf = faiss.try_extract_index_ivf(made)
        lists = 0 if ivf is None else ivf.nlist
        if ivf is not None and not 1 <= lists <= there:
            raise RuntimeError(f"it has {lists} lists for {there} vectors")
        if ivf is not None and hasattr(faiss.downcast_index(ivf), "do_polysemous_training"):
            # Minutes for a filter of codes by their bits that no search here uses.
            faiss.downcast_index(ivf).do_polysemous_training = False
        if not made.is_trained:
            drawn = _drawn(there, TRAINED * max(lists, 256))
            sample = parts.take(every, drawn, torch.empty(0))
            made.train(checks.embeddings(sample, "gallery", at_least=1).numpy())
    except RuntimeError as error:  # how faiss reports whatever goes wrong
        said = str(error).split(": ", 1)[-1]
        raise ValueError(
            f"faiss makes no index {index!r} of {there} vectors of {dims} dimensions: {said}. "
            'Known to work are "IVF<lists>,Flat" and "IVF<lists>,PQ<bytes>" with fewer lists than vectors '
            "and bytes that divide the dimensions"
        ) from error
    return made


def build(gallery: Tensor | Sequence[Part], index: Any, first: int | None = None) -> Any:
    """A faiss index of all vectors of a gallery, for `search` to use as often as one likes.

    Parameters: gallery as `train`; index its string, or an index that was trained before, to which the
    vectors are added; first, the number of the first vector, for an IVF index of one part of a larger
    gallery, None to count on from what the index holds. 64 MB of the gallery are read at a time.
    `faiss.write_index` keeps the index. Of those of parts `faiss.contrib.ondisk.merge_ondisk` makes one with
    its lists on disk; give `first` for that, since its shift_ids (faiss 1.15) gives two vectors one number
    where parts differ in size. Raises as `train`.
    """
    every = _parts(gallery)
    made = train(every, index) if isinstance(index, str) else index
    for start, piece in parts.pieces(every, torch.empty(0)):
        if first is None:
            made.add(piece.numpy())
        else:
            made.add_with_ids(piece.numpy(), np.arange(first + start, first + start + len(piece)))
    return made


def _parts(gallery: Tensor | Sequence[Part]) -> list[Part]:
    given = [gallery] if isinstance(gallery, Tensor) else gallery
    if not isinstance(given, list | tuple):
        raise TypeError(
            f"gallery must be a torch.Tensor (G, D) or a list of parts, got {type(gallery).__name__}"
        )
    return parts.checked(given)


def library() -> ModuleType:
    """faiss, or an ImportError that says what to install."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError("an approximate search needs faiss: pip install mdrlib[search]") from error
    return faiss


def _drawn(there: int, count: int) -> Tensor:
    """Indices of `count` vectors, or of all, one at random of each of as many equal stretches."""
    if count >= there:
        return torch.arange(there)
    places = np.arange(count) + np.random.default_rng(0).random(count)
    return torch.from_numpy((places * (there / count)).astype(np.int64).clip(max=there - 1))


def search(
    query: Tensor,
    gallery: Tensor | Sequence[Part] | None,
    k: int,
    index: Any,
    probes: int | None = None,
    candidates: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`mdrlib.retrieval.search` with an index, which see."""
    faiss = library()
    query = checks.embeddings(query.detach() if isinstance(query, Tensor) else query, "query", at_least=1)
    alone = gallery is None
    every = _parts(query if alone else gallery)
    there, dims = sum(len(part) for part in every), every[0].shape[1]
    if query.shape[1] != dims:
        raise ValueError(f"query has {query.shape[1]} dimensions and gallery {dims}")
    checks.neighbours(k, there - alone)
    for name, value, least in (("probes", probes, 1), ("candidates", candidates, k)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not whole or value < least):
            raise ValueError(f"{name} must be None or an integer of {least} or more, got {value!r}")
    if isinstance(index, str):
        index = build(every, index)
    _fits(index, faiss, there, dims)
    ivf = faiss.try_extract_index_ivf(index)
    if probes is not None and ivf is None:
        raise ValueError(f"probes are lists of an IVF index, and {type(index).__name__} has none")
    asked = min(max(HANDED[0] * k, HANDED[1]) if candidates is None else candidates, there - alone)
    before = None if ivf is None else ivf.nprobe
    step = max(1, HELD // (asked + 1))
    made = []
    try:
        for start in range(0, len(query), step):
            rows = query[start : start + step].cpu()
            own = torch.arange(start, start + len(rows))[:, None] if alone else None
            if ivf is not None:
                ivf.nprobe = min(before if probes is None else probes, ivf.nlist)
            found = _enough(rows, k, index, ivf, asked, own)
            if (last := int(found.max())) >= there:
                raise ValueError(
                    f"the index numbers a vector {last}, and the gallery has {there}: "
                    "number its vectors from 0, in their order"
                )
            made.append(_ranked(rows, every, k, found))
    finally:
        if ivf is not None:
            ivf.nprobe = before
    distances, indices = (torch.cat(part).to(query.device) for part in zip(*made, strict=True))
    return distances, indices


def _fits(index: Any, faiss: ModuleType, there: int, dims: int) -> None:
    if not isinstance(index, faiss.Index):
        raise TypeError(
            f"index must be a string such as 'IVF4096,PQ32' or an index of faiss, got {type(index).__name__}"
        )
    if (index.ntotal, index.d) != (there, dims):
        raise ValueError(
            f"the index holds {index.ntotal} vectors of {index.d} dimensions, the gallery {there} of {dims}: "
            "build it of this gallery, in the same order"
        )
    if index.metric_type != faiss.METRIC_L2:
        raise ValueError("the index must be of Euclidean distances, faiss.METRIC_L2")


def _enough(query: Tensor, k: int, index: Any, ivf: Any, asked: int, own: Tensor | None) -> Tensor:
    """Candidates (Q, C) of every query, k or more other than its own index, -1 for none.

    A query that finds fewer is searched for again in twice as many lists, until it finds them.
    """
    x = query.float().numpy()
    found = torch.from_numpy(index.search(x, asked + (own is not None))[1])
    while True:
        if own is not None:
            found[found == own] = -1
        lacking = ((found >= 0).sum(dim=1) < k).nonzero()[:, 0]
        if not len(lacking):
            return found
        if ivf is None or ivf.nprobe >= ivf.nlist:
            raise ValueError(
                f"the index finds fewer than {k} neighbours of {len(lacking)} of {len(query)} queries; "
                "ask for fewer, or let it look further (of HNSW: efSearch)"
            )
        ivf.nprobe = min(2 * ivf.nprobe, ivf.nlist)
        found[lacking] = torch.from_numpy(index.search(x[lacking.numpy()], found.shape[1])[1])


def _ranked(query: Tensor, every: Sequence[Part], k: int, candidates: Tensor) -> tuple[Tensor, Tensor]:
    candidates = candidates.sort(dim=1).values  # equal distances in order of index
    sq, order = parts.squares(query, every, candidates).sort(dim=1, stable=True)
    return sq[:, :k].sqrt().to(query), candidates.gather(1, order[:, :k])
