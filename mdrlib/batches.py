"""What training and evaluation are fed: images in memory, or photographs read from disk meanwhile."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from mdrlib.datasets import PKBatchSampler
from mdrlib.datasets.files import ImageFiles
from mdrlib.datasets.loader import eval_batches, train_batches
from mdrlib.datasets.transforms import random_affine, to_float

Batches = Iterator[tuple[Tensor, Tensor]]


def in_memory(
    images: Tensor,
    labels: Tensor,
    sampler: PKBatchSampler,
    generator: Generator,
    augment: bool,
    start: int = 0,
) -> Batches:
    """Batches float32 (B, C, H, W) in [0, 1] with their labels (B,): start, start + 1, ... of `sampler`.

    Of several processes each gets the images of its rank and the labels of all: B / world_size and B.

    images uint8 (N, C, H, W) on the device where they stay; generator, on the same, draws the changes of
    `random_affine` if augment. labels (N,) on the CPU, where the miners look at them: see `mdrlib.miners`.
    """
    for t in range(start, len(sampler)):
        index = torch.tensor(sampler.batch(t))
        labels_of = labels[sampler.whole(t)]
        if images.is_cuda:  # from pinned memory, or the CPU waits for the copy
            index = index.pin_memory().to(images.device, non_blocking=True)
        batch = to_float(images[index])
        if augment:
            b = len(batch)
            batch = random_affine(batch, generator, first=sampler.rank * b, of=sampler.world_size * b)
        yield batch, labels_of


@dataclass(frozen=True)
class Photographs:
    """Some images of a data set on disk, read as they are needed.

    indices (N,): which of `files`. size: pixels of a side. workers: processes that read; 0 for this one.
    cache: keep decoded images on disk. device: where batches go.
    Iterating gives batches uint8 (b, 3, size, size) in order; indexing with (M,) or a slice those images.
    """

    files: ImageFiles
    indices: Tensor
    size: int
    workers: int
    cache: bool
    device: torch.device
    batch_size: int = 128

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: Tensor | slice) -> "Photographs":
        return replace(self, indices=self.indices[chosen])

    def __iter__(self) -> Iterator[Tensor]:
        yield from eval_batches(self.files, self.indices, self.batch_size, **self._reading())

    def training(
        self,
        labels: Tensor,
        sampler: PKBatchSampler,
        seed: int,
        augment: bool = True,
        spent: list[float] | None = None,
        start: int = 0,
    ) -> Batches:
        """Batches float32 (B, 3, size, size) in [0, 1] with their labels, from number start on.

        The rest is as in `train_batches`.
        """
        sampler.position = start
        options = self._reading() | {"seed": seed, "augment": augment, "spent": spent}
        for images, batch_labels in train_batches(self.files, self.indices, labels, sampler, **options):
            yield to_float(images.to(self.device, non_blocking=True)), batch_labels

    def _reading(self) -> dict:
        return {
            "size": self.size,
            "workers": self.workers,
            "cache": self.cache,
            "pin_memory": self.device.type == "cuda",
        }
