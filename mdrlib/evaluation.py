"""What is measured of a model while it trains: retrieval, and the distances of a few whole classes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from mdrlib.datasets.loader import Photographs
from mdrlib.datasets.transforms import to_float
from mdrlib.diagnostics import NEIGHBOURS, diagnose
from mdrlib.distances import pairwise_distances
from mdrlib.retrieval import evaluate
from mdrlib.trainer import Trainer

Images = Tensor | Photographs
Splits = dict[str, tuple[Images, Tensor]]
Measured = tuple[dict[str, float], dict[str, Tensor]]
DIAGNOSED = 4000  # images, of whole classes, of which the embeddings are diagnosed
EDGES = torch.linspace(-6, 6, 121)  # of histograms; the end bins also hold what lies beyond


@torch.no_grad()
def embed(model: nn.Module, images: Tensor | Iterable[Tensor], batch_size: int = 64) -> Tensor:
    """Embed images in eval mode: (N, D) on the model's device.

    Args:
        model: Images float32 (B, C, H, W) in [0, 1] -> embeddings (B, D). Its mode is restored.
        images: uint8 (N, C, H, W), or an iterable of such batches.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = images.split(batch_size) if isinstance(images, Tensor) else images
    x = torch.cat([model(to_float(part.to(device, non_blocking=True))) for part in parts])
    model.train(was_training)
    return x


