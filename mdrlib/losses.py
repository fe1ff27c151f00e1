"""Metric-learning losses on a batch of embeddings."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdrlib import checks
from mdrlib.distances import pairwise_distances
from mdrlib.miners import Triplets, all_triplets, distance_weighted, positive_pairs

CHUNK = 2**24  # numbers held at once: 64 MB in float32


class TripletLoss(nn.Module):
    """Mean over the mined triplets of max(0, d(a, p) - d(a, n) + margin).

    Called with embeddings (N, D) and integer labels (N,); returns a scalar. Distances are Euclidean and the
    embeddings are taken as they come: normalize them before if the margin should mean the same throughout
    training (`build_embedder(normalize=...)`, `normalize_by_mean_distance`).
    margin: at least 0. miner: a function of `mdrlib.miners`, or one of yours with the same signature.
    generator: for miners that draw; None uses torch's own. Errors: those of the miner.
    """

    def __init__(
        self,
        margin: float = 0.2,
        miner: Callable[..., Triplets] = distance_weighted,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.margin = float(checks.scalar(margin, "margin", 0.0))
        if not callable(miner):
            raise TypeError(f"miner must be a function such as those of mdrlib.miners, got {miner!r}")
        self.miner, self.generator = miner, generator

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if self.miner is all_triplets:
            return over_all(embeddings, labels, self.margin)
        anchor, positive, negative = self.miner(embeddings, labels, generator=self.generator)
        d = pairwise_distances(embeddings)
        return (d[anchor, positive] - d[anchor, negative] + self.margin).relu().mean()

    def extra_repr(self) -> str:
        return f"margin={self.margin}, miner={getattr(self.miner, '__name__', self.miner)}"


def over_all(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """The triplet loss over `all_triplets`, whose indices, 24 bytes a triplet, are never made.

    A positive pair has a row of distances to negatives, so the triplets are a matrix (P, N) with gaps.
    """
    _, anchor, positive, negatives = positive_pairs(embeddings, labels)
    d = pairwise_distances(embeddings)
    reach = d[anchor, positive] + margin
    step = max(1, CHUNK // len(d))
    parts = list(zip(reach.split(step), anchor.split(step), strict=True))
    if len(parts) == 1:
        total = _costs(d, negatives, *parts[0])
    else:  # taken again in the backward pass, or all of them would be kept for it
        total = torch.stack([checkpoint(_costs, d, negatives, *p, use_reentrant=False) for p in parts]).sum()
    return total / negatives.sum(dim=1)[anchor].sum()


def _costs(d: Tensor, negatives: Tensor, reach: Tensor, anchor: Tensor) -> Tensor:
    """Sum of what the distances to negatives fall short of `reach` (P,)."""
    short = (reach[:, None] - d.index_select(0, anchor)).relu()
    return short.masked_fill(~negatives[anchor], 0).sum()
