"""Search in 1,000,000 vectors: exact, through indices of faiss, and in memory-mapped shards.

Two galleries of 128 dimensions in float32. "mixture": 20,000 classes of 50. The variance of the centres of
the classes falls along the axes as exp(-j / 16), that within a class as exp(-j / 32); all axes together have
0.8 times as much within a class as between centres. (In the embeddings of this book's runs on glyphs it falls
alike, along half as many axes; here are many more classes.) "gaussian": independent normal numbers, no
structure at all, the hardest case. Queries are new members of the same classes. A time is that of all queries
in one call, k = 10, divided by their number; searches take turns. Each time comes with the CPU time, summed
over threads, which other work on the machine disturbs less.
"""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measuring import Row, in_a_process, side_by_side
from mdrlib.retrieval import search
from mdrlib.sharded_search import build, train

DIM, PER_CLASS, K, QUERIES, SHARDS = 128, 50, 10, 1000, 8
FALL = {"between": 16, "within": 32}  # axes over which variances fall by e
WITHIN = 0.8  # variance within a class over that of the centres
SIZES = {"full": (1_000_000, 1024, 2), "quick": (4_000, 32, 1)}  # vectors, lists, repetitions
# The codes of an index, and (probes, candidates) that it is searched with; None: the default.
INDICES = {
    "mixture": {
        "Flat": [(1, None), (4, None), (16, None), (64, None)],
        "SQ8": [(1, None), (4, None), (16, None), (64, None)],
        "PQ32": [(1, None), (4, None), (16, None), (64, None), (16, K), (64, K)],
        "PQ16": [(1, None), (4, None), (16, None), (64, None), (64, 1000)],
    },
    "gaussian": {
        "Flat": [(4, None), (16, None), (64, None), (256, None)],
        "PQ32": [(4, None), (16, None), (64, None), (256, None), (256, 1000)],
    },
}


def generate(kind: str, count: int, queries: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a gallery (count, DIM) and its labels, queries (queries, DIM) and theirs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count + queries, DIM, generator=generator)
    classes = count // PER_CLASS
    labels = torch.arange(count + queries) % classes
    labels[count:] = torch.randint(classes, (queries,), generator=generator)
    if kind == "mixture":
        axes = torch.arange(DIM)
        widths = {name: torch.exp(-axes / fall) for name, fall in FALL.items()}
        scales = {name: (width / width.sum()).sqrt() for name, width in widths.items()}
        x *= WITHIN**0.5 * scales["within"]
        x += (scales["between"] * torch.randn(classes, DIM, generator=generator))[labels]
    return x[:count], labels[:count], x[count:], labels[count:]


def measure(quick: bool = False) -> Row:
    """Measure all galleries: {"rows", "shards"}. quick: few vectors, a trial."""
    count, lists, repetitions = SIZES["quick" if quick else "full"]
    rows: list[Row] = []
    for kind in INDICES:
        rows += searches(kind, count, lists, repetitions)
    return {"rows": rows, "shards": shards(count)}


def searches(kind: str, count: int, lists: int, repetitions: int) -> list[Row]:
    """Measure every search of one gallery: time, memory, and how much of the exact result it finds."""
    gallery, labels, query, query_labels = generate(kind, count, QUERIES)
    import faiss

    calls: dict[str, Callable[[], Any]] = {
        "search": partial(search, query, gallery, K),
        "faiss.knn": partial(faiss.knn, query.numpy(), gallery.numpy(), K),
    }
    told: dict[str, Row] = {name: {"bytes_per_vector": 4.0 * DIM} for name in calls}
    for codes, settings in INDICES[kind].items():
        factory = f"IVF{lists},{codes}"
        clocks = [now()]
        empty = train(gallery, factory)
        clocks.append(now())
        index = build(gallery, empty)
        clocks.append(now())
        (train_s, train_cpu_s), (add_s, add_cpu_s) = np.diff(clocks, axis=0).round(2).tolist()
        built = {
            "index": factory,
            "lists": lists,
            "train_s": train_s,
            "train_cpu_s": train_cpu_s,
            "add_s": add_s,
            "add_cpu_s": add_cpu_s,
            "bytes_per_vector": round(faiss.serialize_index(index).size / count, 2),
        }
        print(f"  {kind}: {built}", flush=True)
        for probes, candidates in settings:
            name = f"{factory}, {probes} probes, {candidates or 'default'} candidates"
            calls[name] = partial(search, query, gallery, K, index, probes, candidates)
            told[name] = {**built, "probes": probes, "candidates": candidates or 10 * K}
    results: dict[str, Tensor] = {}
    cpu: dict[str, list[float]] = {name: [] for name in calls}

    def kept(name: str) -> None:
        start = now()[1]
        results[name] = torch.as_tensor(calls[name]()[1])
        cpu[name].append(now()[1] - start)

    times = side_by_side({name: partial(kept, name) for name in calls}, repetitions, 0)
    rows = []
    for name, found in results.items():
        each = {key: value / QUERIES if key.endswith("_s") else value for key, value in times[name].items()}
        each["cpu_s"] = float(f"{np.median(cpu[name]) / QUERIES:.4g}")
        row = {"what": name, "gallery": kind, "vectors": count, "dims": DIM, "queries": QUERIES, "k": K}
        right = recalls(found, results["search"], labels, query_labels)
        rows.append({**row, **told[name], **each, **right})
    return rows


