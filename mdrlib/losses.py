"""Metric-learning losses, and pytorch-metric-learning with MDR: its losses here, MDR as its regularizer.

A loss is a module called with embeddings (N, D) and labels (N,) that returns a scalar. Losses of distances
are Euclidean and take embeddings as given. pytorch-metric-learning normalizes them by default; `build_loss`
turns that off. Losses of cosines depend on directions alone, as published.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdrlib import checks
from mdrlib.distances import pairwise_distances
from mdrlib.mdr import MDR
from mdrlib.miners import Triplets, all_triplets, distance_weighted, positive_pairs

CHUNK = 2**24  # numbers held at once: 64 MB in float32


class TripletLoss(nn.Module):
    """Mean over the mined triplets of max(0, d(a, p) - d(a, n) + margin).

    The margin keeps its meaning during training if embeddings are normalized first
    (`build_embedder(normalize=...)` or `normalize_by_mean_distance`).

    Args:
        margin: At least 0.
        miner: A function of `mdrlib.miners`, or your own with the same signature; its errors are the loss's.
        generator: For miners that draw; None uses torch's default generator.
    """

    def __init__(
        self,
        margin: float = 0.2,
        miner: Callable[..., Triplets] = distance_weighted,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.margin = float(checks.scalar(margin, "margin", 0.0))
        self.miner, self.generator = miner, generator

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if self.miner is all_triplets:
            return _over_all_triplets(embeddings, labels, self.margin)
        anchor, positive, negative = self.miner(embeddings, labels, generator=self.generator)
        d = pairwise_distances(embeddings)
        return (d[anchor, positive] - d[anchor, negative] + self.margin).relu().mean()

    def extra_repr(self) -> str:
        return f"margin={self.margin}, miner={getattr(self.miner, '__name__', self.miner)}"


def _over_all_triplets(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """The loss without the indices of all triplets (24 bytes each): rows of distances per positive pair."""
    _, anchor, positive, negatives = positive_pairs(embeddings, labels)
    d = pairwise_distances(embeddings)
    reach = d[anchor, positive] + margin
    step = max(1, CHUNK // len(d))
    parts = list(zip(reach.split(step), anchor.split(step), strict=True))
    if len(parts) == 1:
        total = _costs(d, negatives, *parts[0])
    else:  # computed again in the backward pass, which would otherwise keep all of them
        total = torch.stack([checkpoint(_costs, d, negatives, *p, use_reentrant=False) for p in parts]).sum()
    return total / negatives.sum(dim=1)[anchor].sum()


def _costs(d: Tensor, negatives: Tensor, reach: Tensor, anchor: Tensor) -> Tensor:
    """Sum over anchors (P,) and their negatives of how far d stays below `reach` (P,)."""
    short = (reach[:, None] - d.index_select(0, anchor)).relu()
    return short.masked_fill(~negatives[anchor], 0).sum()


class _MinedLoss(nn.Module):
    """A loss of pytorch-metric-learning over the triplets that a function of `mdrlib.miners` finds."""

    def __init__(self, loss: nn.Module, miner: Callable[..., Triplets], generator: Generator | None) -> None:
        super().__init__()
        self.loss, self.miner, self.generator = loss, miner, generator

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(embeddings, labels, self.miner(embeddings, labels, generator=self.generator))


def build_loss(
    name: str,
    classes: int,
    dim: int,
    margin: float = 0.2,
    pair_margin: float = 1.0,
    miner: Callable[..., Triplets] = distance_weighted,
    generator: Generator | None = None,
) -> nn.Module:
    """Return a loss of pytorch-metric-learning; with the head "mean-distance" the mean distance is 1.

    Args:
        name: Of distances: "contrastive" (positives at 0, negatives beyond pair_margin; each a mean over the
            pairs not there yet), "margin" (Wu et al., ICCV 2017: positives within pair_margin - margin,
            negatives beyond pair_margin + margin, over the miner's triplets), "lifted-structure" (Oh Song et
            al., CVPR 2016: negatives beyond pair_margin). Of cosines: "multi-similarity" (alpha 2, beta 50,
            base 0.5), "proxy-nca", "proxy-anchor" (alpha 32, margin 0.1).
        classes: Labels are 0 .. classes - 1; the proxies, one per class, are parameters of the loss.
        dim: Dimensions D of the embeddings.
        miner: See `TripletLoss`, as `generator`.

    Raises:
        ValueError: For another name.
        ImportError: Without pytorch-metric-learning.
    """
    try:
        from pytorch_metric_learning import distances, losses
    except ImportError as error:
        raise ImportError(
            "losses other than the triplet loss need pytorch-metric-learning: pip install 'mdrlib[pml]'"
        ) from error
    euclidean = distances.LpDistance(normalize_embeddings=False)
    if name == "contrastive":
        return losses.ContrastiveLoss(pos_margin=0, neg_margin=pair_margin, distance=euclidean)
    if name == "margin":
        return _MinedLoss(losses.MarginLoss(margin, beta=pair_margin, distance=euclidean), miner, generator)
    if name == "lifted-structure":
        return losses.LiftedStructureLoss(neg_margin=pair_margin, pos_margin=0, distance=euclidean)
    if name == "multi-similarity":
        return losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5, distance=distances.CosineSimilarity())
    if name == "proxy-nca":
        squared = distances.LpDistance(normalize_embeddings=True, p=2, power=2)  # 2 - 2 cosine
        # The temperature 1/9 of Teh et al., "ProxyNCA++", ECCV 2020: with that library's default of 1 no
        # proxy can win by much.
        return losses.ProxyNCALoss(classes, dim, softmax_scale=9, distance=squared)
    if name == "proxy-anchor":
        return losses.ProxyAnchorLoss(classes, dim, 0.1, 32, distance=distances.CosineSimilarity())
    raise ValueError(f"no loss {name!r} is taken from pytorch-metric-learning")


class MDRRegularizer(nn.Module):
    """MDR for `embedding_regularizer=` of any loss of pytorch-metric-learning.

    The total is then loss + embedding_reg_weight (L_MDR + level_weight * sum of squared levels). For the
    paper's lambda and nu set embedding_reg_weight to lambda and level_weight to nu / lambda. Give the loss's
    parameters to the optimizer: the levels are among them. Do not L2-normalize the embeddings first, and
    give the loss a distance with normalize_embeddings=False.

    Args:
        levels: This and the next four as in `MDR`, which is the attribute `mdr`.
        level_weight: Weight of the squared levels relative to L_MDR, nu / lambda.
    """

    def __init__(
        self,
        levels: Sequence[float] = (-3.0, 0.0, 3.0),
        momentum: float = 0.9,
        learn_levels: bool = True,
        diagonal_in_stats: bool = False,
        backend: str = "auto",
        level_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.mdr = MDR(levels, momentum, learn_levels, diagonal_in_stats, backend)
        self.level_weight = float(level_weight)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.mdr(embeddings) + self.level_weight * self.mdr.level_penalty()
