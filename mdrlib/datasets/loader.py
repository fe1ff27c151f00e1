"""Batches of photographs for training and evaluation, by any number of workers and always the same."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mdrlib.datasets.files import ImageFiles
from mdrlib.datasets.resized import ResizedImages
from mdrlib.datasets.sampling import PKBatchSampler

# The authors' recipe: images are stretched to 256 x 256, of which the network sees 224 x 224.
STRETCHED, SEEN = 256, 224
SCALE, RATIO = (0.16, 1.0), (0.75, 1.33)  # of random crops: share of the area, width over height
MOST_WORKERS = 16
ENDED = (
    "a process that loads images has ended: killed for lack of memory, /dev/shm too small for its batches, "
    'or a script that starts training outside of `if __name__ == "__main__":`; fewer workers take less '
    "memory, workers=0 needs neither"
)
# A batch as it is sent to a worker: its number, the place of its first image in it, and the images.
Order = tuple[int, int, list[int]]


def train_batches(
    files: ImageFiles,
    indices: Tensor | Sequence[int],
    labels: Tensor,
    sampler: PKBatchSampler,
    size: int = SEEN,
    seed: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
    cache: bool = True,
    augment: bool = True,
    spent: list[float] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented images (B, 3, size, size) uint8 and their labels (B,) int64, on the CPU.

    Of several ranks each gets its own images and the labels of all: B / world_size and B.

    indices (N,): the images of `files` that are used; labels (N,): their classes; the sampler draws positions
    in them. Goes on at `sampler.position` and moves it with each batch given, prefetched ones not counted;
    gives nothing when that is at the end.
    Each image is stretched to 256 x 256 (for another `size` in proportion), a part with 0.16 to 1 of the area
    and 0.75 to 1.33 times as wide as high becomes size x size (both Lanczos), mirrored half the time: the
    authors' recipe, with the very pixels of torchvision's transforms. What is random in image j of batch t
    depends on (seed, t, j) alone, j counted over all ranks of the sampler; torch's global generator is left
    as it was.
    workers: processes, 0 for none, see `default_workers`. They are started anew, not forked from this one,
    which may have threads and a GPU: a script has to call this below `if __name__ == "__main__":`. The first
    time that takes as long as importing torchvision, then a fifth of a second. They end when the iterator is
    closed or dropped. pin_memory: for faster copies to a GPU.
    cache: keep the stretched images on disk, see `resized.prepare`, so that each is decoded once.
    augment: False takes the middle of each, as `eval_batches` does. spent: a list that gets the seconds which
    a process spent on each batch.
    Raises FileNotFoundError or OSError, naming the path, for an image that is missing or damaged; ValueError
    for parts that do not fit; ImportError without torchvision or pillow.
    """
    chosen = _chosen(files, indices)
    labels = torch.as_tensor(labels).cpu()
    if labels.shape != (len(chosen),) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 ({len(chosen)},), got {labels.dtype} {tuple(labels.shape)}")
    drawn_from = sum(len(members) for members in sampler.members)
    if drawn_from != len(chosen):
        raise ValueError(f"the sampler draws from {drawn_from} images, indices are {len(chosen)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer of 0 or more, got {seed!r}")
    batches = _Batches(files, size, seed if augment else None, cache)

    def orders() -> Iterator[Order]:
        for t in range(sampler.position, len(sampler)):
            positions = sampler.batch(t)
            yield t, sampler.rank * len(positions), chosen[positions].tolist()

    def run() -> Iterator[tuple[Tensor, Tensor]]:
        first = sampler.position
        for t, (images, seconds) in enumerate(_load(batches, orders(), workers, pin_memory), first):
            sampler.position = t + 1
            if spent is not None:
                spent.append(seconds)
            yield images, labels[sampler.whole(t)]

    return run()


