"""All measurements that need a GPU, in one command of a few minutes: python ci/bench/gpu_once.py

Each part of PARTS runs in its own process, which ends with its budget of seconds (8 minutes in all). The file
keeps what it has found by then, and an error in one part does not stop the others. It needs torch and triton.
With --cpu it tries out at tiny sizes what it can run without a GPU.
"""

import argparse
import collections
import importlib.machinery
import json
import os
import re
import subprocess
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

CI = Path(__file__).resolve().parents[1]
ROOT = CI.parent
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(CI)]
try:
    import tqdm.auto  # noqa: F401
except ImportError:  # the trainer's progress bar, which is off here
    for name in ("tqdm", "tqdm.auto"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name].tqdm = lambda *_, **__: None

from bench.regularizer import DIM, Authors, embeddings, errors, reference, step  # noqa: E402
from mdrlib import MDR, pairwise_distances  # noqa: E402

Found = Iterator[tuple[str, Any]]
BACKENDS = ("eager", "tiled", "triton")


def seconds(call: Callable[[], object], device: str, limit: float = 1.0) -> float:
    """Return the median time of a call, measured for about `limit` seconds; the GPU finishes each one."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    call()
    wait()
    times, began = [], time.perf_counter()
    while len(times) < 3 or (len(times) < 100 and time.perf_counter() - began < limit):
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return float(f"{sorted(times)[len(times) // 2]:.4g}")


def backends(device: str, n: int) -> tuple[str, ...]:
    """Return the backends that fit a batch; Triton's interpreter is not measured."""
    held = BACKENDS if n <= 16384 else BACKENDS[1:]
    return tuple(name for name in held if name != "triton" or device == "cuda")


def ceilings(device: str) -> Found:
    """TFLOP/s of matrix products and GB/s of copies: what nothing can be faster than."""
    n = 8192 if device == "cuda" else 512
    dtypes = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
    for name, dtype in dtypes.items():
        torch.backends.cuda.matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        taken = seconds(lambda a=a, b=b: a @ b, device)
        yield f"{name} TFLOP/s", float(f"{2 * n**3 / taken / 1e12:.4g}")
    values = torch.empty(2**28 if device == "cuda" else 2**22, device=device)
    target = torch.empty_like(values)
    taken = seconds(lambda: target.copy_(values), device)
    yield "copy GB/s", float(f"{2 * values.nbytes / taken / 1e9:.4g}")


def correctness(device: str) -> Found:
    """Errors of loss and gradient against float64, and whether two calls give the same bits."""
    for n in (128, 1000, 1024, 1025, 2048, 4096, 8192) if device == "cuda" else (64, 129):
        x = embeddings(n, device)
        want = reference(x)
        for name in backends(device, n):
            modules = [MDR(diagonal_in_stats=True, backend=name).to(device) for _ in range(2)]
            first, second = (step(module, x) for module in modules)
            same = all(torch.equal(*pair) for pair in zip(first, second, strict=True))
            rows = (first[1].double() - want[1]).norm(dim=1) / want[1].norm(dim=1).max()
            typical = float(f"{rows.median().item():.2e}")  # a pair at a kink moves two rows
            yield f"{name} {n}", {**errors(first, want), "median row": typical, "same bits": same}


def speed(device: str) -> Found:
    """Forward and backward of MDR next to the authors' formulation and to three bare products, and memory."""
    sizes = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536) if device == "cuda" else (64, 128)
    for n in sizes:
        x = embeddings(n, device)
        modules = {name: MDR(diagonal_in_stats=True, backend=name) for name in reversed(backends(device, n))}
        modules["authors"] = Authors()
        for module in modules.values():
            module.to(device)
        calls = {name: lambda m=m, x=x: step(m, x) for name, m in modules.items()}
        if n <= 32768:
            w = torch.randn(n, n, device=device)
            calls["products"] = lambda x=x, w=w: (x @ x.T, x @ x.T, w @ x)
            calls["distances"] = lambda x=x: pairwise_distances(x)
        for name, call in calls.items():
            if name == "authors" and n > 16384:
                continue
            try:
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated() if device == "cuda" else 0
                taken = seconds(call, device, 0.5)
                held = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
                yield f"{name} {n} x {DIM}", {"seconds": taken, "MB": round(held / 1e6, 1)}
            except torch.OutOfMemoryError:
                yield f"{name} {n} x {DIM}", "out of memory"
                torch.cuda.empty_cache()


