"""Batches for training and evaluation, of images in memory or of photographs that workers read."""

import multiprocessing
import multiprocessing.util
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from mdrlib.datasets.images import ImageFiles, StoredImages
from mdrlib.datasets.preprocessing import Preprocessing, optional
from mdrlib.datasets.sampling import PKBatchSampler
from mdrlib.datasets.transforms import random_affine, to_float

Batches = Iterator[tuple[Tensor, Tensor]]
Order = tuple[int, int, list[int]]  # a batch to read: its number, the number of its first image, the images


def in_memory(
    images: Tensor,
    labels: Tensor,
    sampler: PKBatchSampler,
    generator: Generator,
    augment: bool,
    start: int = 0,
) -> Batches:
    """Iterate over the batches from number `start` on, of images that stay in memory.

    Args:
        images: (N, C, H, W) uint8, on the device of training.
        labels: (N,) int64, on the CPU, where the miners need them.
        sampler: Draws the batches.
        generator: For `random_affine`.
        augment: Change the images by `random_affine`.

    Yields:
        Images (B / world_size, C, H, W) float32 in [0, 1] of this rank, labels (B,) of all ranks.
    """
    rank, b = sampler.place()[0], sampler.batch_size
    for t in range(start, len(sampler)):
        whole = sampler.whole(t)
        index = torch.tensor(whole[rank * b : (rank + 1) * b])
        if images.is_cuda:  # from pinned memory, or the CPU waits for the copy
            index = index.pin_memory().to(images.device, non_blocking=True)
        batch = to_float(images[index])
        if augment:
            batch = random_affine(batch, generator, first=rank * b, of=len(whole))
        yield batch, labels[whole]


@dataclass(frozen=True)
class Photographs:
    """Photographs on disk. Iterating gives batches uint8 (b, 3, image_size, image_size), in order.

    With workers, which are not forked, a script must iterate below `if __name__ == "__main__":`.
    """

    files: ImageFiles
    indices: Tensor  #: (N,) which of `files`
    preprocessing: Preprocessing
    workers: int  #: processes that read; 0 reads in this one
    cache: bool  #: whether to keep stored squares on disk
    device: torch.device  #: where batches of training go
    batch_size: int = 128  #: of the batches in order
    scale: tuple[float, ...] = (0.16, 1.0)  #: of random crops: share of the stored square's area
    ratio: tuple[float, ...] = (0.75, 1.33)  #: of random crops: width over height

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: Tensor | slice) -> "Photographs":
        return replace(self, indices=self.indices[chosen])

    def __iter__(self) -> Iterator[Tensor]:
        orders = [(0, 0, part.tolist()) for part in self.indices.split(self.batch_size)]
        return (images for images, _ in self._read(orders, None))

    def training(
        self,
        labels: Tensor,
        sampler: PKBatchSampler,
        seed: int,
        augment: bool = True,
        spent: list[float] | None = None,
        start: int = 0,
    ) -> Batches:
        """Iterate over batches as `in_memory` does; the sampler draws positions in `indices`.

        `augment` is the authors' recipe: a random crop of each stored square becomes image_size x image_size,
        and half of the crops are mirrored. The draws for image j of batch t, counted over all ranks, depend
        on (seed, t, j) alone. `spent` receives the seconds that each batch took.
        """
        first = sampler.place()[0] * sampler.batch_size
        orders = ((t, first, self.indices[sampler.batch(t)].tolist()) for t in range(start, len(sampler)))
        for t, (images, seconds) in enumerate(self._read(orders, seed if augment else None), start):
            if spent is not None:
                spent.append(seconds)
            yield to_float(images.to(self.device, non_blocking=True)), labels[sampler.whole(t)]

    def _read(self, orders: Iterable[Order], seed: int | None) -> Iterator[tuple[Tensor, float]]:
        for item in DataLoader(
            _Batches(self, seed),
            batch_size=None,  # an item is a batch
            sampler=orders,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=_context() if self.workers else None,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator(),  # a DataLoader draws a seed, from torch's global generator otherwise
        ):
            if isinstance(item, OSError):
                raise item
            yield item


def default_workers() -> int:
    """Return the number of workers for training on a GPU: the usable cores minus one, at most 16."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable - 1, 16)


def image_seed(seed: int, t: int, j: int) -> int:
    """Return the seed, 0 to 2^63 - 1, of torch's generator for the changes of image j of batch t."""
    return int(np.random.SeedSequence((seed, t, j)).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Batches:
    """Whole batches by their orders: uint8 (B, 3, size, size) and the seconds spent, or an OSError."""

    def __init__(self, given: Photographs, seed: int | None) -> None:
        self.images, self.seed = StoredImages(given.files, given.preprocessing, given.cache), seed
        self.size, self.transform = given.preprocessing.image_size, given.preprocessing.middle
        if seed is not None:
            v2 = optional("torchvision.transforms.v2", "vision")
            lanczos = v2.InterpolationMode.LANCZOS
            crop = v2.RandomResizedCrop(self.size, given.scale, given.ratio, interpolation=lanczos)
            self.transform = v2.Compose([crop, v2.RandomHorizontalFlip()])

    def __getitem__(self, order: Order) -> tuple[Tensor, float] | OSError:
        t, first, indices = order
        began = time.perf_counter()
        batch = torch.empty(len(indices), 3, self.size, self.size, dtype=torch.uint8)
        rows = batch.numpy()  # uint8 all the way: a fourth of the bytes of float32
        try:
            # No devices: torch.manual_seed would seed a GPU's generators too.
            with torch.random.fork_rng(devices=[]):
                for j, index in enumerate(indices):
                    image = self.images[index]
                    if self.seed is not None:
                        torch.default_generator.manual_seed(image_seed(self.seed, t, first + j))
                    rows[j] = np.asarray(self.transform(image)).transpose(2, 0, 1)
        except OSError as error:
            return error  # raised by the reader: DataLoader would wrap it in the traceback of the worker
        return batch, time.perf_counter() - began


def _context() -> Any:
    """Return how to start processes: forking this one would copy locks that its other threads hold."""
    if os.name != "posix":
        return multiprocessing.get_context("spawn")
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) > 60:  # sockets in it would have longer paths than systems allow
        tempfile.tempdir = "/tmp"
        multiprocessing.util.get_temp_dir()  # makes the folder of this process's sockets, once
        tempfile.tempdir = usual
    context = multiprocessing.get_context("forkserver")
    # What takes long is imported once. Not mdrlib: the server may find another in the working folder.
    context.set_forkserver_preload(["torch.utils.data", "torchvision.transforms.v2"])
    return context


def _end_with_parent(worker: int) -> None:
    """End a worker with the process that reads: PyTorch's watch their parent, here the fork server."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
