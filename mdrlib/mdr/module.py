"""MDR as a module that keeps the running statistics and the levels, and its loss as a pure function."""

import math
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mdrlib import checks
from mdrlib.distances import full_precision, kernels_run, pairwise_distances
from mdrlib.mdr import eager, tiled, triton_backend
from mdrlib.mdr.analytic import ABSOLUTE_FLOOR, RELATIVE_FLOOR

BACKENDS = {"eager": eager, "tiled": tiled, "triton": triton_backend}
REMEMBERED = 64  # most forward passes before a backward pass that computes them again
PATIENCE = 100  # training calls after which levels should have moved

Number = float | Tensor


def _backend(name: str, x: Tensor, small: bool = False) -> Any:
    """Return the module with `pairs`, `statistics` and `loss` for a batch x; small: `_step` may take it."""
    if name == "auto":
        # CPU: tiled was the faster one at every size, from 64 x 512 on, when measured.
        # GPU: by design (fewer passes over memory, half of the distances), not yet by measurement.
        name = "triton" if kernels_run(x.device) else "tiled"
    if name not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {sorted(BACKENDS)}, got {name!r}")
    operator = small and name == "triton" and torch.compiler.is_compiling()
    return eager if checks.transformed() and not operator else BACKENDS[name]


def _together(x: Tensor, other: Tensor, name: str) -> None:
    """Require that `other` is on the device of the embeddings x."""
    if other.device != x.device:
        where = f"embeddings are on {x.device} and {name} on {other.device}"
        raise ValueError(f"{where}: move the latter with .to({str(x.device)!r})")


def _constants(bank: Tensor | None, x: Tensor) -> Tensor | None:
    """Return the bank without gradient in x's dtype, or None if it is empty."""
    if bank is None:
        return None
    bank = checks.embeddings(bank, "bank", at_least=0, wait=False, dim=x.shape[1])
    _together(x, bank, "the bank")
    return bank.detach().to(x.dtype) if len(bank) else None


def _spread(mean: Number, std: Number, like: Tensor) -> tuple[Number, Number]:
    """Return mean and std, the latter raised: numbers as numbers, tensors in the dtype of `like`."""
    if isinstance(mean, float) and isinstance(std, float):
        return mean, max(std, RELATIVE_FLOOR * mean, ABSOLUTE_FLOOR)
    mean, std = (v.to(like) if isinstance(v, Tensor) else like.new_full((), v) for v in (mean, std))
    return mean, torch.maximum(std, RELATIVE_FLOOR * mean).clamp_min(ABSOLUTE_FLOOR)


def mdr_loss(
    x: Tensor,
    levels: Tensor | Sequence[float],
    mean: Tensor | float,
    std: Tensor | float,
    backend: str = "auto",
    bank: Tensor | None = None,
) -> Tensor:
    """Return the MDR loss for given statistics, the mean over all pairs of ``|z_ij - nearest level|``.

    The pairs are (i, j) of the batch, i != j, in both directions, and each embedding of the batch with each
    of the bank, once: N(N-1) + N M. The same input gives the same bits on one machine. A CPU refuses values
    that are not finite; on a GPU they make the loss NaN.

    Args:
        x: Embeddings (N, D), N >= 2; half precision is computed in float32.
        levels: (S,), in standard deviations from the mean.
        mean, std: Mean and standard deviation of the distances, constants to the gradient; std >= 0 is raised
            to at least 1e-4 mean.
        backend: "eager": the paper's equations and autograd. "tiled" and "triton": an analytic gradient, in
            plain torch or GPU kernels; O(N D) memory, no second derivative. "auto" chooses by device.
        bank: Embeddings (M, D), M >= 0, of past batches, such as those of a `MemoryBank`.

    Returns:
        The loss, a scalar in standard deviations.

    Raises:
        TypeError, ValueError: An argument has another type, shape, device or range.
    """
    x = checks.embeddings(x, values=False)
    levels = checks.level_values(levels).to(x)
    mean, std = _spread(checks.scalar(mean, "mean"), checks.scalar(std, "std", 0.0), x)
    functions = _backend(backend, x)
    with full_precision(x.device):
        return functions.loss(functions.pairs(x, _constants(bank, x)), levels, mean, std)