def eval_batches(
    files: ImageFiles,
    indices: Tensor | Sequence[int],
    batch_size: int,
    size: int = SEEN,
    workers: int = 0,
    pin_memory: bool = False,
    cache: bool = True,
) -> Iterator[Tensor]:
    """The images `indices` (N,) of `files` in their order, (b, 3, size, size) uint8, on the CPU.

    b is batch_size but for the last batch. Each image is stretched to 256 x 256 (for another `size` in
    proportion), of which the middle size x size is taken. The rest is as in `train_batches`.
    """
    chosen = _chosen(files, indices)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of 1 or more, got {batch_size!r}")
    batches = _Batches(files, size, None, cache)
    orders = [(0, 0, part.tolist()) for part in np.split(chosen, range(batch_size, len(chosen), batch_size))]
    return (images for images, _ in _load(batches, orders, workers, pin_memory))


def default_workers() -> int:
    """Worker processes that suit training on a GPU: one for each usable core but one, at most 16.

    That core launches the GPU's work. A machine of one core gets none. Training on a CPU keeps all cores busy
    with arithmetic that takes far longer than loading: there 0 is as fast and starts at once.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable - 1, MOST_WORKERS)


def image_seed(seed: int, t: int, j: int) -> int:
    """What torch's generator is seeded with for the augmentation of image j of batch t; 0 to 2^63 - 1."""
    return int(np.random.SeedSequence((seed, t, j)).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Batches:
    """Whole batches by their orders, for a DataLoader: uint8 (B, 3, size, size) and the seconds it took, or
    the error of an image.

    seed: of the augmentation; None for images to evaluate on.
    """

    def __init__(self, files: ImageFiles, size: int, seed: int | None, cache: bool) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be an integer of 1 or more, got {size!r}")
        self.images = ResizedImages(files, round(size * STRETCHED / SEEN), cache)
        self.size, self.seed = size, seed
        from torchvision.transforms import v2

        if seed is None:
            self.transform: Any = v2.CenterCrop(size)
        else:
            lanczos = v2.InterpolationMode.LANCZOS
            crop = v2.RandomResizedCrop(size, SCALE, RATIO, interpolation=lanczos)
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


def _load(
    batches: _Batches, orders: Iterable[Order], workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor, float]]:
    loader = DataLoader(
        batches,
        batch_size=None,  # an item is a batch
        sampler=orders,
        num_workers=workers,
        pin_memory=pin_memory,
        multiprocessing_context=_context() if workers else None,
        worker_init_fn=_end_with_parent,
        generator=torch.Generator(),  # a DataLoader draws a seed, from torch's global generator otherwise
    )
    reader = iter(loader)
    try:
        while True:
            try:
                item = next(reader, None)
            except (RuntimeError, OSError, EOFError) as error:
                # DataLoader sees a worker's end, or the connection breaks while a batch comes over it.
                if not workers or isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                    raise
                raise RuntimeError(ENDED) from error
            if item is None:
                return
            if isinstance(item, OSError):
                raise item
            yield item
    finally:
        del reader  # ends the workers, also where the traceback of an error keeps this frame


def _context() -> Any:
    """How to start processes. Forking this one would copy locks that its other threads hold.

    The fork server imports once what takes long, then forks itself, which has no threads. It looks for
    modules in the working folder first, where another mdrlib may lie: the workers import that themselves.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.utils.data", "torchvision.transforms.v2"])
    return context


def _end_with_parent(worker: int) -> None:
    """In a worker: end when the process that reads is gone, be it killed.

    PyTorch's workers watch who forked them: the server, which in turn lives as long as they do.
    """

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _chosen(files: ImageFiles, indices: Tensor | Sequence[int]) -> np.ndarray:
    chosen = torch.as_tensor(indices).cpu().numpy()
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not len(chosen):
        raise ValueError(f"indices must be integers (N,), N > 0, got {chosen.dtype} {chosen.shape}")
    if chosen.min() < 0 or chosen.max() >= len(files):
        raise ValueError(
            f"indices must be in 0..{len(files) - 1}, got some from {chosen.min()} to {chosen.max()}"
        )
    return chosen
