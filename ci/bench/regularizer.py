"""The regularizer, forward and backward, next to the authors' formulation and to bare matrix products.

The authors' formulation is our own code, after the paper and what is known of theirs: the full distance
matrix by products, its mean and standard deviation, every pair against every level, autograd. "Products" are
what every formulation needs, one after another in float32: E E^T twice (N x D by D x N) and W E (N x N by
N x D). Embeddings are random, four per class. Every candidate takes mean and standard deviation over the
full matrix, as the authors do, so that all of them compute the same numbers. The reference for their accuracy
is computed in float64.
"""

import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from bench.measuring import Row, gpu_memory, peak_memory, row, side_by_side
from mdrlib import MDR

DIM = 512
SIZES = {
    "cpu": (64, 128, 256, 1024, 2048, 4096),
    "cuda": (128, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536),
}
MEMORY_SIZE = 8192  # on a CPU, where it needs processes of its own
BUDGET = 12.0  # seconds of the slowest candidate, where a repetition of it takes more than 0.2
LARGE = 2048  # above it the CPU does not run eager, which is slower than all others
TARGETS = {  # by device and N: at least so many times faster than these
    ("cpu", 64): {"authors": 1.3, "eager": 1},
    ("cpu", 128): {"authors": 1.8, "eager": 1},
    ("cpu", 256): {"authors": 1, "eager": 1},
    ("cpu", 1024): {"authors": 3, "products": 1 / 2.5},
    ("cpu", 4096): {"authors": 5, "products": 1 / 2.5},
    ("cuda", 8192): {"authors": 5, "authors, compiled": 2, "products": 1 / 2},
}

warnings.filterwarnings("ignore", "nothing has moved the levels")  # steps are measured without an optimizer


class Authors(nn.Module):
    """MDR as its authors compute it: matrices of N x N numbers, and of levels x N x N, kept for autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([-3.0, 0.0, 3.0]))
        self.statistics: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        norms = x.square().sum(1)
        d = (norms[:, None] + norms[None, :] - 2 * x @ x.T).clamp(min=1e-12).sqrt()
        diagonal = torch.eye(len(x), dtype=torch.bool, device=x.device)
        d = d.masked_fill(diagonal, 0.0)
        batch = d.detach().mean(), d.detach().std()
        before = self.statistics or batch
        self.statistics = tuple(0.9 * old + 0.1 * new for old, new in zip(before, batch, strict=True))
        mean, std = self.statistics
        z = (d[~diagonal] - mean) / std
        return (z[None] - self.levels[:, None]).abs().min(dim=0).values.mean()


def embeddings(n: int, device: str = "cpu", per_class: int = 4) -> Tensor:
    """Return random clusters (n, DIM); pairs of a class are at about half the distance of others."""
    generator = torch.Generator().manual_seed(n)
    centres = torch.randn(-(-n // per_class), DIM, generator=generator)
    spread = 0.6 * torch.randn(n, DIM, generator=generator)
    return (centres.repeat_interleave(per_class, 0)[:n] + spread).to(device)


def step(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and dL/dx of one forward and backward pass."""
    leaf = x.detach().requires_grad_()
    loss = module(leaf)
    loss.backward()
    return loss.detach(), leaf.grad


def reference(x: Tensor, levels: tuple[float, ...] = (-3.0, 0.0, 3.0)) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of a first batch in float64, in blocks of rows, from the equations."""
    x, n = x.double() - x.double().mean(0), len(x)
    s = torch.tensor(levels, dtype=torch.float64, device=x.device)
    blocks = torch.arange(n, device=x.device).split(max(1, min(512, 2**25 // n)))

    def distances(rows: Tensor) -> Tensor:
        norms = x.square().sum(1)
        sq = (norms[rows, None] + norms - 2 * x[rows] @ x.T).clamp_min_(0)
        sq[torch.arange(len(rows), device=x.device), rows] = 0
        return sq.sqrt_()

    total = sum(distances(rows).sum() for rows in blocks)
    mean = total / n**2
    std = (sum((distances(rows) - mean).square_().sum() for rows in blocks) / (n**2 - 1)).sqrt()
    loss, gradient, pairs = torch.zeros_like(mean), torch.empty_like(x), n * (n - 1)
    for rows in blocks:
        d = distances(rows)
        z = (d - mean) / std
        r = z - s[torch.bucketize(z, (s[1:] + s[:-1]) / 2)]
        r[torch.arange(len(rows), device=x.device), rows] = 0
        loss += r.abs().sum() / pairs
        w = torch.where(d > 0, r.sign() / d, 0.0) * (2 / (pairs * std))
        gradient[rows] = w.sum(1, keepdim=True) * x[rows] - w @ x
    return loss, gradient


def candidates(n: int, device: str, backends: tuple[str, ...]) -> dict[str, nn.Module]:
    """Return the modules to measure by name."""
    made: dict[str, nn.Module] = {"authors": Authors()}
    if device == "cuda":
        torch._dynamo.reset()  # or the compiler would give up after a few sizes
        made["authors, compiled"] = torch.compile(Authors())
    made |= {backend: MDR(diagonal_in_stats=True, backend=backend) for backend in backends}
    return {name: module.to(device) for name, module in made.items()}


def measure(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Measure all sizes; on a GPU rows have times and memory, on a CPU memory has rows of its own."""
    backends = ("eager", "tiled")
    if device == "cuda" and find_spec("triton"):
        backends += ("triton",)
    rows = []
    for n in (64, 128) if quick else SIZES[device]:
        few = (
            tuple(name for name in backends if name != "eager") if device == "cpu" and n > LARGE else backends
        )
        rows += at(n, device, few, quick)
    if device == "cpu":
        rows += memory(256 if quick else MEMORY_SIZE, backends)
    return rows


