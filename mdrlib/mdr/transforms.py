"""What torch.compile, torch.export and torch.func see of the gradient by hand: two operators.

A graph holds an operator as one node, computed by the backend when the graph runs. So it takes no part in
fusion, and it measures distances for the statistics and again for the loss.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdrlib.distances import full_precision
from mdrlib.mdr import tiled, triton_backend
from mdrlib.mdr.analytic import FIRST_ONLY

BY_HAND = {"tiled": tiled, "triton": triton_backend}


@torch.library.custom_op("mdrlib::statistics", mutates_args=())
def _statistics(x: Tensor, bank: Tensor | None, diagonal: bool, backend: str) -> list[Tensor]:
    with full_precision(x.device):
        found = BY_HAND[backend].statistics(BY_HAND[backend].pairs(x, bank), diagonal)
        return [torch.as_tensor(value, dtype=x.dtype, device=x.device).clone() for value in found]


@_statistics.register_fake
def _(x: Tensor, bank: Tensor | None, diagonal: bool, backend: str) -> list[Tensor]:
    return [x.new_empty(()), x.new_empty(())]


@torch.library.custom_op("mdrlib::loss", mutates_args=())
def _loss(
    x: Tensor, bank: Tensor | None, levels: Tensor, mean: Tensor, std: Tensor, backend: str
) -> list[Tensor]:
    with full_precision(x.device), torch.cuda.device_of(x):
        functions = BY_HAND[backend]
        return list(functions._compute(functions.pairs(x, bank), levels, mean, std, True, True))


@_loss.register_fake
def _(
    x: Tensor, bank: Tensor | None, levels: Tensor, mean: Tensor, std: Tensor, backend: str
) -> list[Tensor]:
    return [x.new_empty(()), x.new_empty(x.shape), levels.new_empty(levels.shape)]


class Operators(NamedTuple):
    """A backend, as `mdrlib.mdr.tiled` is one, made of the operators."""

    name: str

    def pairs(self, x: Tensor, bank: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return x, bank

    def statistics(
        self, pairs: tuple[Tensor, Tensor | None], diagonal: bool = False
    ) -> tuple[Tensor, Tensor]:
        x, bank = pairs
        return tuple(_statistics(x.detach(), bank, diagonal, self.name))

    def loss(self, pairs: tuple[Tensor, Tensor | None], levels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        return _Loss.apply(*pairs, levels, mean, std, self.name)[0]


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, bank: Tensor | None, levels: Tensor, mean: Tensor, std: Tensor, backend: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(_loss(x, bank, levels, mean, std, backend))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], inputs[2], *output[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        x, levels, *gradients = ctx.saved_tensors
        dx, dlevels = (_Once.apply(of, g) * upstream for of, g in zip((x, levels), gradients, strict=True))
        return dx, None, dlevels, None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple, *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        single = [
            [value if dim is None else value.select(dim, k) for value, dim in zip(inputs, dims, strict=True)]
            for k in range(info.batch_size)
        ]
        outputs = zip(*(_Loss.apply(*each) for each in single), strict=True)
        return tuple(torch.stack(parts) for parts in outputs), (0, 0, 0)


class _Once(torch.autograd.Function):
    """The gradient, as a function of what it belongs to; without it a second derivative would be 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(of: Tensor, gradient: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> None:
        raise RuntimeError(FIRST_ONLY)
