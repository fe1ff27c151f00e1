"""Metric-learning losses on a batch of embeddings."""

from collections.abc import Callable

from torch import Generator, Tensor, nn

from mdrlib import checks
from mdrlib.distances import pairwise_distances
from mdrlib.miners import Triplets, distance_weighted


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
        anchor, positive, negative = self.miner(embeddings, labels, generator=self.generator)
        d = pairwise_distances(embeddings)
        return (d[anchor, positive] - d[anchor, negative] + self.margin).relu().mean()

    def extra_repr(self) -> str:
        return f"margin={self.margin}, miner={getattr(self.miner, '__name__', self.miner)}"