def at(n: int, device: str, backends: tuple[str, ...], quick: bool = False) -> list[Row]:
    """Measure all candidates that fit at batch size n, with memory (GPU) and accuracy."""
    x = embeddings(n, device)
    want = reference(x)
    calls: dict[str, Callable[[], object]] = {}
    accuracy, held, notes, slowest = {}, {}, {}, 0.0
    for name, module in candidates(n, device, backends).items():
        try:
            if device == "cuda":
                step(module, x)  # compiled now
                held[name] = gpu_memory(lambda module=module: step(module, x))
            start = time.perf_counter()
            accuracy[name] = errors(step(module, x), want)
            slowest = max(slowest, time.perf_counter() - start)
            calls[name] = lambda module=module: step(module, x)
        except torch.OutOfMemoryError:
            notes[name] = "out of memory"
        except Exception as error:
            if "compiled" not in name:
                raise
            notes[name] = f"did not compile: {type(error).__name__}"
        if name in notes and device == "cuda":
            torch.cuda.empty_cache()
    if n * n * 4 < 2**33:
        w = torch.randn(n, n, device=x.device)
        calls["products"] = lambda: (x @ x.T, x @ x.T, w @ x)
    repetitions = (
        2
        if quick
        else 300
        if slowest < 0.02
        else 20
        if slowest < 0.2
        else max(3, min(20, int(BUDGET / slowest)))
    )
    times = side_by_side(calls, repetitions, warmup=2 if slowest < 0.2 else 1, device=device)
    rows = []
    where = {"threads": torch.get_num_threads()} if device == "cpu" else {}
    for name in (*calls, *notes):
        what = "E E^T twice, W E" if name == "products" else f"MDR, {name}"
        more = where | {"accuracy": accuracy.get(name), "memory_mb": held.get(name)}
        if name in notes:
            more["note"] = notes[name]
        if name == ("triton" if device == "cuda" else "tiled"):
            more |= verdict(n, device, name, times, held)
        rows.append(row(what, f"{n} x {DIM}", times.get(name), times, **more))
    return rows


def errors(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return the relative errors of loss and gradient, the latter as a vector."""
    parts = zip(("loss", "gradient"), got, want, strict=True)
    return {name: float(f"{float((a.double() - b).norm() / b.norm()):.1e}") for name, a, b in parts}


def verdict(n: int, device: str, name: str, times: dict[str, Row], held: Row) -> Row:
    """Return the target at this size, if any, and whether it is met; None where a peer did not run."""
    if device == "cuda" and n == SIZES["cuda"][-1]:
        fits = held.get(name) is not None and held[name] < 4000
        return {"target": "under 4 GB more where the authors' formulation runs out", "met": fits}
    wanted = TARGETS.get((device, n))
    if wanted is None:
        return {}
    words = [
        f"at least {least:g} x faster than {peer}" if least > 1
        else f"not slower than {peer}" if least == 1
        else f"at most {1 / least:g} x the {peer}"
        for peer, least in wanted.items()
    ]  # fmt: skip
    if not all(peer in times for peer in wanted):
        return {"target": ", ".join(words), "met": None}
    ratios = {peer: times[peer]["median_s"] / times[name]["median_s"] for peer in wanted}
    return {"target": ", ".join(words), "met": all(ratios[peer] >= least for peer, least in wanted.items())}


def memory(n: int, backends: tuple[str, ...]) -> list[Row]:
    """Measure what a step takes on a CPU above embeddings and imports, each in its own process."""
    setup = (
        "from bench import regularizer as section\n"
        f"modules = section.candidates({n}, 'cpu', {backends!r})\n"
        "for module in modules.values(): section.step(module, section.embeddings(64))\n"
        "for module in modules.values(): vars(module).update(statistics=None)\n"
        f"x = section.embeddings({n})"
    )
    rows = []
    for name in ("authors", *backends):
        held = peak_memory(f"section.step(modules[{name!r}], x)", setup)
        told = {"target": "under 100 MB more", "met": held < 100} if name == "tiled" else {}
        rows.append(row(f"memory of MDR, {name}", f"{n} x {DIM}", memory_mb=held, **told))
    return rows
