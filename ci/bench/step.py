"""Where a training step's time goes: data, network, loss, regularizer; and what MDR adds to it."""

import torch
from torch import Tensor, nn

from bench.measuring import Row, row, side_by_side
from mdrlib import MDR
from mdrlib.datasets import PKBatchSampler, load
from mdrlib.datasets.loader import in_memory
from mdrlib.losses import TripletLoss
from mdrlib.models import build_embedder

PAPER = ((128, 4), (256, 3))  # batch size and images per class of its benchmarks


def measure(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Measure the small network on glyphs, and MDR next to BN-Inception at the paper's sizes."""
    rows = _small(device, quick)
    for batch_size, per_class in PAPER[:1] if quick or device == "cpu" else PAPER:
        rows += _paper(device, quick, batch_size, per_class)
    return rows


def _parts(model: nn.Module, images: Tensor, labels: Tensor) -> dict:
    """Steps of growing completeness: the network alone, with the triplet loss, with MDR too."""
    device = images.device
    generator = torch.Generator(device=device).manual_seed(0)
    triplet, mdr = TripletLoss(0.2, generator=generator), MDR().to(device)
    optimizer = torch.optim.Adam([*model.parameters(), *mdr.parameters()], lr=1e-4)

    def step(with_triplet: bool, with_mdr: bool) -> None:
        optimizer.zero_grad(set_to_none=True)
        x = model(images)
        loss = triplet(x, labels) if with_triplet else x.mean()
        if with_mdr:
            loss = loss + 0.1 * mdr(x) + 0.01 * mdr.level_penalty()
        loss.backward()
        optimizer.step()

    return {
        "network": lambda: step(False, False),
        "network + triplet": lambda: step(True, False),
        "network + triplet + MDR": lambda: step(True, True),
    }


def _small(device: str, quick: bool) -> list[Row]:
    train = load("glyphs", "train")
    images = train.images.to(device)
    generator = torch.Generator(device=device).manual_seed(0)
    sampler = PKBatchSampler(train.labels, 128, 4, 10_000)
    batches = in_memory(images, train.labels, sampler, generator, augment=True)
    model = build_embedder("small", 128, "mean-distance").to(device)
    candidates = {"data": lambda: next(batches)} | _parts(model, *next(batches))
    times = side_by_side(candidates, 5 if quick else 20, device=device)
    return _rows(times, "small network, 128 glyphs of 32 x 32, D = 128", 128)


def _paper(device: str, quick: bool, batch_size: int, per_class: int) -> list[Row]:
    """BN-Inception at 224 x 224. On a CPU its step is measured at 16 images and scaled in proportion."""
    measured = 16 if device == "cpu" else batch_size
    model = build_embedder("bn_inception", 512, "mean-distance", freeze_batch_norm=True).to(device)
    images = torch.rand(measured, 3, 224, 224, device=device)
    labels = torch.arange(measured) // per_class
    network = _parts(model, images, labels)["network"]
    x = torch.randn(batch_size, 512, device=device, requires_grad=True)
    mdr = MDR().to(device)

    def regularize() -> None:
        x.grad = None
        mdr(x).backward()

    repetitions = (1, 5) if device == "cpu" else (20, 20)
    slow = side_by_side({"network": network}, 1 if quick else repetitions[0], warmup=1, device=device)
    fast = side_by_side({"MDR": regularize}, 5 if quick else 20, device=device)
    times, step = fast["MDR"], slow["network"]["median_s"] * batch_size / measured
    size, share = f"BN-Inception, batch {batch_size}", times["median_s"] / step
    note = {}
    if measured != batch_size:
        note = {"note": f"the network's step was measured at {measured} images and scaled in proportion"}
    target = {"target": "under 2 % of the network's step", "met": share < 0.02} if device != "cpu" else {}
    return [
        row("a step of the network", f"BN-Inception, batch {measured}", slow["network"]),
        row("MDR, forward and backward", size, times, share=float(f"{share:.2g}"), **note, **target),
    ]


def _rows(times: dict[str, Row], size: str, batch: int) -> list[Row]:
    """A row for each part, with its share of the whole step as the difference to the step without it."""
    whole = times["data"]["median_s"] + times["network + triplet + MDR"]["median_s"]
    before = {"network + triplet": "network", "network + triplet + MDR": "network + triplet"}
    rows = []
    for name, time in times.items():
        own = time["median_s"] - (times[before[name]]["median_s"] if name in before else 0.0)
        part = {"network + triplet": "triplet loss", "network + triplet + MDR": "MDR"}.get(name, name)
        rows.append(row(f"step: {name}", size, time, part=part, share=float(f"{own / whole:.2g}")))
    rows[-1]["images_per_second"] = round(batch / whole, 1)
    return rows