def kernels(device: str) -> Found:
    """What runs in one forward and backward pass, and for how long."""
    for n in (128, 1024, 2048, 8192) if device == "cuda" else (64,):
        x, mdr = embeddings(n, device), MDR().to(device)
        step(mdr, x)
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else []
        with torch.profiler.profile(activities=kinds) as profile:
            step(mdr, x)
            if device == "cuda":
                torch.cuda.synchronize()
        if device == "cuda":
            events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
            times = collections.Counter()
            for event in events:
                times[event.name[:80]] += event.device_time_total
            yield f"{n} launches", len(events)
        else:
            times = {e.key[:80]: e.self_cpu_time_total for e in profile.key_averages()}
        longest = sorted(times.items(), key=lambda item: -item[1])[:12]
        yield f"{n} microseconds", {name: round(value, 1) for name, value in longest}


def training_step(device: str) -> Found:
    """Time of a whole step, its launches, and each wait for the GPU by file and line."""
    from mdrlib.losses import TripletLoss
    from mdrlib.models import build_embedder
    from mdrlib.trainer import Trainer

    model, mdr = build_embedder("small", 128, "mean-distance").to(device), MDR().to(device)
    optimizer = torch.optim.Adam([*model.parameters(), *mdr.parameters()], lr=1e-4)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    loss = TripletLoss(generator=torch.Generator())
    trainer = Trainer(model, loss, optimizer, scheduler, mdr, None, 0.1, 0.01)
    images, labels = torch.rand(128, 1, 32, 32, device=device), torch.arange(128) // 4
    yield "seconds", seconds(lambda: trainer.step(images, labels), device)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer.step(images, labels)
        torch.cuda.set_sync_debug_mode("default")
        waits = [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchron" in str(w.message)]
        yield "waits", waits
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else []
    with torch.profiler.profile(activities=kinds) as profile:
        trainer.step(images, labels)
    launches = sum(event.count for event in profile.key_averages() if "LaunchKernel" in event.key)
    yield "launches", launches


def graph(device: str) -> Found:
    """A step of MDR captured in a CUDA graph: its time, and whether it gives the same bits."""
    if device != "cuda":
        yield "skipped", "needs a GPU"
        return
    for n in (128, 1024, 4096):
        mdr, twin = MDR().to(device), MDR().to(device)
        x = embeddings(n, device).requires_grad_()
        aside = torch.cuda.Stream()
        with torch.cuda.stream(aside):
            mdr(x).backward()
            mdr(x).backward()
        torch.cuda.current_stream().wait_stream(aside)
        x.grad = mdr.levels.grad = None
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            loss = mdr(x)
            loss.backward()
        mdr.load_state_dict(twin.state_dict())
        captured.replay()
        found = {"same loss": torch.equal(loss, twin(x)), "seconds": seconds(captured.replay, device)}
        yield f"{n} x {DIM}", {**found, "seconds without": seconds(lambda m=twin, x=x: step(m, x), device)}


def retrieval(device: str) -> Found:
    """Evaluation at the sizes of CUB and SOP."""
    from bench.retrieval import CUB, SOP, clusters
    from mdrlib.retrieval import evaluate

    for name, shape in (("CUB", CUB), ("SOP", SOP)):
        images = shape["images"] if device == "cuda" else 300
        x, labels = clusters(images, shape["per_class"], shape["spread"])
        x, ks = x.to(device), shape["ks"] if device == "cuda" else (1, 2)
        start = time.perf_counter()
        first = evaluate(x, labels, ks=ks)
        yield f"{name} first call", round(time.perf_counter() - start, 3)
        yield name, {"seconds": seconds(lambda x=x, y=labels, ks=ks: evaluate(x, y, ks=ks), device), **first}


def training(device: str) -> Found:
    """Iterations of the small network on glyphs, with and without MDR."""
    from mdrlib.experiment import Config, run

    iterations = 300 if device == "cuda" else 4
    for method in ("triplet", "triplet+mdr"):
        settings = dict(method=method, iterations=iterations, evaluate_every=iterations, device=device)
        start = time.perf_counter()
        with TemporaryDirectory() as folder:
            result = run(Config(**settings, train_classes=0 if device == "cuda" else 40), folder)
        yield method, {"seconds": round(time.perf_counter() - start, 2), "metrics": result.metrics}


def tests(device: str) -> Found:
    """The tests that need a GPU, or their collection."""
    files = ["tests/mdrlib/mdr", "tests/mdrlib/test_miners.py", "tests/mdrlib/test_distances.py"]
    chosen = ["-k", "on_a_gpu or triton or gpu", "--maxfail=20"] if device == "cuda" else ["--collect-only"]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", *files, *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    yield "exit", done.returncode
    yield "last lines", (done.stdout + done.stderr).splitlines()[-40:]


PARTS: dict[str, tuple[Callable[[str], Found], int]] = {
    "ceilings": (ceilings, 30),
    "correctness": (correctness, 60),
    "speed": (speed, 100),
    "kernels": (kernels, 35),
    "training_step": (training_step, 35),
    "graph": (graph, 35),
    "retrieval": (retrieval, 45),
    "training": (training, 50),
    "tests": (tests, 90),
}


def part(name: str, device: str) -> int:
    """Run a part; print each thing found at once, as a line of JSON."""
    try:
        for key, value in PARTS[name][0](device):
            print(json.dumps({key: value}, default=str), flush=True)
    except Exception as error:
        where = traceback.format_exc().splitlines()[-12:]
        print(json.dumps({"error": f"{type(error).__name__}: {error}", "at": where}), flush=True)
        return 1
    return 0


def told(name: str, device: str, scale: float) -> dict[str, Any]:
    """Run a part in a process of its own, for its budget of seconds at most, and return what it printed."""
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name]
    command += ["--cpu"] if device == "cpu" else []
    settings = {**os.environ, "PYTHONUNBUFFERED": "1", "MDR_PROGRESS": "off"}
    start, found = time.perf_counter(), {}
    try:
        done = subprocess.run(command, capture_output=True, timeout=PARTS[name][1] * scale, env=settings)
        out, err = done.stdout, done.stderr
        if done.returncode:
            found["stderr"] = err.decode(errors="replace").splitlines()[-15:]
    except subprocess.TimeoutExpired as late:
        out = late.stdout or b""
        found["stopped"] = f"after its budget of {PARTS[name][1] * scale:.0f} s"
    for line in out.decode(errors="replace").splitlines():
        if re.match(r"\{.*\}$", line):
            found |= json.loads(line, parse_constant=str)  # NaN as a word
    return {"took": round(time.perf_counter() - start, 1), **found}


def main(words: list[str] | None = None) -> int:
    """Run all parts, or --only some, and write the file after each."""
    from mdrlib.results import environment, git, write_json

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="a trial at tiny sizes, without a GPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the budgets of seconds")
    parser.add_argument("--out", type=Path, default=ROOT / "_build/gpu-once.json")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    device = "cpu" if given.cpu else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU on this machine: --cpu tries the command without one", file=sys.stderr)
        return 1
    if given.part:
        return part(given.part, device)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {}
    for name in given.only:
        parts[name] = told(name, device, given.scale)
        print(name, json.dumps(parts[name]), flush=True)
        where = {"environment": environment(torch.device(device)), "git": git()}
        write_json(given.out, {**where, "parts": parts})
    print(f"stored {given.out}")
    return int(any("error" in found or "stopped" in found for found in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
