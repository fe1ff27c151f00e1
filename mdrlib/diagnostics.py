"""Numbers that describe a space of embeddings, apart from how well it retrieves."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mdrlib import checks
from mdrlib.distances import pairwise_distances
from mdrlib.retrieval import search

NEIGHBOURS = 10  # of the k-occurrence
DIAGNOSTICS = ("effective_rank", "spectral_decay", "intra_inter")
DIAGNOSTICS += ("hub_skewness", "alignment", "uniformity")


def diagnose(x: Tensor, labels: Tensor) -> dict[str, float]:
    """Describe embeddings by six numbers that are not measures of retrieval.

    - ``effective_rank``: exp of the entropy of the singular values divided by their sum (Roy & Vetterli, "The
      effective rank", EUSIPCO 2007): how many directions are in use, 1 to D.
    - ``spectral_decay``: Kullback-Leibler divergence of these shares from equal ones, KL(uniform || shares),
      0 for a flat spectrum: the rho of Roth et al., "Revisiting Training Strategies", ICML 2020. Unlike
      their code, both centre the embeddings first: distances do not depend on the mean.
    - ``intra_inter``: the mean distance within a class, averaged over classes, over the mean distance between
      the means of classes (their pi_ratio, with Euclidean distances).
    - ``hub_skewness``: skewness of the number of times that an embedding is among the 10 nearest of others
      (Radovanovic et al., "Hubs in Space", JMLR 2010): 0 for equal numbers, large with hubs.
    - ``alignment``, ``uniformity``: on the unit sphere, the mean squared distance of positive pairs, and
      log of the mean of exp(-2 d^2) over all pairs (Wang & Isola, ICML 2020). Lower is better for both.

    Args:
        x: Finite embeddings (N, D), N >= 12. The N x N distances are held in memory.
        labels: (N,) integers, with at least two classes and at least one class of two or more images.

    Raises:
        ValueError: There are too few embeddings or classes, or no positive pair.
    """
    x = checks.embeddings(x, at_least=NEIGHBOURS + 2).detach().double().cpu()
    labels = checks.labels(labels, len(x)).cpu()
    if not 2 <= len(labels.unique()) < len(labels):
        raise ValueError(f"labels must have two classes and a positive pair, got {labels.unique().tolist()}")
    values = torch.linalg.svdvals(x - x.mean(0))[: len(x) - 1].clamp_min(torch.finfo(x.dtype).tiny)
    shares = values / values.sum()
    often = torch.bincount(search(x.float(), k=NEIGHBOURS)[1].flatten(), minlength=len(x)).double()
    deviation = often - often.mean()
    spread = deviation.square().mean()
    classes = [x[labels == label] for label in labels.unique()]
    within = torch.stack([_mean_distance(own) for own in classes if len(own) > 1])
    between = _mean_distance(torch.stack([own.mean(0) for own in classes]))
    sq = pairwise_distances(normalize(x, dim=1), squared=True)
    apart = ~torch.eye(len(x), dtype=torch.bool)
    numbers = {
        "effective_rank": torch.special.entr(shares).sum().exp(),
        "spectral_decay": -(shares * len(shares)).log().mean(),
        "intra_inter": within.mean() / between,
        "hub_skewness": deviation.pow(3).mean() / spread.pow(1.5) if spread > 0 else spread,
        "alignment": sq[apart & (labels[:, None] == labels)].mean(),
        "uniformity": sq[apart].mul(-2).exp().mean().log(),
    }
    return {name: float(value) for name, value in numbers.items()}


def _mean_distance(x: Tensor) -> Tensor:
    return pairwise_distances(x).sum() / (len(x) * (len(x) - 1))