def distance_histograms(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count z = (d - mean) / std of pairs i < j between EDGES: (120,) of positive and of negative ones."""
    i, j = torch.triu_indices(len(labels), len(labels), offset=1)
    d = pairwise_distances(embeddings)[i, j]
    z = ((d - d.mean()) / d.std().clamp_min(1e-12)).clamp(EDGES[0], EDGES[-1])
    same = labels[i] == labels[j]
    return tuple(torch.from_numpy(np.histogram(part, EDGES.numpy())[0]) for part in (z[same], z[~same]))


def whole_classes(labels: Tensor, limit: int = 800) -> Tensor:
    """Indices of the images of every class, or of evenly spaced classes to have about `limit` images."""
    classes = labels.unique()  # those held out for validation have gaps
    wanted = min(max(2, round(len(classes) * (limit / len(labels)))), len(classes))
    chosen = classes[torch.linspace(0, len(classes) - 1, wanted).round().long()]
    return torch.isin(labels, chosen).nonzero()[:, 0]


def measure(
    model: nn.Module, splits: Splits, ks: Sequence[int] = (1, 2, 4, 8), features: bool = False
) -> Measured:
    """Measure retrieval and distances.

    Args:
        splits: Images (N, ...) and labels (N,) of "test" and, optionally, "train", "validation", "gallery".
            "test" is searched in "gallery" if there is one, else in itself; "validation" in itself.
        features: Also measure the retrieval of "test" by the features in front of the model's head, as they
            are and with unit length, from the same passes: "features_recall@1", "features_l2_recall@1".

    Returns:
        Metrics: "recall@1" and others of `evaluate`; "validation_recall@1" and others of held-out classes;
        "train_recall@1" and "train_map@r" of `whole_classes` of the training images, searched among
        themselves; and what `diagnose` returns for the test embeddings. Arrays: `distance_histograms` of
        `whole_classes`, by names such as "test_positive", and each test class's metrics as "class_map@r".
    """
    gallery, gallery_features = (None, None), None
    if "gallery" in splits:
        x, gallery_features = _embedded(model, splits["gallery"][0], features)
        gallery = x, splits["gallery"][1]
    metrics, arrays = {}, {}
    for split in [split for split in splits if split != "gallery"]:
        images, labels = splits[split]
        chosen = whole_classes(labels)
        if split == "train":
            x = embed(model, images[chosen])
            found = evaluate(x, labels[chosen], ks=(1,))
            metrics |= {f"train_{name}": found[name] for name in ("recall@1", "map@r")}
        else:
            x, own_features = _embedded(model, images, features and split == "test")
            searched, prefix = (gallery, "") if split == "test" else ((None, None), f"{split}_")
            found = evaluate(x, labels, *searched, ks=ks, per_class=True)
            of_classes = found.pop("per_class")
            metrics |= {prefix + name: v for name, v in found.items()}
            if own_features is not None:
                metrics |= _of_features(own_features, labels, gallery_features, gallery[1], ks)
            if split == "test":
                arrays |= {f"class_{name}": values.cpu() for name, values in of_classes.items()}
                some = whole_classes(labels, DIAGNOSED)
                if len(some) > NEIGHBOURS + 1:
                    metrics |= diagnose(x[some.to(x.device)], labels[some])
            x = x[chosen.to(x.device)]
        positive, negative = distance_histograms(x.cpu(), labels[chosen])
        arrays |= {f"{split}_positive": positive, f"{split}_negative": negative}
    return metrics, arrays


def _embedded(model: nn.Module, images: Images, features: bool) -> tuple[Tensor, Tensor | None]:
    """Embeddings, and from the same pass the features in front of the head if wanted."""
    kept: list[Tensor] = []
    if not features:
        return embed(model, images), None
    hook = model.backbone.register_forward_hook(lambda module, inputs, output: kept.append(output.float()))
    try:
        return embed(model, images), torch.cat(kept)
    finally:
        hook.remove()


def _of_features(
    query: Tensor, labels: Tensor, gallery: Tensor | None, gallery_labels: Tensor | None, ks: Sequence[int]
) -> dict[str, float]:
    """Retrieval by features as they are, and by their directions."""
    metrics = {}
    for prefix in ("features", "features_l2"):
        found = evaluate(query, labels, gallery, gallery_labels, ks=ks)
        metrics |= {f"{prefix}_{name}": value for name, value in found.items()}
        query, gallery = unit_length(query), None if gallery is None else unit_length(gallery)
    return metrics


class History:
    """The evaluations of a run, and the weights where the metric `keep_best` was largest."""

    def __init__(self, evaluate: Callable[[nn.Module], Measured], keep_best: str | None = None) -> None:
        self.evaluate, self.keep_best = evaluate, keep_best
        self.rows: list[dict[str, float | int | None]] = []
        self.arrays: list[dict[str, Tensor]] = []
        self.best, self.best_weights = -1, {}  # index of the row, the last one without keep_best

    def add(self, trainer: Trainer, **more: float | None) -> None:
        """Evaluate now: a row of `more`, metrics, means since the row before, the last batch's MDR.

        FloatingPointError names what of it, or of the network, is not finite; then nothing is added.
        """
        row = _state_of(trainer) | more
        _check_finite(row | trainer.model.state_dict(), trainer.iteration)
        metrics, arrays = self.evaluate(trainer.model)
        _check_finite(metrics, trainer.iteration)
        self.rows.append(row | metrics)
        self.arrays.append(arrays)
        key = self.keep_best
        if key and (self.best < 0 or metrics[key] > self.rows[self.best][key]):
            self.best = len(self.rows) - 1
            self.best_weights = {k: v.detach().clone() for k, v in trainer.model.state_dict().items()}

    def select(self, model: nn.Module) -> dict[str, float | int | None]:
        """Move the best weights, where they are kept, into `model`; return the row of its weights."""
        if self.best_weights:
            model.load_state_dict(self.best_weights)
            self.best_weights = {}
        return self.rows[self.best]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        state = {"history": self.rows, "snapshots": self.arrays}
        return state | {"best": self.best, "best_weights": self.best_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.rows, self.arrays = state["history"], state["snapshots"]
        self.best, self.best_weights = state["best"], state["best_weights"]


def _check_finite(values: Mapping[str, Any], iteration: int) -> None:
    for name, value in values.items():
        if value is not None and not torch.as_tensor(value).isfinite().all():
            got = "NaN or infinite in part" if isinstance(value, Tensor) else value
            raise FloatingPointError(f"{name} is {got} at iteration {iteration}: lower lr or MDR's weights")


def _state_of(trainer: Trainer) -> dict[str, float | int | None]:
    trained, mdr = trainer.since > 0, trainer.mdr
    loss, regularizer = trainer.means()
    seen = trainer.iteration * len(trainer.embeddings) if trained else 0
    row = {"iteration": trainer.iteration, "seconds": round(trainer.seconds, 3)}
    row["images_per_second"] = round(seen / trainer.training_seconds, 1) if trained else None
    row |= {"lr": trainer.optimizer.param_groups[0]["lr"], "loss": loss if trained else None}
    if mdr is None:
        return row
    of_mdr = {"regularizer": regularizer, "running_mean": mdr.running_mean.item()}
    of_mdr["running_std"] = mdr.running_std.item()
    row |= of_mdr if trained else dict.fromkeys(of_mdr)
    row |= {f"level_{k}": level for k, level in enumerate(mdr.levels.tolist())}
    if trained:
        nearest = mdr.assign(trainer.embeddings)
        counts = torch.bincount(nearest[nearest >= 0], minlength=len(mdr.levels))
        row |= {f"occupancy_{k}": share for k, share in enumerate((counts / counts.sum()).tolist())}
    return row
