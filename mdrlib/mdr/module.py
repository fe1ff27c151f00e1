"""MDR as a module that keeps the running statistics and the levels, and its loss as a pure function."""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

from mdrlib import checks
from mdrlib.distances import kernels_run, pairwise_distances
from mdrlib.mdr import eager, tiled, triton_backend
from mdrlib.mdr.analytic import ABSOLUTE_FLOOR, RELATIVE_FLOOR

BACKENDS = {"eager": eager, "tiled": tiled, "triton": triton_backend}


def _backend(name: str, x: Tensor) -> ModuleType:
    """Return the module with `pairs`, `statistics` and `loss` for a batch x."""
    if name == "auto":
        # CPU: tiled was the faster one at every size, from 128 x 512 on, when measured.
        # GPU: by design (fewer passes over memory, half of the distances), not yet by measurement.
        name = "triton" if kernels_run(x.device) else "tiled"
    if name not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {sorted(BACKENDS)}, got {name!r}")
    return BACKENDS[name]


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


def _spread(mean: Tensor | float, std: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        value.to(like) if isinstance(value, Tensor) else like.new_full((), value)  # a GPU is not waited for
        for value in (mean, std)
    )
    return mean, torch.maximum(std, RELATIVE_FLOOR * mean.abs()).clamp_min(ABSOLUTE_FLOOR)


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
    of the bank, once: N(N-1) + N M. On one machine the same input gives the same bits. The loss is
    differentiable in x and levels. On a GPU, NaN or infinite values make it NaN; elsewhere they are refused.

    Args:
        x: Embeddings (N, D), N >= 2; half precision is computed in float32.
        levels: (S,), in standard deviations from the mean.
        mean, std: Of the distances; std, >= 0, is raised to at least 1e-4 of the mean.
        backend: "eager": the paper's equations and autograd. "tiled" and "triton": the gradient by hand, in
            plain torch or GPU kernels; O(N D) memory, no second derivative. "auto" chooses by device.
        bank: Embeddings (M, D), M >= 0, of past batches, such as a `MemoryBank` keeps.
    """
    x = checks.embeddings(x, wait=False)
    levels = checks.level_values(levels).to(x)
    mean, std = _spread(checks.scalar(mean, "mean"), checks.scalar(std, "std", 0.0), x)
    functions = _backend(backend, x)
    return functions.loss(functions.pairs(x, _constants(bank, x)), levels, mean, std)


class MDR(nn.Module):
    """Multi-level distance regularization (Kim & Park, AAAI 2021, section 3.1).

    Add `weight * mdr(x) + nu * mdr.level_penalty()` to any metric-learning loss, and give
    `mdr.parameters()` to the optimizer.

    Args:
        levels: Initial levels, in standard deviations from the mean distance.
        momentum: In [0, 1). In training mode each batch updates the running mean and standard deviation of
            the distances, m <- momentum * m + (1 - momentum) * batch statistic; the first batch sets them.
        learn_levels: Make the levels a parameter; otherwise they are a buffer.
        diagonal_in_stats: Take mean and standard deviation over the full N x N matrix with its zeros, as the
            authors' code does. The paper, and the default, leave the pairs i = j out.
        backend: See `mdr_loss`.
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
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        _backend(backend, values)  # refuses an unknown name
        if learn_levels:
            self.levels = nn.Parameter(values)
        else:
            self.register_buffer("levels", values)
        self.momentum, self.diagonal_in_stats, self.backend = float(momentum), diagonal_in_stats, backend
        self.register_buffer("running_mean", torch.zeros(()))
        self.register_buffer("running_std", torch.ones(()))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor, bank: Tensor | None = None) -> Tensor:
        """Return the `mdr_loss` of a batch; in training mode, update the running statistics first.

        The statistics are over the pairs of the loss. The bank must not hold x yet, or each embedding would
        be paired with itself. Evaluation mode needs a batch in training mode before it.
        """
        x = checks.embeddings(x, wait=False)
        _together(x, self.levels, "MDR")
        backend = _backend(self.backend, x)
        if backend is triton_backend and backend.is_small(x, bank) and (self.training or self.initialized):
            return self._at_once(x)
        pairs = backend.pairs(x, _constants(bank, x))
        if self.training:
            self._update(*backend.statistics(pairs, self.diagonal_in_stats))
        elif not self.initialized:
            raise RuntimeError("MDR has no running statistics: call it in training mode or load a state_dict")
        mean, std = _spread(self.running_mean, self.running_std, x)
        return backend.loss(pairs, self.levels.to(x.dtype), mean, std)

    def _at_once(self, x: Tensor) -> Tensor:
        running = [self.running_mean, self.running_std, self.initialized]
        settings = self.momentum, self.diagonal_in_stats, self.training
        loss, state = triton_backend.step(x, self.levels.to(x.dtype), *running, *settings)
        if self.training:
            with torch.no_grad():
                torch._foreach_copy_(running, list(state.unbind()))  # one launch
        return loss

    def level_penalty(self) -> Tensor:
        """Return the sum of the squared levels, a scalar: the term that nu weighs."""
        return self.levels.square().sum()

    @torch.no_grad()
    def assign(self, x: Tensor) -> Tensor:
        """Return (N, N) int64 indices of the level nearest to each distance, with -1 on the diagonal.

        The running statistics normalize the distances, before the first batch those of x (N, D) itself.
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
    def _update(self, mean: Tensor, std: Tensor) -> None:
        # `where` instead of `if`: the flags stay on the device, so no step waits for the GPU.
        keep = torch.where(self.initialized, self.momentum, 0.0)
        finite = (mean + std).isfinite()  # otherwise one bad batch would spoil them permanently
        for running, batch in ((self.running_mean, mean), (self.running_std, std)):
            new = torch.lerp(batch.to(running.dtype), running, keep.to(running.dtype))
            running.copy_(torch.where(finite, new, running))
        self.initialized.logical_or_(finite)
