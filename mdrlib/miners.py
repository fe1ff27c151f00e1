"""Which triplets of a batch a loss looks at.

Every miner is f(embeddings (N, D), labels (N,), generator=None) -> (anchor, positive, negative), three
int64 vectors of equal length on the embeddings' device. All but `all_triplets` give each ordered pair of
one class (anchor, positive) one negative. Nothing here is differentiated, and nothing larger than N x N is
held but the triplets themselves. Each raises TypeError or ValueError for bad embeddings or labels, and
ValueError for a batch without a positive or a negative pair. Labels on the CPU keep the CPU from waiting for
a GPU that holds the embeddings; NaN among these is then not noticed here (`checks.embeddings`).
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from mdrlib import checks
from mdrlib.distances import pairwise_distances

Triplets = tuple[Tensor, Tensor, Tensor]

# Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017: closer pairs weigh as this distance
# does, and farther ones, which a margin no longer reaches, not at all.
NEAREST, FARTHEST = 0.5, 1.4

CHUNK = 2**22  # numbers held at once: 16 MB in float32


def positive_pairs(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Detached embeddings, anchor and positive of every positive pair, and the negatives (N, N) bool.

    The checks of every miner are made here.
    """
    x = checks.embeddings(embeddings, wait=False).detach()
    labels = checks.labels(labels, len(x))
    same = labels[:, None] == labels
    anchor, positive = same.clone().fill_diagonal_(False).nonzero(as_tuple=True)
    if len(anchor) == 0:
        raise ValueError(
            f"no class has two members among these {len(x)} labels: draw batches with PKBatchSampler"
        )
    if len(anchor) == len(x) * (len(x) - 1):
        raise ValueError(f"all {len(x)} labels are equal: a triplet needs a negative of another class")
    return x, anchor.to(x.device), positive.to(x.device), ~same.to(x.device)


def _draw(weights: Tensor, rows: Tensor, generator: Generator | None) -> Tensor:
    """A column for every one of `rows` (P,), by that row's weights (N, N), which are 0 or more.

    By the inverse of the cumulative weights, all rows laid end to end: row i goes from i to i + 1. So each
    row is summed once however many draws it gets. A generator of another device draws there.
    """
    count = weights.shape[1]
    cumulative = weights.double().cumsum(dim=1)
    cumulative = cumulative / cumulative[:, -1:] + torch.arange(len(weights), device=weights.device)[:, None]
    device = weights.device if generator is None else generator.device
    # In float32, whose last step before 1 is far from lost in row + draw; a column without weight spans
    # nothing, and the first sum beyond the draw is never its own.
    where = rows + torch.rand(len(rows), generator=generator, device=device).to(weights.device).double()
    found = torch.searchsorted(cumulative.flatten(), where, right=True) - rows * count
    return found.clamp(0, count - 1)  # only NaN leads elsewhere


def all_triplets(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
    """Every (anchor, positive, negative) of the batch."""
    _, anchor, positive, negatives = positive_pairs(embeddings, labels)
    pair, negative = negatives[anchor].nonzero(as_tuple=True)
    return anchor[pair], positive[pair], negative


def random_negatives(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
    """Any negative, each as likely."""
    _, anchor, positive, negatives = positive_pairs(embeddings, labels)
    return anchor, positive, _draw(negatives, anchor, generator)


def hard_negatives(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
    """The negative nearest to the anchor."""
    x, anchor, positive, negatives = positive_pairs(embeddings, labels)
    nearest = pairwise_distances(x).masked_fill(~negatives, torch.inf).argmin(dim=1)
    return anchor, positive, nearest[anchor]


def semihard_negatives(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
    """The nearest negative that is farther than the positive (Schroff et al., FaceNet, CVPR 2015).

    Where no negative is, the farthest negative, as in the authors' code.
    """
    x, anchor, positive, negatives = positive_pairs(embeddings, labels)
    d = pairwise_distances(x)
    nearest = torch.empty_like(anchor)
    # Some pairs at a time: with few classes there are N^2 of them, each with N candidates.
    for part in torch.arange(len(anchor), device=x.device).split(max(1, CHUNK // len(x))):
        a = anchor[part]
        candidates = d[a].masked_fill(~negatives[a], -torch.inf)
        farther = candidates > d[a, positive[part], None]
        beyond = candidates.masked_fill(~farther, torch.inf).argmin(dim=1)
        nearest[part] = torch.where(farther.any(dim=1), beyond, candidates.argmax(dim=1))
    return anchor, positive, nearest


def distance_weights(embeddings: Tensor, negatives: Tensor) -> Tensor:
    """Probability (N, N) of drawing column j as the negative of row i; rows sum to 1, never NaN.

    Wu et al. (ICCV 2017): on the unit sphere of D dimensions a pair's distance d has density
    q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2); drawing with weight 1/q makes all distances equally likely.
    Embeddings (N, D) are put on the sphere for this only. d is raised to 0.5; negatives at 1.4 or more
    weigh nothing; a row left without weight is uniform over its negatives. negatives: (N, N) bool, one or
    more a row.
    """
    embeddings = checks.embeddings(embeddings, wait=False)
    dimension = embeddings.shape[1]
    d = pairwise_distances(normalize(embeddings, dim=1)).clamp_min(NEAREST)
    reachable = negatives & (d < FARTHEST)
    # Distances beyond the reach are replaced before the logarithm, which has no value at d = 2. By one
    # number, so that a row with nothing in reach comes out uniform.
    near = torch.where(reachable, d, 1.0)
    log_weight = (2 - dimension) * near.log() - (dimension - 3) / 2 * (1 - near.square() / 4).log()
    empty = ~reachable.any(dim=1, keepdim=True)
    # softmax subtracts each row's largest value among the allowed ones, so no row underflows to zeros.
    return log_weight.masked_fill(~torch.where(empty, negatives, reachable), -torch.inf).softmax(dim=1)


def distance_weighted(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
    """A negative drawn with weight inverse to the density of its distance: see `distance_weights`."""
    x, anchor, positive, negatives = positive_pairs(embeddings, labels)
    return anchor, positive, _draw(distance_weights(x, negatives), anchor, generator)
