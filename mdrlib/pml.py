"""MDR and pytorch-metric-learning, in both directions: its losses beside MDR, MDR as its regularizer.

Its losses need the extra `pml`. Nothing is L2-normalized in silence: the losses of distances get a Euclidean
distance that takes embeddings as they come, in place of that library's default, which normalizes them. The
losses of cosines (multi-similarity, Proxy-NCA, Proxy-Anchor) look at directions alone, as they are published.
"""

from collections.abc import Callable, Sequence

from torch import Generator, Tensor, nn

from mdrlib.mdr import MDR
from mdrlib.miners import Triplets, distance_weighted

# Sharpness of Proxy-NCA's softmax over squared distances on the unit sphere: the temperature 1/9 of Teh et
# al., "ProxyNCA++", ECCV 2020. With that library's default of 1 no proxy can win by much.
PROXY_NCA_SCALE = 9


class MinedLoss(nn.Module):
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
    """The loss `name` as a module called with embeddings (N, dim) and labels (N,), which returns a scalar.

    Of Euclidean distances: "contrastive" (positives at 0, negatives beyond pair_margin; each a mean over the
    pairs that are not there yet), "margin" (Wu et al., ICCV 2017: positives within pair_margin - margin,
    negatives beyond pair_margin + margin, over the triplets of `miner`), "lifted-structure" (Oh Song et al.,
    CVPR 2016: negatives beyond pair_margin). With the head "mean-distance" a distance of 1 is the batch's
    mean.
    Of cosines, with their published constants: "multi-similarity" (alpha 2, beta 50, base 0.5), "proxy-nca"
    and "proxy-anchor" (alpha 32, margin 0.1), whose proxies, one a class of 0 .. classes - 1, are parameters.
    Raises ValueError for another name, ImportError without pytorch-metric-learning.
    """
    try:
        from pytorch_metric_learning import distances, losses
    except ImportError as error:
        raise ImportError(
            "losses other than the triplet loss need pytorch-metric-learning: pip install mdrlib[pml]"
        ) from error
    euclidean = distances.LpDistance(normalize_embeddings=False)
    if name == "contrastive":
        return losses.ContrastiveLoss(pos_margin=0, neg_margin=pair_margin, distance=euclidean)
    if name == "margin":
        return MinedLoss(losses.MarginLoss(margin, beta=pair_margin, distance=euclidean), miner, generator)
    if name == "lifted-structure":
        return losses.LiftedStructureLoss(neg_margin=pair_margin, pos_margin=0, distance=euclidean)
    if name == "multi-similarity":
        return losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5, distance=distances.CosineSimilarity())
    if name == "proxy-nca":
        squared = distances.LpDistance(normalize_embeddings=True, p=2, power=2)  # 2 - 2 cosine
        return losses.ProxyNCALoss(classes, dim, softmax_scale=PROXY_NCA_SCALE, distance=squared)
    if name == "proxy-anchor":
        return losses.ProxyAnchorLoss(classes, dim, 0.1, 32, distance=distances.CosineSimilarity())
    raise ValueError(f"no loss {name!r} is taken from pytorch-metric-learning")


class MDRRegularizer(nn.Module):
    """MDR for `embedding_regularizer=` of any loss of pytorch-metric-learning.

    That loss then is loss + embedding_reg_weight (L_MDR + level_weight * sum of squared levels): with the
    paper's lambda as embedding_reg_weight and its nu, level_weight is nu / lambda. Other arguments: those of
    `MDR`, which is its attribute `mdr`. Give the optimizer the loss's parameters: the levels are among them.
    The regularizer sees the embeddings as they are given to the loss, whatever the loss's own distance does;
    do not L2-normalize them before, and give the loss a distance with normalize_embeddings=False.
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
