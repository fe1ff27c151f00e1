"""Batches of P classes with K images each, and labels with classes held out, left out or noisy."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(eq=False, repr=False)
class PKBatchSampler:
    """Iterate over lists of batch_size indices: batch_size / per_class classes, per_class images of each.

    The classes of a batch are distinct, and so are the images of a class unless it has fewer than per_class:
    then they repeat. If batch_size is no multiple of per_class, one more class fills the batch, as in the
    authors' 256 with 3 per class. Batch t depends on (labels, seed, t) alone. Too few classes, or ranks that
    cannot share a batch in whole classes, are a ValueError.
    """

    labels: Tensor | Sequence[int]  #: (N,) integers, the class of each image
    batch_size: int  #: of all ranks: each gets a contiguous slice of batch_size / world_size indices
    per_class: int
    iterations: int  #: the number of batches
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        labels, share = torch.as_tensor(self.labels).cpu(), self.per_class * self.world_size
        if self.world_size > 1 and self.batch_size % share:
            given = f"got {self.batch_size} and {self.per_class} x {self.world_size}"
            raise ValueError(f"batch_size must be a multiple of per_class x world_size, {given}")
        order = torch.argsort(labels, stable=True).numpy()
        sizes = torch.unique(labels, return_counts=True)[1].numpy()
        self.wanted = math.ceil(self.batch_size / self.per_class)  # classes in a batch
        if len(sizes) < self.wanted:
            needs = f"{self.batch_size} images with {self.per_class} per class need {self.wanted} classes"
            raise ValueError(f"{needs}, there are {len(sizes)}: take a smaller batch_size")
        self.members = np.split(order, np.cumsum(sizes)[:-1])  # of each class, the indices of its images

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.batch, range(self.iterations))

    def batch(self, t: int) -> list[int]:
        """Return this rank's share of batch t."""
        share = self.batch_size // self.world_size
        return self.whole(t)[self.rank * share : (self.rank + 1) * share]

    def whole(self, t: int) -> list[int]:
        """Return batch t of all ranks together."""
        random = np.random.default_rng((self.seed, t))
        classes = random.choice(len(self.members), self.wanted, replace=False)
        # resize cuts a permutation that is too long and repeats one that is too short.
        chosen = [np.resize(random.permutation(self.members[c]), self.per_class) for c in classes]
        return np.concatenate(chosen)[: self.batch_size].tolist()


def split_classes(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of images of the classes kept, and of a random `share` of classes held out."""
    count = int(labels.max()) + 1
    held = round(share * count)
    if share and not 2 <= held <= count - 2:
        raise ValueError(f"validation={share} of {count} classes leaves {held} held out and {count - held}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    out = torch.isin(labels, order[:held])
    return (~out).nonzero()[:, 0], out.nonzero()[:, 0]


def some_classes(labels: Tensor, count: int, seed: int) -> Tensor:
    """Return the indices of images of `count` random classes; raise ValueError unless 2 or more exist."""
    classes = labels.unique()
    if not 2 <= count <= len(classes):
        raise ValueError(f"train_classes must be from 2 to the {len(classes)} there are, got {count}")
    chosen = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))[:count]]
    return torch.isin(labels, chosen).nonzero()[:, 0]


def noisy_labels(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return labels (N,) with a random `share` in [0, 1] replaced by another class, all equally likely."""
    generator = torch.Generator().manual_seed(seed)
    classes, index = labels.unique(return_inverse=True)
    wrong = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    step = torch.randint(1, len(classes), (len(wrong),), generator=generator)
    index[wrong] = (index[wrong] + step) % len(classes)
    return classes[index]
