"""Loader throughput: mdrlib's loader next to torchvision's transforms in a plain DataLoader.

The photographs are generated: colour noise whose amplitude falls with frequency as that of photographs does,
saved as JPEG at a quality that gives files as large as CUB-200-2011's, about 95 kB. The system has all of
them in memory. Every candidate loads the same batches, in turn in each repetition. Ratios are to the plain
DataLoader of the same repetition.
"""

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mdrlib.datasets import ImageFiles, PKBatchSampler
from mdrlib.datasets.loader import Photographs, image_seed
from mdrlib.datasets.preprocessing import Preprocessing

WIDTH, HEIGHT, QUALITY = 500, 375, 90
FALL = 1.2  # the exponent by which amplitude falls with frequency
BATCH, PER_CLASS = 128, 4  # the recipe's
PLAIN, COLD, NONE, WARM = (
    "plain DataLoader",
    "mdrlib, first epoch",
    "mdrlib, cache=False",
    "mdrlib, later epochs",
)


def photograph(seed: int) -> Any:
    """Return a picture with the power spectrum of a photograph, in brightness more than in colour."""
    from PIL import Image

    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = np.inf
    waves = random.standard_normal((2, 3, *frequency.shape))
    planes = np.fft.irfft2((waves[0] + 1j * waves[1]) / frequency**FALL, (HEIGHT, WIDTH))
    light, red, blue = planes / planes.std((1, 2), keepdims=True) * np.array([55, 12, 12])[:, None, None]
    pixels = np.stack([light + red, light - (red + blue) / 2, light + blue])
    pixels += random.uniform(70, 180, 3)[:, None, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy())


def make_files(folder: Path, count: int) -> ImageFiles:
    """Write `count` photographs to `folder`, PER_CLASS of each class."""
    names = [f"{k}.jpg" for k in range(count)]
    for k, name in enumerate(names):
        photograph(k).save(folder / name, quality=QUALITY)
    labels = torch.arange(count) // PER_CLASS
    return ImageFiles("generated", "train", folder, names, labels, [str(c) for c in labels.unique().tolist()])


class Plain:
    """The usual data set for a DataLoader of this recipe: pillow and torchvision, float32."""

    def __init__(self, files: ImageFiles, train: bool) -> None:
        from torchvision import transforms as T

        lanczos = T.InterpolationMode.LANCZOS
        crop = T.RandomResizedCrop(224, scale=(0.16, 1), ratio=(0.75, 1.33), interpolation=lanczos)
        chosen = [crop, T.RandomHorizontalFlip()] if train else [T.CenterCrop(224)]
        self.transform = T.Compose([T.Resize((256, 256), interpolation=lanczos), *chosen, T.ToTensor()])
        self.paths, self.labels = files.paths, files.labels

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), int(self.labels[index])


def ours(files: ImageFiles, cache: bool = True, workers: int = 0) -> Photographs:
    """Return mdrlib's reader of all files."""
    chosen, cpu = torch.arange(len(files)), torch.device("cpu")
    return Photographs(files, chosen, Preprocessing(224), workers, cache, cpu, BATCH)


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Keep resized images in `folder`."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def rate(batches: Iterable[Any], skip: int) -> float:
    """Return images per second after the first `skip` batches."""
    count, start = 0, time.perf_counter()
    for k, batch in enumerate(batches, 1):
        images = batch if isinstance(batch, Tensor) else batch[0]
        count += len(images) if k > skip else 0
        if k == skip:
            start = time.perf_counter()
    return count / (time.perf_counter() - start)


def compare(candidates: dict[str, Callable[[int], float]], repetitions: int) -> dict[str, list[float]]:
    """Return the rates of every candidate, which take turns; each repetition begins with another one."""
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for r in range(repetitions):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            rates[name].append(candidates[name](r))
    return rates


def rows(what: str, workers: int, rates: dict[str, list[float]], difference: int) -> list[dict[str, Any]]:
    """Return a row per candidate. Its ratio is the median of those of the repetitions."""
    return [
        {
            "what": what,
            "loader": name,
            "workers": workers,
            "images_per_second": round(float(np.median(found)), 1),
            "spread": [round(float(v), 1) for v in np.percentile(found, (10, 90))],
            "repetitions": len(found),
            "ratio": round(float(np.median(np.divide(found, rates[PLAIN]))), 2),
            "largest_pixel_difference": difference,
        }
        for name, found in rates.items()
    ]


