"""Measurements of a model during training: retrieval, and the distances of a few whole classes."""

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
    """Embed images in evaluation mode.

    Args:
        model: Images float32 (B, C, H, W) in [0, 1] -> embeddings (B, D). Its mode is restored.
        images: uint8 (N, C, H, W), or an iterable of such batches.

    Returns:
        Embeddings (N, D) on the model's device.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = images.split(batch_size) if isinstance(images, Tensor) else images
    x = torch.cat([model(to_float(part.to(device, non_blocking=True))) for part in parts])
    model.train(was_training)
    return x


def distance_histograms(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count z = (d - mean) / std of pairs i < j in bins of EDGES: positive (120,), negative pairs (120,)."""
    i, j = torch.triu_indices(len(labels), len(labels), offset=1)
    d = pairwise_distances(embeddings)[i, j]
    z = ((d - d.mean()) / d.std().clamp_min(1e-12)).clamp(EDGES[0], EDGES[-1])
    same = labels[i] == labels[j]
    return tuple(torch.from_numpy(np.histogram(part, EDGES.numpy())[0]) for part in (z[same], z[~same]))


def whole_classes(labels: Tensor, limit: int = 800) -> Tensor:
    """Return the indices of all images, or of evenly spaced whole classes with about `limit` images."""
    classes = labels.unique()  # those held out for validation have gaps
    wanted = min(max(2, round(len(classes) * (limit / len(labels)))), len(classes))
    chosen = classes[torch.linspace(0, len(classes) - 1, wanted).round().long()]
    return torch.isin(labels, chosen).nonzero()[:, 0]


def measure(
    model: nn.Module, splits: Splits, ks: Sequence[int] = (1, 2, 4, 8), features: bool = False
) -> Measured:
    """Measure the retrieval metrics and the distances of a model.

    Args:
        splits: Images (N, ...) and labels (N,) of "test" and, optionally, "train", "validation", "gallery".
            "test" is searched in "gallery" if there is one, else in itself; "validation" in itself.
        ks: The K of Recall@K.
        features: Also search by the features before the model's head, raw and with unit length:
            "features_recall@1", "features_l2_recall@1" and others.

    Returns:
        Metrics: those of `evaluate` and `diagnose` for "test"; "validation_recall@1" and others; and
        "train_recall@1" and "train_map@r" of `whole_classes`, searched among themselves. Arrays:
        `distance_histograms` of `whole_classes`, as "test_positive"; metrics of classes, as "class_map@r".
    """
    gallery = _spaces(model, splits["gallery"][0], features) if "gallery" in splits else {}
    metrics, arrays = {}, {}
    for split in [split for split in splits if split != "gallery"]:
        images, labels = splits[split]
        chosen = whole_classes(labels)
        if split == "train":
            x = embed(model, images[chosen])
            found = evaluate(x, labels[chosen], ks=(1,))
            metrics |= {f"train_{name}": found[name] for name in ("recall@1", "map@r")}
        else:
            spaces = _spaces(model, images, features and split == "test")
            prefix = "" if split == "test" else f"{split}_"
            for name, x in spaces.items():
                searched = (gallery[name], splits["gallery"][1]) if gallery and split == "test" else ()
                found = evaluate(x, labels, *searched, ks=ks, per_class=True)
                of_classes = found.pop("per_class")
                metrics |= {f"{prefix}{name}{metric}": value for metric, value in found.items()}
            if split == "test":
                arrays |= {f"class_{name}": values.cpu() for name, values in of_classes.items()}
                some = whole_classes(labels, DIAGNOSED)
                if len(some) > NEIGHBOURS + 1:
                    metrics |= diagnose(x[some.to(x.device)], labels[some])
            x = x[chosen.to(x.device)]
        positive, negative = distance_histograms(x.cpu(), labels[chosen])
        arrays |= {f"{split}_positive": positive, f"{split}_negative": negative}
    return metrics, arrays


def _spaces(model: nn.Module, images: Images, features: bool) -> dict[str, Tensor]:
    """Return embeddings as "", the last entry, and on request the features before the head, of one pass."""
    if not features:
        return {"": embed(model, images)}
    kept: list[Tensor] = []
    hook = model.backbone.register_forward_hook(lambda module, inputs, output: kept.append(output.float()))
    x = embed(model, images)
    hook.remove()
    plain = torch.cat(kept)
    return {"features_": plain, "features_l2_": unit_length(plain), "": x}


class History:
    """The evaluations of a run, and the weights of the one with the largest metric `keep_best`."""

    def __init__(self, evaluate: Callable[[nn.Module], Measured], keep_best: str | None = None) -> None:
        self.evaluate, self.keep_best = evaluate, keep_best
        self.rows: list[dict[str, float | int | None]] = []
        self.arrays: list[dict[str, Tensor]] = []
        self.best, self.best_weights = -1, {}  # index of the row, the last one without keep_best

    def add(self, trainer: Trainer, **more: float | None) -> None:
        """Evaluate and append a row: `more`, metrics, means since the last row, and MDR on the last batch.

        Raises:
            FloatingPointError: A value of the row or of the network is not finite. Nothing is appended.
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
        """Load the best weights into `model`, if they were kept, and return the row of its weights."""
        if self.best_weights:
            model.load_state_dict(self.best_weights)
            self.best_weights = {}
        return self.rows[self.best]

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` takes."""
        state = {"history": self.rows, "snapshots": self.arrays}
        return state | {"best": self.best, "best_weights": self.best_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.rows, self.arrays = state["history"], state["snapshots"]
        self.best, self.best_weights = state["best"], state["best_weights"]


def _check_finite(values: Mapping[str, Any], iteration: int) -> None:
    for name, value in values.items():
        if value is not None and not torch.as_tensor(value).isfinite().all():
            got = "partly NaN or infinite" if isinstance(value, Tensor) else value
            advice = "lower lr, mdr_weight or level_weight"
            raise FloatingPointError(f"{name} is {got} at iteration {iteration}: {advice}")


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