def now() -> tuple[float, float]:
    """Return the time, and the CPU time of all threads of this process."""
    return time.perf_counter(), time.process_time()


def recalls(found: Tensor, exact: Tensor, labels: Tensor, query_labels: Tensor) -> Row:
    """Return the shares of the exact neighbours that were found, and Recall@1 by label."""
    same = (found[:, :, None] == exact[:, None]).any(dim=1).double()
    return {
        "recall_of_nearest": round(float((found[:, 0] == exact[:, 0]).double().mean()), 4),
        "recall_of_10": round(float(same.mean()), 4),
        "label_recall@1": round(float((labels[found[:, 0]] == query_labels).double().mean()), 4),
    }


# Runs in a process of its own, with the files of a gallery and of the queries as its argument.
SEARCH = """
import json, sys, threading, time
import numpy as np, torch
from bench import measuring
from mdrlib.retrieval import search
told = json.loads(sys.argv[1])
query = torch.from_numpy(np.load(told["query"]))
search(query[:2], query, 1)  # loads what is loaded once
own, done = [], threading.Event()
def watch():
    while True:
        lines = open("/proc/self/status").read().splitlines()
        own.append(next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1.024e-3)
        if done.wait(0.02):
            return
thread = threading.Thread(target=watch)
thread.start()
before, start, cpu = measuring.reset_peak(), time.perf_counter(), time.process_time()
if told["mapped"]:
    gallery = [np.load(path, mmap_mode="r") for path in told["files"]]
else:
    gallery = torch.from_numpy(np.concatenate([np.load(path) for path in told["files"]]))
distances, indices = search(query, gallery, told["k"])
seconds, cpu, highest = time.perf_counter() - start, time.process_time() - cpu, measuring.peak()
done.set()
thread.join()
np.savez(told["out"], distances=distances.numpy(), indices=indices.numpy())
print(json.dumps({"seconds": round(seconds, 2), "cpu_s": round(cpu, 2), "peak_mb": round(highest - before, 1),
                  "peak_own_mb": round(max(own) - own[0], 1)}))
"""


def shards(count: int) -> list[Row]:
    """Measure exact search in one gallery in memory, and in SHARDS memory-mapped files of it.

    peak_mb is the peak of resident memory above that before. It counts pages of mapped files, which the
    system takes back when it needs them; peak_own_mb leaves these out.
    """
    gallery, _, query, _ = generate("mixture", count, QUERIES)
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = []
        for i, part in enumerate(gallery.numpy().reshape(SHARDS, -1, DIM)):
            files.append(str(folder / f"part{i}.npy"))
            np.save(files[-1], part)
        np.save(folder / "query.npy", query.numpy())
        for what, mapped in (("one gallery in memory", False), (f"{SHARDS} mapped files", True)):
            told = {"files": files, "mapped": mapped, "k": K, "query": str(folder / "query.npy")}
            told["out"] = str(folder / f"out{mapped:d}.npz")
            rows.append(
                {"what": what, "vectors": count, **json.loads(in_a_process(SEARCH, json.dumps(told)))}
            )
            found[what] = dict(np.load(told["out"]))
            print(f"  {rows[-1]}", flush=True)
    one, many = found.values()
    rows[1]["same_indices"] = bool((one["indices"] == many["indices"]).all())
    rows[1]["largest_relative_difference"] = float(np.abs(many["distances"] / one["distances"] - 1).max())
    return rows


def line(row: Row) -> str:
    """Return a row as a line of the table."""
    cost = (
        f"{1e3 * row['median_s']:8.3f} ms {1e3 * row['cpu_s']:8.3f} ms CPU  {row['bytes_per_vector']:6.1f} B"
    )
    return (
        f"{row['gallery']:9} {row['what']:48} {cost}  "
        f"{row['recall_of_nearest']:.3f} {row['recall_of_10']:.3f}  {row['label_recall@1']:.3f}"
    )


def record(quick: bool = False) -> Row:
    """Measure, print a table, and return what data/results/bench-ann.json holds."""
    import faiss

    start = time.perf_counter()
    found = measure(quick)
    for row in found["rows"]:
        print(line(row))
    for row in found["shards"]:
        print(row)
    gallery = (
        f"generated, {DIM} dimensions in float32; mixture: classes of {PER_CLASS}, variances "
        f"along the axes as exp(-j/{FALL['between']}) of centres, exp(-j/{FALL['within']}) within, "
        f"{WITHIN} times as much in all; gaussian: independent normal numbers"
    )
    seconds = round(time.perf_counter() - start, 1)
    at = {"faiss": faiss.__version__}
    return {"gallery": gallery, "quick": quick, "seconds": seconds, **found, "environment": at}