class MDR(nn.Module):
    """Multi-level distance regularization (Kim & Park, AAAI 2021, section 3.1).

    Add `weight * mdr(x) + nu * mdr.level_penalty()` to any metric-learning loss, and give
    `mdr.parameters()` to the optimizer.

    As in batch norm, every call in training mode updates the running statistics once: under no_grad too, for
    each part of an accumulated gradient, and for each pass of SAM or of a closure of LBFGS. A call that
    activation checkpointing repeats within the backward pass updates nothing and uses the statistics of its
    forward pass, one of the last 64: values and gradients are those without checkpointing, bit for bit.

    An accumulated gradient adds no pairs: each part has only its own. For more pairs take a larger batch, or
    a `MemoryBank`.

    torch.compile takes the module as one graph, but not within a checkpointed part; torch.func and
    torch.export take it in evaluation mode. Values are not checked then, and all distances come from
    differences (backend "eager", except in training compiled for a GPU on small batches). On a CPU
    compilation makes MDR several times slower: exclude it with `torch.compiler.disable(mdr)`.

    Args:
        levels: Initial levels, in standard deviations from the mean distance.
        momentum: In [0, 1). In training mode each batch updates the running mean and standard deviation of
            the distances, m <- momentum * m + (1 - momentum) * batch statistic; the first batch sets them.
        learn_levels: Make the levels a parameter; False makes them a buffer. A parameter that nothing has
            moved in 100 training calls causes a warning.
        diagonal_in_stats: Take mean and standard deviation over the full N x N matrix with its zeros, as the
            authors' code does. The paper, and the default, leave the pairs i = j out.
        backend: See `mdr_loss`.

    The state has `levels` (S,), in standard deviations, and scalars: `running_mean` and `running_std`, in
    units of distance, and `initialized`, 1 after the first batch.
    """

    def __init__(
        self,
        levels: Sequence[float] = (-3.0, 0.0, 3.0),
        momentum: float = 0.9,
        learn_levels: bool = True,
        diagonal_in_stats: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        values = checks.level_values(levels).detach().clone()
        _backend(backend, values)  # refuses an unknown name
        if learn_levels:
            self.levels = nn.Parameter(values)
        else:
            self.register_buffer("levels", values)
        self.momentum, self.diagonal_in_stats = checks.real(momentum, "momentum", 0, 1), diagonal_in_stats
        self.backend = backend
        self.register_buffer("running_mean", torch.zeros(()))
        self.register_buffer("running_std", torch.ones(()))
        self.register_buffer("initialized", torch.zeros(()))  # 1 after a batch; a float can be averaged
        self._recent = deque(maxlen=REMEMBERED)  # newest first: mean and std of a batch, and those it took
        self._seen = self._warned = False
        self._calls = 0

    def forward(self, x: Tensor, bank: Tensor | None = None) -> Tensor:
        """Return the `mdr_loss` of a batch; in training mode, update the running statistics first.

        The statistics are over the pairs of the loss. In evaluation mode before any batch in training mode,
        they are those of x.

        Args:
            x: Embeddings (N, D), N >= 2.
            bank: Embeddings (M, D) of past batches, without those of x: add x after the backward pass.
        """
        x = checks.embeddings(x, values=False)
        _together(x, self.levels, "MDR")
        small = self.training and triton_backend.is_small(x, bank) and not checks.recomputing()
        backend = _backend(self.backend, x, small)
        if self._calls < PATIENCE and self.training:
            self._watch_levels()
        if small and backend is triton_backend:
            return self._step(x)
        with full_precision(x.device):
            pairs = backend.pairs(x, _constants(bank, x))
            mean, std = _spread(*self._statistics(backend, pairs), x)
            return backend.loss(pairs, self.levels.to(x.dtype), mean, std)

    def _step(self, x: Tensor) -> Tensor:
        """Take statistics, running update and loss of a training batch in one operator."""
        running = [self.running_mean, self.running_std, self.initialized]
        settings = self.momentum, self.diagonal_in_stats, True
        loss, state = triton_backend.step(x, self.levels.to(x.dtype), *running, *settings)
        mean, std, initialized, *batch = state.unbind()
        with torch.no_grad():
            torch._foreach_copy_(running, [mean, std, initialized])  # one launch
        self._remember(*batch, mean, std)
        return loss

    def level_penalty(self) -> Tensor:
        """Return the sum of the squared levels, a scalar: the term that nu weighs."""
        return self.levels.square().sum()

    @torch.no_grad()
    def assign(self, x: Tensor) -> Tensor:
        """Return (N, N) int64 indices of the level nearest to each distance, with -1 on the diagonal.

        The running statistics normalize the distances, before the first batch those of x itself.
        Give x (N, D) as the loss gets it, behind the head.
        """
        x = checks.embeddings(x)
        mean, std = self.running_mean, self.running_std
        if not self.initialized:
            mean, std = eager.statistics(eager.pairs(x), self.diagonal_in_stats)
        mean, std = _spread(mean, std, x)
        z = (pairwise_distances(x) - mean) / std
        nearest = (z[..., None] - self.levels.to(z.dtype)).abs().argmin(-1)  # the first of equally near ones
        return nearest.fill_diagonal_(-1)

    @torch.no_grad()
    def _statistics(self, backend: Any, pairs: Any) -> tuple[Number, Number]:
        """Return mean and standard deviation for the loss of these pairs."""
        running, transformed = (self.running_mean, self.running_std), checks.transformed()
        if not (self.training or transformed):
            self._seen = self._seen or bool(self.initialized)  # a GPU is asked, and waited for, once
            if self._seen:
                return running
        batch = backend.statistics(pairs, self.diagonal_in_stats)
        if self.training:
            if checks.recomputing() and self._recent:
                return self._remembered(*batch)
            used = self._update(*batch)
            self._remember(*batch, *used)
            return used
        if transformed:
            return tuple(torch.where(self.initialized > 0, a, b) for a, b in zip(running, batch, strict=True))
        if not self._warned:
            told = "MDR has had no batch in training mode: it uses the statistics of this batch"
            warnings.warn(told, stacklevel=6)
            self._warned = True
        return batch

    def _update(self, mean: Number, std: Number) -> tuple[Number, Number]:
        """Update the running statistics by those of a batch, unless infinite or NaN, and return them."""
        if isinstance(mean, float):
            if math.isfinite(mean + std):
                keep = self.momentum * self.initialized.item()  # 0 before the first batch
                self.running_mean.fill_(mean + keep * (self.running_mean.item() - mean))
                self.running_std.fill_(std + keep * (self.running_std.item() - std))
                self.initialized.fill_(1)
            return self.running_mean.item(), self.running_std.item()
        # `where` instead of `if`: the flags stay on the device, so no step waits for the GPU.
        keep = self.momentum * self.initialized
        finite = mean + std < torch.inf  # otherwise one bad batch would spoil them permanently
        used = []
        for running, batch in ((self.running_mean, mean), (self.running_std, std)):
            used.append(torch.where(finite, torch.lerp(batch.to(running), running, keep), running))
            running.copy_(used[-1])
        self.initialized.copy_(finite | (self.initialized > 0))
        return tuple(used)

    def _remember(self, *entry: Number) -> None:
        if checks.transformed():
            # Compiled within a checkpoint, the backward pass would read the updated statistics: this effect
            # makes torch refuse that with fullgraph=True, and else leave the checkpoint to Python.
            self._recent.clear()
        else:
            self._recent.appendleft(entry)

    def _remembered(self, mean: Number, std: Number) -> tuple[Number, Number]:
        """Return what the loss of this batch took in the forward pass that a backward pass repeats."""
        distances = [abs(float(m) - float(mean)) + abs(float(s) - float(std)) for m, s, *_ in self._recent]
        place = distances.index(min(distances))  # of equal batches the last one first, as in a backward pass
        found = self._recent[place]
        del self._recent[place]
        self._recent.append(found)  # the others come first now
        return found[2:]

    def _watch_levels(self) -> None:
        """Warn if nothing has moved learnable levels in the first calls in training."""
        if not (torch.is_grad_enabled() and self.levels.requires_grad) or checks.transformed():
            return
        if self._calls == 0:
            self._levels_before = self.levels.detach().clone()
        self._calls += 1
        if self._calls == PATIENCE and torch.equal(self.levels, self._levels_before):
            told = f"nothing has moved the levels of MDR in {PATIENCE} training calls"
            ways = "give mdr.parameters() to the optimizer, or use learn_levels=False"
            warnings.warn(f"{told}: {ways}", stacklevel=5)
