"""What is measured of a model: retrieval, and the distances of a few whole classes."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mdrlib import distributed
from mdrlib.datasets.loader import Photographs
from mdrlib.datasets.transforms import to_float
from mdrlib.distances import pairwise_distances
from mdrlib.retrieval import evaluate

# Bin edges for normalized distances; what lies beyond is counted in the end bins.
EDGES = torch.linspace(-6, 6, 121)
BATCH = 64  # images embedded at once
WATCHED_IMAGES = 800  # images of a split whose distances are counted, by whole classes


@torch.no_grad()
def embed(model: nn.Module, images: Tensor | Iterable[Tensor], batch_size: int = BATCH) -> Tensor:
    """Embeddings (N, D) float32, computed in eval mode on the model's device.

    images: uint8 (N, C, H, W), or batches of such, as `batches.Photographs` gives them.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = images.split(batch_size) if isinstance(images, Tensor) else images
    x = torch.cat([model(to_float(part.to(device, non_blocking=True))) for part in parts])
    model.train(was_training)
    return x


def embed_all(model: nn.Module, images: Tensor | Photographs) -> Tensor:
    """As `embed`, of several processes each its share of the batches: all embeddings, in order, in each."""
    if distributed.world_size() == 1:
        return embed(model, images)
    sizes = distributed.shares(len(images), getattr(images, "batch_size", BATCH))
    mine, start = sizes[distributed.rank()], sum(sizes[: distributed.rank()])
    # A process without a share embeds an image all the same, to know the shape of nothing.
    part = images[start : start + mine] if mine else images[:1]
    return distributed.gather_shares(embed(model, part)[:mine], sizes)


def distance_histograms(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Counts (B,) int64 of the normalized distances of pairs i < j in the bins of EDGES.

    z = (d - mean) / std with the mean and standard deviation of these very pairs. Returns the counts of the
    pairs of one class and of those of two classes.
    """
    i, j = torch.triu_indices(len(labels), len(labels), offset=1)
    d = pairwise_distances(embeddings)[i, j]
    z = ((d - d.mean()) / d.std().clamp_min(1e-12)).clamp(EDGES[0], EDGES[-1])
    same = labels[i] == labels[j]
    edges = EDGES.numpy()
    return tuple(torch.from_numpy(np.histogram(part.numpy(), edges)[0]) for part in (z[same], z[~same]))


def whole_classes(labels: Tensor, limit: int = WATCHED_IMAGES) -> Tensor:
    """Indices of the images of every class, or of evenly spaced classes when there are more than `limit`."""
    classes = labels.unique()  # not 0, 1, ...: those held out for validation have gaps
    count = len(classes)
    wanted = max(2, round(count * min(1.0, limit / len(labels))))
    chosen = classes[torch.linspace(0, count - 1, min(wanted, count)).round().long()]
    return torch.isin(labels, chosen).nonzero()[:, 0]


class Evaluation:
    """Called with a model: Recall@K, R-Precision and MAP@R of splits, and their distance histograms.

    splits: name -> (images, labels); images a tensor or `batches.Photographs`, whatever `embed` takes and
    gives a part of itself when indexed. ks: the K of Recall@K.
    "test" is searched in "gallery" where there is one, and every other split in itself; "train" is not
    searched. The metrics of "test" go by their own names, those of another split with its name before:
    "validation_recall@1". Histograms come as "train_positive", "train_negative" and so on.
    """

    def __init__(self, splits: dict[str, tuple], ks: Sequence[int] = (1, 2, 4, 8)) -> None:
        self.splits, self.ks = splits, ks

    def __call__(self, model: nn.Module) -> tuple[dict[str, float], dict[str, Tensor]]:
        watched = {split: whole_classes(labels) for split, (_, labels) in self.splits.items()}
        embedded = {
            split: embed_all(model, images[watched[split]] if split == "train" else images)
            for split, (images, _) in self.splits.items()
        }
        return distributed.from_first(lambda: self._measure(embedded, watched))

    def _measure(
        self, embedded: dict[str, Tensor], watched: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        metrics: dict[str, float] = {}
        histograms: dict[str, Tensor] = {}
        for split, x in embedded.items():
            if split == "gallery":
                continue
            labels, seen = self.splits[split][1], watched[split]
            if split != "train":
                gallery = (None, None)
                if split == "test" and "gallery" in embedded:
                    gallery = (embedded["gallery"], self.splits["gallery"][1])
                prefix = "" if split == "test" else f"{split}_"
                found = evaluate(x, labels, *gallery, ks=self.ks)
                metrics |= {prefix + key: value for key, value in found.items()}
                x = x[seen.to(x.device)]
            positive, negative = distance_histograms(x.cpu(), labels[seen])
            histograms |= {f"{split}_positive": positive, f"{split}_negative": negative}
        return metrics, histograms
