"""The angle between the expected gradients of the triplet loss and of MDR, along training.

For each head, with MDR in the loss and without, and for each seed, a small network is trained on Omniglot. At
some points it is held still, and the angle is estimated by products across further batches: see
`mdrbook.gradients`. Without MDR in the loss, MDR only watches, so that its running statistics exist. At the
end the network is evaluated and its test embeddings are described. Nothing was tuned. Eight minutes on an
idle core; if it is interrupted, the seeds that are complete are kept.
"""

import copy
import math
import time
from typing import Any

import torch
from torch import Generator, Tensor

from bench.measuring import Row
from mdrbook import gradients
from mdrlib import MDR
from mdrlib.datasets import ImageSet, PKBatchSampler, load
from mdrlib.datasets.loader import in_memory
from mdrlib.diagnostics import diagnose
from mdrlib.evaluation import embed, whole_classes
from mdrlib.losses import TripletLoss
from mdrlib.models import build_embedder
from mdrlib.retrieval import evaluate
from mdrlib.trainer import Trainer

ARMS = {  # name -> head, weight of MDR; a heavy one on the sphere makes all distances alike
    "triplet": ("mean-distance", 0.0),
    "triplet+mdr": ("mean-distance", 0.2),
    "triplet+l2": ("l2", 0.0),
    "triplet+l2+mdr": ("l2", 0.02),
}
SETTINGS = {
    "full": {"dataset": "omniglot", "backbone": "tiny", "dim": 128, "batch_size": 64, "per_class": 4,
             "lr": 1e-3, "margin": 0.2, "level_weight": 0.01, "points": [20, 60, 120],
             "batches": 60, "seeds": 5},
    "quick": {"dataset": "glyphs", "backbone": "tiny", "dim": 16, "batch_size": 16, "per_class": 4,
              "lr": 1e-3, "margin": 0.2, "level_weight": 0.01, "points": [1, 3], "batches": 4, "seeds": 1},
}  # fmt: skip


class Watched(TripletLoss):
    """The triplet loss, with MDR's running statistics updated by what passes."""

    def __init__(self, mdr: MDR, *settings: Any, **more: Any) -> None:
        super().__init__(*settings, **more)
        self.mdr = mdr

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            self.mdr(embeddings)
        return super().forward(embeddings, labels)


def one_run(arm: str, seed: int, settings: dict[str, Any], train: ImageSet, test: ImageSet) -> list[Row]:
    """Train, and return a row for each of the points, the last one with metrics."""
    head, weight = ARMS[arm]
    torch.manual_seed(seed)
    network, mdr = build_embedder(settings["backbone"], settings["dim"], normalize=head), MDR()
    random = Generator().manual_seed(seed)
    loss = TripletLoss(settings["margin"], generator=random)
    if not weight:
        loss = Watched(mdr.requires_grad_(False), settings["margin"], generator=random)
    optimizer = torch.optim.Adam([*network.parameters(), *mdr.parameters()], lr=settings["lr"])
    steps = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    weights = {"mdr_weight": weight, "level_weight": settings["level_weight"]}
    trainer = Trainer(network, loss, optimizer, steps, mdr if weight else None, **weights)
    sizes = settings["batch_size"], settings["per_class"]
    rows: list[Row] = []

    def look(trainer: Trainer) -> None:
        if trainer.iteration not in settings["points"]:
            return
        losses = TripletLoss(settings["margin"], generator=apart), still(mdr)
        sampler = PKBatchSampler(train.labels, *sizes, settings["batches"], seed=1000 + seed)
        batches = in_memory(train.images, train.labels, sampler, apart, True)
        found = gradients.angle(*gradients.of_batches(network, losses, batches))
        about = {"arm": arm, "head": head, "mdr_weight": weight, "seed": seed, "iteration": trainer.iteration}
        state = {"running_mean": mdr.running_mean.item(), "running_std": mdr.running_std.item()}
        rows.append(about | as_json(found) | state | {"loss": trainer.means()[0]})

    apart = Generator().manual_seed(1000 + seed)
    sampler = PKBatchSampler(train.labels, *sizes, settings["points"][-1], seed)
    trainer.fit(lambda start: in_memory(train.images, train.labels, sampler, random, True, start), [look])
    rows[-1]["metrics"] = measured(network, train, test)
    return rows


def as_json(found: gradients.Angle) -> Row:
    """Return the numbers with None for NaN, which JSON lacks."""
    plain = {name: list(v) if isinstance(v, tuple) else [v] for name, v in found._asdict().items()}
    numbers = {name: [v if math.isfinite(v) else None for v in values] for name, values in plain.items()}
    return {name: values if len(values) > 1 else values[0] for name, values in numbers.items()}


def still(mdr: MDR) -> gradients.Loss:
    """Return MDR's loss with unchanged statistics and levels."""
    held = copy.deepcopy(mdr).eval()
    return lambda x, labels: held(x)


def measured(network: torch.nn.Module, train: ImageSet, test: ImageSet) -> dict[str, float]:
    """Return retrieval on test and training classes, and diagnostics of the test embeddings."""
    x, some = embed(network, test.images), whole_classes(train.labels)
    seen = evaluate(embed(network, train.images[some]), train.labels[some], ks=(1,))
    found = {f"train_{name}": seen[name] for name in ("recall@1", "map@r")}
    unseen = evaluate(x, test.labels, ks=(1,))
    return found | {name: unseen[name] for name in ("recall@1", "map@r")} | diagnose(x, test.labels)


def record(quick: bool = False) -> dict[str, Any]:
    """Measure, print a table, and return what data/results/bench-gradients.json holds."""
    settings, began = SETTINGS["quick" if quick else "full"], time.process_time()
    train, test = (load(settings["dataset"], split) for split in ("train", "test"))
    complete: list[Row] = []
    try:
        for seed in range(settings["seeds"]):
            rows: list[Row] = []
            for arm in ARMS:
                rows += one_run(arm, seed, settings, train, test)
                print(f"{arm}, seed {seed}: cosine {rows[-1]['cosine']} at the end", flush=True)
            complete += rows
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    data = {part.split: {"images": len(part), "fingerprint": part.fingerprint} for part in (train, test)}
    return {**settings, "data": data, "seconds": round(time.process_time() - began, 1), "rows": complete}