def measure(quick: bool = False, full: bool = False) -> list[dict[str, Any]]:
    """Measure training and evaluation in this process, on one core, and training with workers.

    quick: a few photographs and repetitions, to see that it works. full: thousands, which take minutes.
    """
    size = (3000, 15, [1, 2], 10) if full else (256, 2, [1], 3) if quick else (640, 5, [1], 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(Path(folder), *size)
    finally:
        torch.set_num_threads(threads)


def _measure(folder: Path, count: int, repetitions: int, workers: list[int], length: int) -> list[dict]:
    (folder / "images").mkdir()
    files = make_files(folder / "images", count)
    sampler = PKBatchSampler(files.labels, BATCH, PER_CLASS, repetitions + length)
    plain_train, plain_test = Plain(files, True), Plain(files, False)

    def plain(data: Plain, batches: list[list[int]], workers: int = 0, skip: int = 0) -> float:
        # A loader draws a seed; nothing else here needs the global generator.
        return rate(DataLoader(data, batch_sampler=batches, num_workers=workers), skip)

    def train(r: int, cache: bool, batches: int = 1, workers: int = 0, skip: int = 0) -> float:
        part = PKBatchSampler(files.labels, BATCH, PER_CLASS, r + batches)
        return rate(ours(files, cache, workers).training(files.labels, part, 0, start=r), skip)

    def test(indices: list[int], cache: bool) -> float:
        return rate(ours(files, cache)[torch.tensor(indices)], 0)

    def cold(load: Callable[[], float]) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as empty, cache_in(Path(empty)):
            return load()

    with cache_in(folder), redirect_stderr(io.StringIO()):  # without the line that names the cache
        for _ in ours(files):  # fills this cache, and the system's own cache of the files
            pass
        pieces = [sampler.batch(t) for t in range(len(sampler))]
        one = compare(
            {
                PLAIN: lambda r: plain(plain_train, pieces[r : r + 1]),
                NONE: lambda r: train(r, False),
                COLD: lambda r: cold(lambda: train(r, True)),
                WARM: lambda r: train(r, True),
            },
            repetitions,
        )
        found = rows("training", 0, one, _difference(files, plain_train, pieces[0], True))
        shown = compare(
            {
                PLAIN: lambda r: plain(plain_test, pieces[r : r + 1]),
                NONE: lambda r: test(pieces[r], False),
                COLD: lambda r: cold(lambda: test(pieces[r], True)),
                WARM: lambda r: test(pieces[r], True),
            },
            repetitions,
        )
        found += rows("evaluation", 0, shown, _difference(files, plain_test, pieces[0], False))
        for n in workers:
            # From the moment when every worker has delivered once.
            many = compare(
                {
                    PLAIN: lambda r, n=n: plain(plain_train, pieces[r : r + length], n, n),
                    NONE: lambda r, n=n: train(r, False, length, n, n),
                    WARM: lambda r, n=n: train(r, True, length, n, n),
                },
                max(repetitions // 4, 1),
            )
            found += rows("training", n, many, found[0]["largest_pixel_difference"])
    return found


def _difference(files: ImageFiles, data: Plain, indices: list[int], train: bool) -> int:
    """Return the largest difference of a pixel, 0 to 255, of the first batch, from the plain recipe's."""
    if train:
        sampler = PKBatchSampler(files.labels, BATCH, PER_CLASS, 1)
        (images, _), *_ = ours(files).training(files.labels, sampler, 0)
        images = images * 255
    else:
        (images,) = ours(files)[torch.tensor(indices)]
    largest = 0
    for j, index in enumerate(indices):
        torch.manual_seed(image_seed(0, 0, j))
        want = (data[index][0] * 255).round().to(torch.int16)
        largest = max(largest, int((images[j].round().to(torch.int16) - want).abs().max()))
    return largest


def record(quick: bool = False) -> dict[str, Any]:
    """Measure, print a table, and return what data/results/bench-loader.json holds."""
    found = measure(quick, full=not quick)
    print(f"{'what':12} {'loader':22} {'workers':>7} {'images/s':>9} {'p10 .. p90':>17} {'ratio':>6}")
    for row in found:
        low, high = row["spread"]
        print(
            f"{row['what']:12} {row['loader']:22} {row['workers']:7} {row['images_per_second']:9.1f} "
            f"{low:7.1f} .. {high:6.1f} {row['ratio']:6.2f}"
        )
    images = f"generated, {WIDTH} x {HEIGHT}, amplitude ~ frequency^-{FALL}, JPEG quality {QUALITY}"
    return {"images": images, "rows": found}
