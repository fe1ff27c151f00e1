"""Metric-learning losses, and MDR as a regularizer of pytorch-metric-learning.

A loss is a module: embeddings (N, D) and labels (N,) -> scalar. Losses of distances are Euclidean and take
embeddings as given; losses of cosines depend on directions alone, as published.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from mdrlib import checks
from mdrlib.distances import by_chunks, pairwise_distances
from mdrlib.mdr import MDR
from mdrlib.miners import Triplets, all_triplets, distance_weighted, positive_pairs

CHUNK = 2**24  # numbers held at once: 64 MB in float32
Miner = Callable[..., Triplets]


class TripletLoss(nn.Module):
    """Mean of max(0, d(a, p) - d(a, n) + margin) over all mined triplets; 0 if the miner finds no triplet.

    Args:
        margin: At least 0, in units of distance. Normalize embeddings first to keep its meaning in training.
        miner: A function of `mdrlib.miners`, or your own with the same signature.
        generator: For miners that draw; None uses torch's default one, as activation checkpointing requires.
    """

    def __init__(
        self, margin: float = 0.2, miner: Miner = distance_weighted, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.margin = checks.real(margin, "margin", 0)
        self.miner, self.generator = miner, generator

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if self.miner is all_triplets:
            return _over_all_triplets(embeddings, labels, self.margin)
        anchor, positive, negative = self.miner(embeddings, labels, generator=self.generator)
        d = pairwise_distances(embeddings)
        costs = (d[anchor, positive] - d[anchor, negative] + self.margin).relu()
        return costs.mean() if len(costs) else costs.sum()  # 0 with a graph, where a mean is NaN


def _over_all_triplets(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return the loss without storing all triplets (24 bytes each): rows of distances per positive pair."""
    _, anchor, positive, negatives = positive_pairs(embeddings, labels)
    d = pairwise_distances(embeddings)

    def costs(reach: Tensor, anchor: Tensor) -> Tensor:
        short = (reach[:, None] - d.index_select(0, anchor)).relu()
        return short.masked_fill(~negatives[anchor], 0).sum()

    total = by_chunks(costs, max(1, CHUNK // len(d)), d[anchor, positive] + margin, anchor)
    return torch.stack(total).sum() / negatives.sum(dim=1)[anchor].sum()


def spread_out(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return M1^2 + max(0, M2 - 1/D), with M1 and M2 the mean cosine of negative pairs and its mean square.

    Points spread evenly over the sphere of D dimensions have M1 = 0 and M2 = 1/D (Zhang et al., "Learning
    Spread-out Local Feature Descriptors", ICCV 2017). Embeddings (N, D) are normalized for this purpose
    only; labels (N,) need two classes.
    """
    x = normalize(checks.embeddings(embeddings, wait=False), dim=1)
    labels = labels.to(x.device)
    negative = labels[:, None] != labels
    cosines = (x @ x.T).masked_fill(~negative, 0)
    pairs = negative.sum()
    excess = cosines.square().sum() / pairs - 1 / x.shape[1]
    return (cosines.sum() / pairs).square() + excess.relu()


class SpreadOut(nn.Module):
    """The sum of a loss and `weight` times `spread_out`."""

    def __init__(self, loss: nn.Module, weight: float) -> None:
        super().__init__()
        self.loss, self.weight = loss, weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(embeddings, labels) + self.weight * spread_out(embeddings, labels)


class _MinedLoss(nn.Module):
    """A loss of pytorch-metric-learning over the triplets that a function of `mdrlib.miners` finds."""

    def __init__(self, loss: nn.Module, miner: Miner, generator: Generator | None) -> None:
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
    miner: Miner = distance_weighted,
    generator: Generator | None = None,
) -> nn.Module:
    """Build a loss of pytorch-metric-learning by its name.

    Args:
        name: Losses of distances: "contrastive" (positives at 0, negatives beyond pair_margin; each a mean
            over the pairs that are not there yet), "margin" (Wu et al., ICCV 2017: positives within
            pair_margin - margin, negatives beyond pair_margin + margin, over the miner's triplets),
            "lifted-structure" (Oh Song et al., CVPR 2016: negatives beyond pair_margin). Losses of cosines:
            "multi-similarity" (alpha 2, beta 50, base 0.5), "proxy-nca", "proxy-anchor" (alpha 32,
            margin 0.1).
        classes: Labels are 0 .. classes - 1; the proxies, one per class, are parameters of the loss.
        dim: Dimensions of the embeddings and proxies.
        margin, pair_margin: In units of distance. The head "mean-distance" makes the mean distance 1.
        miner, generator: See `TripletLoss`.

    Raises:
        ValueError: The name is unknown.
        ImportError: pytorch-metric-learning is not installed.
    """
    try:
        from pytorch_metric_learning import distances, losses
    except ImportError as error:
        raise ImportError(f"the loss {name!r} needs a package: pip install 'mdrlib[pml]'") from error
    euclidean, cosine = distances.LpDistance(normalize_embeddings=False), distances.CosineSimilarity()
    if name == "contrastive":
        return losses.ContrastiveLoss(pos_margin=0, neg_margin=pair_margin, distance=euclidean)
    if name == "margin":
        return _MinedLoss(losses.MarginLoss(margin, beta=pair_margin, distance=euclidean), miner, generator)
    if name == "lifted-structure":
        return losses.LiftedStructureLoss(neg_margin=pair_margin, pos_margin=0, distance=euclidean)
    if name == "multi-similarity":
        return losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5, distance=cosine)
    if name == "proxy-nca":
        squared = distances.LpDistance(normalize_embeddings=True, p=2, power=2)  # 2 - 2 cosine
        # The temperature 1/9 of Teh et al., "ProxyNCA++", ECCV 2020; at 1 no proxy can win by much.
        return losses.ProxyNCALoss(classes, dim, softmax_scale=9, distance=squared)
    if name == "proxy-anchor":
        return losses.ProxyAnchorLoss(classes, dim, 0.1, 32, distance=cosine)
    known = '"contrastive", "margin", "lifted-structure", "multi-similarity", "proxy-nca" or "proxy-anchor"'
    raise ValueError(f"name must be {known}, got {checks.shown(name)}")


class MDRRegularizer(nn.Module):
    """MDR for `embedding_regularizer=` of any loss of pytorch-metric-learning.

    The total is then loss + embedding_reg_weight (L_MDR + level_weight * sum of squared levels). For the
    paper's lambda and nu set embedding_reg_weight to lambda and level_weight to nu / lambda.

    Give the loss's parameters to the optimizer: the levels are among them. The `MDR` itself is
    `loss.embedding_regularizer.mdr`, and `loss.eval()` puts it into evaluation mode. It takes no
    `MemoryBank`.

    It gets the embeddings as they are passed to the loss. Losses and miners of that library L2-normalize them
    inside, by default: give each the distance `LpDistance` with normalize_embeddings=False.

    Args:
        settings, named: The arguments of `MDR`.
        level_weight: At least 0; the default, 0, leaves out the penalty on the levels.
    """

    def __init__(self, *settings: Any, level_weight: float = 0.0, **named: Any) -> None:
        super().__init__()
        self.mdr = MDR(*settings, **named)
        self.level_weight = checks.real(level_weight, "level_weight", 0)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.mdr(embeddings) + self.level_weight * self.mdr.level_penalty()
