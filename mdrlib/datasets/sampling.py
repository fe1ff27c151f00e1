"""Batches of P classes with K images each, and labels with classes held out, left out or noisy."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


class PKBatchSampler:
    """Iterate over lists of batch_size indices: batch_size / per_class classes, per_class images of each.

    The classes of a batch are distinct, and so are the images of a class unless it has fewer than per_class:
    then they repeat. If batch_size is no multiple of per_class, one more class fills the batch, as in the
    authors' 256 with 3 per class. Batch t depends on (labels, seed, t) alone. `position` is the number of
    batches given, where iterating continues; after the end it starts over.

    Args:
        labels: (N,) integers, the class of each image.
        batch_size: Of all ranks together.
        per_class: Images per class, at least 2.
        iterations: The number of batches.
        seed: 0 or more.
        rank: Of this process. A rank gets a contiguous slice of each batch, batch_size / world_size indices.
        world_size: The number of processes that share each batch.

    Raises:
        TypeError: The labels are not integers.
        ValueError: No such batch can be drawn.
    """

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        batch_size: int,
        per_class: int,
        iterations: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        labels = torch.as_tensor(labels).cpu()
        if labels.is_floating_point() or labels.ndim != 1:
            raise TypeError(f"labels must be integers (N,), got {labels.dtype} {tuple(labels.shape)}")
        if min(batch_size, per_class) < 2:
            raise ValueError(f"batch_size and per_class must be at least 2, got {batch_size} and {per_class}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 and below world_size, got {rank} of {world_size}")
        if world_size > 1 and batch_size % (per_class * world_size):
            raise ValueError(
                f"batch_size must be a multiple of per_class x world_size, got {batch_size} and "
                f"{per_class} x {world_size}"
            )
        order = torch.argsort(labels, stable=True).numpy()
        sizes = torch.unique(labels, return_counts=True)[1].numpy()
        self.wanted = math.ceil(batch_size / per_class)  # classes in a batch
        if len(sizes) < self.wanted:
            raise ValueError(
                f"a batch of {batch_size} with {per_class} per class needs {self.wanted} classes, there are "
                f"{len(sizes)}; take a smaller batch_size or a larger per_class"
            )
        self.members = np.split(order, np.cumsum(sizes)[:-1])  # of each class, the indices of its images
        self.batch_size, self.per_class, self.iterations, self.seed = batch_size, per_class, iterations, seed
        self.rank, self.world_size = rank, world_size
        self.position = 0
        self._ended = False

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[list[int]]:
        if self._ended:
            self.position, self._ended = 0, False
        while self.position < self.iterations:
            self.position += 1
            yield self.batch(self.position - 1)
        self._ended = True

    def batch(self, t: int) -> list[int]:
        """Return this rank's share of batch t, whatever the position."""
        share = self.batch_size // self.world_size
        return self.whole(t)[self.rank * share : (self.rank + 1) * share]

    def whole(self, t: int) -> list[int]:
        """Return batch t of all ranks together."""
        random = np.random.default_rng((self.seed, t))
        classes = random.choice(len(self.members), self.wanted, replace=False)
        # resize cuts a permutation that is too long and repeats one that is too short.
        chosen = [np.resize(random.permutation(self.members[c]), self.per_class) for c in classes]
        return np.concatenate(chosen)[: self.batch_size].tolist()

    def state_dict(self) -> dict[str, int]:
        """Return the position and the seed."""
        return {"position": self.position, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from `state`; raise ValueError if it has another seed or lies beyond the last batch."""
        if state["seed"] != self.seed:
            raise ValueError(f"the state has seed {state['seed']}, this sampler has {self.seed}")
        if not 0 <= state["position"] <= self.iterations:
            raise ValueError(f"position must be in 0..{self.iterations}, got {state['position']}")
        self.position, self._ended = state["position"], False


def split_classes(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of images of the classes kept, and of a random `share` of classes held out.

    Raises ValueError if a side that has classes has fewer than two.
    """
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
    noisy = index.clone()
    noisy[wrong] = (index[wrong] + step) % len(classes)
    return classes[noisy]
