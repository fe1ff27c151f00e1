"""Batches of P classes with K images each, and labels with classes held out, left out or replaced."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from mdrlib import distributed


class PKBatchSampler(Sampler[list[int]]):
    """Draw batches of batch_size indices: batch_size / per_class classes, per_class images of each.

    Images repeat only where a class has fewer than per_class. If batch_size is not a multiple of per_class,
    one more class fills the batch, as in the authors' 256 with 3 per class. Each loop is another epoch. Batch
    t, counted over all epochs, depends on (labels, seed, t) alone.

    Args:
        labels: (N,) integers.
        batch_size: Number of images of all ranks; the attribute `batch_size` is one rank's share, in whole
            classes.
        per_class: Number of images of each class.
        iterations: Batches in an epoch; by default N / batch_size, rounded up.
        rank, world_size: By default those of torch.distributed when a batch is drawn. Pass 0 and 1 if other
            code, such as accelerate, divides batches among processes.

    Raises:
        ValueError: There are too few classes, or ranks cannot share a batch in whole classes.
    """

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        batch_size: int,
        per_class: int,
        iterations: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        labels = torch.as_tensor(labels).cpu()
        self.total, self.per_class, self.seed = batch_size, per_class, seed
        self.rank, self.world_size = rank, world_size
        self.iterations = math.ceil(len(labels) / batch_size) if iterations is None else iterations
        self.first = self.used = 0  # over all epochs: the batch that the next loop begins with; those used
        self.place()  # refuses ranks that cannot share a batch
        self.wanted = math.ceil(batch_size / per_class)  # classes in a batch
        sizes = labels.unique(return_counts=True)[1].tolist()
        self.members = [part.numpy() for part in labels.argsort(stable=True).split(sizes)]  # of each class
        if len(self.members) < self.wanted:
            needs = f"{batch_size} images with {per_class} per class need {self.wanted} classes"
            raise ValueError(f"{needs}, there are {len(self.members)}: use a smaller batch_size")

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[list[int]]:
        if self.iterations:
            self.used = self.first
            self.first += self.iterations - self.first % self.iterations
            yield from map(self.batch, range(self.used, self.first))

    @property
    def batch_size(self) -> int:
        return self.total // self.place()[1]

    def place(self) -> tuple[int, int]:
        """Return rank and world size; raise ValueError if such ranks cannot share a batch."""
        rank = distributed.rank() if self.rank is None else self.rank
        size = distributed.world_size() if self.world_size is None else self.world_size
        if not 0 <= rank < size:
            raise ValueError(f"rank must be from 0 to world_size - 1, got {rank} of {size}")
        if size > 1 and self.total % (self.per_class * size):
            given = f"got {self.total} and {self.per_class} x {size}"
            raise ValueError(f"batch_size must be a multiple of per_class x world_size, {given}")
        return rank, size

    def batch(self, t: int) -> list[int]:
        """Return this rank's share of batch t, from 0, counted over all epochs."""
        rank, size = self.place()
        share = self.total // size
        return self.whole(t)[rank * share : (rank + 1) * share]

    def whole(self, t: int) -> list[int]:
        """Return batch t of all ranks together.

        t counts over all epochs, unlike the position in a loop over the sampler. For the labels of a gathered
        batch use `distributed.gather(labels[indices])` with the indices that the loop gives.
        """
        random = np.random.default_rng((self.seed, t))
        classes = random.choice(len(self.members), self.wanted, replace=False)
        # resize cuts a permutation that is too long and repeats one that is too short.
        chosen = [np.resize(random.permutation(self.members[c]), self.per_class) for c in classes]
        return np.concatenate(chosen)[: self.total].tolist()

    def step(self) -> None:
        """Count one more batch as used: call it once for each, if you save the state of the sampler.

        Drawing does not count, because workers of a DataLoader draw batches long before their use.
        """
        self.used += 1

    def set_epoch(self, epoch: int) -> None:
        """Make the next loop draw this epoch, counted from 0.

        A position loaded in this very epoch stays, one in another epoch is dropped. So checkpoints at the
        ends of epochs need this alone, no `step` and no state.
        """
        if epoch != self.first // self.iterations:
            self.load_state_dict({"epoch": epoch, "position": 0})

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that `step` has counted."""
        epoch, position = divmod(self.used, self.iterations)
        return {"epoch": epoch, "position": position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next loop begin with the batch after the used ones."""
        self.first = self.used = state["epoch"] * self.iterations + state["position"]


def split_classes(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of images of the classes kept, and of a random `share` of classes held out.

    Args:
        labels: (N,) integers 0 .. C - 1.
        share: Share of the classes to hold out, in [0, 1); 0 holds out none.
        seed: Another seed holds out other classes.

    Raises:
        ValueError: One of the two parts would have fewer than 2 classes.
    """
    count = int(labels.max()) + 1
    held = round(share * count)
    if share and not 2 <= held <= count - 2:
        raise ValueError(f"validation={share} holds out {held} of {count} classes: each part needs 2")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    out = torch.isin(labels, order[:held])
    return (~out).nonzero()[:, 0], out.nonzero()[:, 0]


def split_group(groups: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the indices of images outside a coarse class (alphabet) and of those in it.

    Args:
        groups: (N,) the coarse class of each image.
        number: Number of the coarse class, from 0, in the sorted order of those of these images.

    Raises:
        ValueError: There is no such coarse class, or only this one.
    """
    there = groups.unique()
    if not (number < len(there) and len(there) > 1):
        raise ValueError(f"held_out_group must be below the {len(there)} coarse classes, got {number}")
    out = groups == there[number]
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
