"""Miners: functions of one signature that select the triplets of a batch for a loss, without gradient.

Args:
    embeddings: (N, D), floating point.
    labels: (N,), integers. If they are on the CPU, it need not wait for a GPU that holds the embeddings.
    generator: For miners that draw; None uses torch's default generator.

Returns:
    Three int64 vectors (T,) of indices on the embeddings' device, for anchor, positive and negative. All
    miners but `all_triplets` give each ordered pair of one class (anchor, positive) one negative.

Raises:
    TypeError, ValueError: For bad embeddings or labels, or without a positive or a negative pair.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from mdrlib import checks
from mdrlib.distances import pairwise_distances

Triplets = tuple[Tensor, Tensor, Tensor]

NEAREST, FARTHEST = 0.5, 1.4  # of the distances in `distance_weights`
CHUNK = 2**22  # numbers held at once: 16 MB in float32


def positive_pairs(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check a batch; return detached embeddings, all (anchor, positive), and the negatives (N, N) bool."""
    x = checks.embeddings(embeddings, wait=False).detach()
    labels, anchor, positive = _pairs(labels, len(x))
    if labels.device != x.device:
        packed = _sent(torch.cat((labels, anchor, positive)), x.device)  # one copy
        labels, anchor, positive = packed.split((len(x), len(anchor), len(positive)))
    return x, anchor, positive, labels[:, None] != labels


def _pairs(labels: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Check labels; return them as int64 with all (anchor, positive), on their own device."""
    labels = checks.labels(labels, count).long()
    same = labels[:, None] == labels
    anchor, positive = same.fill_diagonal_(False).nonzero(as_tuple=True)
    if len(anchor) == 0:
        raise ValueError(f"no class has two members among these {count} labels: use PKBatchSampler")
    if len(anchor) == count * (count - 1):
        raise ValueError(f"all {count} labels are equal: a triplet needs a negative of another class")
    return labels, anchor, positive


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device; from pinned memory, or the CPU would wait for a GPU."""
    if device.type == "cuda" and not values.is_cuda:
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _draw(weights: Tensor, rows: Tensor, generator: Generator | None) -> Tensor:
    """Draw a column for each of `rows` (P,), with the probabilities of that row of weights (N, N) >= 0."""
    if generator is not None and checks.recomputing():
        raise RuntimeError("a checkpoint cannot repeat a generator's draws: use generator=None")
    # The inverse of the cumulative weights, all rows end to end: row i spans i to i + 1.
    count = weights.shape[1]
    if weights.is_cuda:  # there cumsum has no fixed order
        cumulative = weights.double() @ weights.new_ones(count, count, dtype=torch.float64).triu()
    else:
        cumulative = weights.double().cumsum(dim=1)
    cumulative = cumulative / cumulative[:, -1:] + torch.arange(len(weights), device=weights.device)[:, None]
    device = weights.device if generator is None else generator.device  # a generator draws on its own
    # The draw is float32: row + draw in float64 keeps all its digits. A column without weight spans nothing,
    # so the first sum beyond the draw is never its own.
    drawn = _sent(torch.rand(len(rows), generator=generator, device=device), weights.device)
    where = rows + drawn.double()
    found = torch.searchsorted(cumulative.flatten(), where, right=True) - rows * count
    return found.clamp(0, count - 1)  # only NaN needs it


def all_triplets(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
    """Return every (anchor, positive, negative) of the batch."""
    x = checks.embeddings(embeddings, wait=False)
    labels, anchor, positive = _pairs(labels, len(x))
    pair, negative = (labels[anchor, None] != labels).nonzero(as_tuple=True)
    return tuple(_sent(part, x.device) for part in (anchor[pair], positive[pair], negative))


def random_negatives(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
    """Draw one of the negatives, all equally likely."""
    _, anchor, positive, negatives = positive_pairs(embeddings, labels)
    return anchor, positive, _draw(negatives, anchor, generator)


def hard_negatives(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
    """Return the negative nearest to the anchor."""
    x, anchor, positive, negatives = positive_pairs(embeddings, labels)
    nearest = pairwise_distances(x).masked_fill(~negatives, torch.inf).argmin(dim=1)
    return anchor, positive, nearest[anchor]


def semihard_negatives(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
    """Return the nearest negative beyond the positive, else the farthest (Schroff et al., CVPR 2015)."""
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
    """Return the probability of drawing column j as the negative of row i.

    On the unit sphere of D dimensions a pair's distance d has density q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2):
    the weight 1/q makes all distances equally likely (Wu et al., "Sampling Matters in Deep Embedding
    Learning", ICCV 2017). d is raised to 0.5; negatives at 1.4 or more, which no margin reaches, get no
    weight. A row without weight is uniform over its negatives. Embeddings (N, D) are normalized for this
    purpose only; negatives (N, N) is True at least once in a row.
    """
    embeddings = checks.embeddings(embeddings, wait=False)
    dimension = embeddings.shape[1]
    d = pairwise_distances(normalize(embeddings, dim=1)).clamp_min(NEAREST)
    reachable = negatives & (d < FARTHEST)
    # The same number for all out of reach: no logarithm of 0, and a row with nothing in reach is uniform.
    near = torch.where(reachable, d, 1.0)
    log_weight = (2 - dimension) * near.log() - (dimension - 3) / 2 * (1 - near.square() / 4).log()
    empty = ~reachable.any(dim=1, keepdim=True)
    # softmax subtracts each row's largest value among the allowed ones, so no row underflows to zeros.
    return log_weight.masked_fill(~torch.where(empty, negatives, reachable), -torch.inf).softmax(dim=1)


def distance_weighted(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
    """Draw a negative with a weight inverse to the density of its distance: see `distance_weights`."""
    x, anchor, positive, negatives = positive_pairs(embeddings, labels)
    return anchor, positive, _draw(distance_weights(x, negatives), anchor, generator)


def switched(miner: Callable[..., Triplets], share: float) -> Callable[..., Triplets]:
    """Return a miner that turns a random `share` of triplets (a, p, n) into (a, a, p), which push p away.

    This keeps classes from collapsing: the rho-regularization of Roth et al., "Revisiting Training Strategies
    and Generalization Performance in Deep Metric Learning", ICML 2020, called R-Margin with the margin loss.
    """

    def mine(embeddings: Tensor, labels: Tensor, generator: Generator | None = None) -> Triplets:
        anchor, positive, negative = miner(embeddings, labels, generator=generator)
        where = generator.device if generator else anchor.device
        switch = (torch.rand(len(anchor), generator=generator, device=where) < share).to(anchor.device)
        return anchor, torch.where(switch, anchor, positive), torch.where(switch, positive, negative)

    return mine
