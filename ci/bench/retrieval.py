"""Retrieval at the sizes of CUB-200-2011 and Stanford Online Products, next to what it replaces.

The peers: the authors' loop in our own code (a row of distances by differences, topk, labels compared),
`faiss.knn` alone, which ranks by rounded products, and the AccuracyCalculator of pytorch-metric-learning.
Embeddings are random clusters, about as hard to tell apart as a trained network's.
"""

from typing import Any

import torch
from torch import Tensor

from bench.measuring import Row, gpu_memory, peak_memory, peer, row, side_by_side
from mdrlib.retrieval import evaluate, search

DIM = 512
CUB = {"images": 5924, "per_class": 59.24, "spread": 0.22, "ks": (1, 2, 4, 8)}
SOP = {"images": 60502, "per_class": 60502 / 11316, "spread": 0.3, "ks": (1, 10, 100, 1000)}
LOOPED = 64  # queries that the authors' loop is measured on
SAMPLED = 1024  # and SOP's time, on all of its gallery; both are scaled from them
CHUNKED = 4096  # and SOP's memory: more than are searched for at once


def clusters(images: int, per_class: float, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return embeddings (images, DIM) around the centres of their classes, and labels (images,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(images) / per_class).long()
    centres = torch.randn(int(labels.max()) + 1, DIM, generator=generator)
    return spread * centres[labels] + torch.randn(images, DIM, generator=generator), labels


def loop(x: Tensor, labels: Tensor, ks: tuple[int, ...], queries: int) -> dict[str, float]:
    """Return Recall@K of the first queries as the authors measure it."""
    found = []
    for i in range(queries):
        d = (x[i] - x).square().sum(dim=1)
        d[i] = torch.inf
        nearest = d.topk(max(ks), largest=False).indices
        right = labels[nearest] == labels[i]
        found.append([bool(right[:k].any()) for k in ks])
    return {f"recall@{k}": sum(hits) / queries for k, hits in zip(ks, zip(*found, strict=True), strict=True)}


def calculator(x: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the metrics of pytorch-metric-learning under the names of mdrlib.

    Its mean_average_precision_at_r and r_precision are those of mdrlib; both leave out queries without
    another image of their class. It has no Recall@K for K > 1.
    """
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    names = {
        "precision_at_1": "recall@1",
        "r_precision": "r_precision",
        "mean_average_precision_at_r": "map@r",
    }
    measured = AccuracyCalculator(include=tuple(names), k="max_bin_count", device=x.device)
    got = measured.get_accuracy(x, labels)
    return {ours: float(got[theirs]) for theirs, ours in names.items()}


def measure(device: str = "cpu", quick: bool = False, full: bool = False) -> list[Row]:
    """Measure the sizes of CUB and SOP; quick: tiny sizes; full: all of SOP's queries as well, once."""
    cub = {**CUB, "images": 600} if quick else CUB
    sop = {**SOP, "images": 1500} if quick else SOP
    repetitions = 2 if quick else 20
    rows = searches(cub, repetitions, device) + evaluations(cub, repetitions, device)
    rows += at_sop_size(sop, min(repetitions, 5), device, full or device == "cuda")
    return rows + (threads(cub, repetitions) if device == "cpu" and peer("faiss") else [])


def searches(set_: Row, repetitions: int, device: str) -> list[Row]:
    """Measure the search among the queries themselves; on a CPU side by side with faiss."""
    x = clusters(set_["images"], set_["per_class"], set_["spread"])[0].to(device)
    size = f"{len(x)} x {DIM}"
    rows = []
    for k in (max(set_["ks"]), 60):
        names: dict[str, Any] = {"search": lambda k=k: search(x, k=k)}
        if device == "cpu" and peer("faiss"):
            import faiss

            names["faiss.knn"] = lambda k=k: faiss.knn(x.numpy(), x.numpy(), k)
        times = side_by_side(names, repetitions, device=device)
        wanted: Row = {}
        if "faiss.knn" in times:
            share = times["search"]["median_s"] / times["faiss.knn"]["median_s"]
            wanted = {"target": "at most 1.2 x faiss.knn alone", "met": share <= 1.2}
        accuracy = {"as float64 ranks": exact(x, k)}
        rows.append(row(f"search, k = {k}", size, times["search"], times, accuracy=accuracy, **wanted))
        if "faiss.knn" in times:
            rows.append(row(f"faiss.knn, k = {k}", size, times["faiss.knn"]))
    return rows


def exact(x: Tensor, k: int, queries: int = 200) -> float:
    """Return the share of neighbours of the first queries that float64 differences rank the same."""
    found = search(x, k=k)[1][:queries].cpu()
    x = x.cpu().double()
    d = torch.cdist(x[:queries], x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    return (d.sort(dim=1, stable=True).indices[:, :k] == found).double().mean().item()


def evaluations(set_: Row, repetitions: int, device: str) -> list[Row]:
    """Measure the metrics of queries among themselves, and of embeddings that are all equal."""
    x, labels = (part.to(device) for part in clusters(set_["images"], set_["per_class"], set_["spread"]))
    ks, size, looped = set_["ks"], f"{len(x)} x {DIM}", min(LOOPED, len(x))
    own = {"evaluate": lambda: evaluate(x, labels, ks=ks)}
    times = side_by_side(
        {**own, "the authors' loop": lambda: loop(x, labels, ks, looped)}, repetitions, device=device
    )
    scaled = _scaled(times["the authors' loop"], len(x) / looped)
    met = scaled["median_s"] >= 10 * times["evaluate"]["median_s"]
    rows = [
        row(
            "evaluate",
            size,
            times["evaluate"],
            {"the authors' loop": scaled},
            memory_mb=memory(set_, device),
            accuracy=evaluate(x, labels, ks=ks),
            target="at least 10 x faster than the authors' loop",
            met=met,
        ),
        row(
            "the authors' loop",
            size,
            scaled,
            accuracy=loop(x, labels, ks, looped),
            note=f"time scaled from {looped} queries, accuracy of these",
        ),
    ]
    if peer("pytorch_metric_learning"):
        fewer = min(repetitions, 5)
        times = side_by_side({**own, "AccuracyCalculator": lambda: calculator(x, labels)}, fewer, 1, device)
        against = {"AccuracyCalculator": times["AccuracyCalculator"]}
        rows.append(row("evaluate", size, times["evaluate"], against))
        accuracy = calculator(x, labels)
        rows.append(row("AccuracyCalculator", size, against["AccuracyCalculator"], accuracy=accuracy))
    else:
        rows.append(row("AccuracyCalculator", size, note="pytorch-metric-learning is not installed"))
    same = torch.full_like(x, 1 / 3)
    constant = side_by_side({"evaluate": lambda: evaluate(same, labels)}, min(repetitions, 3), 1, device)
    accuracy = evaluate(same, labels)
    rows.append(row("evaluate, constant embeddings", size, constant["evaluate"], accuracy=accuracy))
    return rows


def _scaled(times: Row, factor: float) -> Row:
    return {key: value if key == "repetitions" else value * factor for key, value in times.items()}


def at_sop_size(set_: Row, repetitions: int, device: str, full: bool) -> list[Row]:
    """Measure evenly spaced queries against the whole set, and with `full` all queries once."""
    x, labels = (part.to(device) for part in clusters(set_["images"], set_["per_class"], set_["spread"]))
    size, ks = f"{len(x)} x {DIM}, K to {max(set_['ks'])}", set_["ks"]
    some = slice(None, None, max(1, len(x) // SAMPLED))
    count = len(x[some])
    times = side_by_side(
        {"evaluate": lambda: evaluate(x[some], labels[some], x, labels, ks=ks)}, repetitions, 1, device
    )
    memory_mb = memory(set_, device, None if full else CHUNKED)
    note = f"time scaled from {count} queries against all"
    rows = [
        row(
            "evaluate",
            size,
            _scaled(times["evaluate"], len(x) / count),
            memory_mb=memory_mb,
            target="peak memory under 2 GB",
            met=memory_mb < 2000,
            note=note + ("" if full else f", memory of {min(CHUNKED, len(x))}"),
        )
    ]
    if full:
        found: dict[str, float] = {}
        times = side_by_side({"evaluate": lambda: found.update(evaluate(x, labels, ks=ks))}, 1, 0, device)
        rows.append(row("evaluate, every query", size, times["evaluate"], accuracy=found))
    return rows


def memory(set_: Row, device: str, queries: int | None = None) -> float:
    """Return the peak memory in MB of an evaluation; on a CPU with the making of the embeddings."""
    if device == "cuda":
        x, labels = (part.cuda() for part in clusters(set_["images"], set_["per_class"], set_["spread"]))
        return gpu_memory(lambda: evaluate(x, labels, ks=set_["ks"]))
    code = f"x, y = retrieval.clusters({set_['images']}, {set_['per_class']}, {set_['spread']})\n"
    arguments = "x, y" if queries is None else f"x[:{queries}], y[:{queries}], x, y"
    code += f"evaluate({arguments}, ks={set_['ks']})"
    return peak_memory(code, "from bench import retrieval\nfrom mdrlib.retrieval import evaluate")


def threads(set_: Row, repetitions: int) -> list[Row]:
    """Measure whether the OpenMP runtimes of faiss and torch slow each other down when they take turns."""
    import faiss

    x = clusters(set_["images"], set_["per_class"], set_["spread"])[0]
    y = x[:DIM]

    def product() -> Tensor:
        return (y @ y.T).relu_()

    def after() -> None:
        product()
        faiss.knn(x.numpy(), x.numpy(), 8)

    names = {"faiss.knn": lambda: faiss.knn(x.numpy(), x.numpy(), 8), "after a torch product": after}
    times = side_by_side({**names, "the product": product}, repetitions)
    both = times["faiss.knn"]["median_s"] + times["the product"]["median_s"]
    cost = times["after a torch product"]["median_s"] / both
    return [
        row(
            "faiss.knn after a torch product",
            f"{len(x)} x {DIM}, {torch.get_num_threads()} threads",
            times["after a torch product"],
            {"faiss.knn": times["faiss.knn"], "the product": times["the product"]},
            accuracy={"share of both alone": round(cost, 3)},
        )
    ]
