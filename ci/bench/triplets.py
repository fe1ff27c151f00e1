"""Mining and the triplet loss on a large batch, next to pytorch-metric-learning's TripletMarginLoss.

Forward and backward. Both take the same embeddings without normalization, the same margin and the mean over
all triplets, so that over all triplets the two losses are the same number.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bench.measuring import Row, gpu_memory, peak_memory, peer, row, side_by_side
from mdrlib import miners
from mdrlib.losses import TripletLoss

COUNT, PER_CLASS, DIM, MARGIN = 2048, 4, 512, 0.2
SMALLER = 512
PEER = "pytorch-metric-learning"
MINERS = ("all_triplets", "distance_weighted", "hard_negatives", "semihard_negatives")


def batch(count: int = COUNT, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return embeddings (count, DIM) on the unit sphere, and labels (count,) on the CPU."""
    x = torch.randn(count, DIM, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(x, dim=1).to(device), torch.arange(count) // PER_CLASS


def ours(miner: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of mdrlib."""
    return TripletLoss(MARGIN, getattr(miners, miner))


def theirs(miner: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return that of pytorch-metric-learning: all triplets, or one negative per pair from its miner.

    Its DistanceWeightedMiner (Wu et al.) has no fallback: an anchor without a negative in reach gives no
    triplet.
    """
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import DistanceWeightedMiner
    from pytorch_metric_learning.reducers import MeanReducer

    loss = TripletMarginLoss(MARGIN, distance=LpDistance(normalize_embeddings=False), reducer=MeanReducer())
    if miner == "all_triplets":
        return loss
    mined = DistanceWeightedMiner(cutoff=miners.NEAREST, nonzero_loss_cutoff=miners.FARTHEST)
    return lambda x, labels: loss(x, labels, mined(x, labels))


def step(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of one forward and backward pass."""
    leaf = x.detach().requires_grad_()
    value = loss(leaf, labels)
    value.backward()
    return value.detach()


def measure(device: str = "cpu", quick: bool = False, full: bool = False) -> list[Row]:
    """Measure each miner alone, and the loss over all triplets and over distance-weighted negatives.

    The peer's DistanceWeightedMiner takes 8 GB and many seconds at full size: without `full` it is compared
    on smaller batches.
    """
    count, repetitions = (64, 2) if quick else (COUNT, 20)
    x, labels = batch(count, device)
    names = {name: partial(getattr(miners, name), x, labels) for name in MINERS}
    times = side_by_side(names, repetitions, device=device)
    rows = [row(name, _size(count), times[name]) for name in MINERS]
    rows += losses("all_triplets", count, min(repetitions, 10), device)
    if full:
        return rows + losses("distance_weighted", count, 1, device)
    rows += losses("distance_weighted", count, repetitions, device, with_peer=False)
    return rows + losses("distance_weighted", min(count, SMALLER), repetitions, device)


def losses(miner: str, count: int, repetitions: int, device: str, with_peer: bool = True) -> list[Row]:
    """Measure the loss over a miner's triplets, and the peer's where it is wanted and installed."""
    x, labels = batch(count, device)
    candidates = {"mdrlib": ours(miner)}
    if with_peer and peer("pytorch_metric_learning"):
        candidates[PEER] = theirs(miner)
    calls = {name: partial(step, loss, x, labels) for name, loss in candidates.items()}
    times = side_by_side(calls, repetitions, 1, device)
    rows = []
    for name, call in calls.items():
        memory_mb = memory("theirs" if name == PEER else "ours", miner, count, device)
        wanted: Row = {}
        if name != PEER and count == COUNT:
            # A byte for every triple would be 8.6 GB.
            wanted = {"target": "memory under N^3 / 8 bytes", "met": memory_mb < count**3 / 8e6}
        rows.append(
            row(
                f"loss over {miner}, {name}",
                _size(count),
                times[name],
                {} if name == PEER else times,
                memory_mb=memory_mb,
                accuracy={"loss": float(f"{call():.6g}")},
                **wanted,
            )
        )
    if with_peer and len(rows) == 1:
        rows.append(row(f"loss over {miner}, {PEER}", _size(count), note="not installed"))
    return rows


def _size(count: int) -> str:
    return f"{count} x {DIM}, {PER_CLASS} a class"


def memory(whose: str, miner: str, count: int, device: str) -> float:
    """Return the peak memory in MB of one step."""
    if device == "cuda":
        x, labels = batch(count, device)
        loss = {"ours": ours, "theirs": theirs}[whose](miner)
        return gpu_memory(lambda: step(loss, x, labels))
    setup = f"from bench import triplets as b\nloss = b.{whose}({miner!r})\nb.step(loss, *b.batch(64))\n"
    return peak_memory("b.step(loss, x, y)", f"{setup}x, y = b.batch({count})")
