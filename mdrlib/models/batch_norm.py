"""Batch norm over the batches of several processes, on a GPU by torch's own, on a CPU by what is here."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def share_batch_norm(model: nn.Module) -> None:
    """Let the batch-norm layers of `model` that are in training mode take the statistics of all processes.

    In place: parameters and the keys of the state_dict stay. All processes have to give them inputs of one
    size. Raises ValueError for a layer of another class than nn.BatchNorm1d, 2d and 3d.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    for layer in layers:
        if type(layer) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):  # timm's have an activation
            raise ValueError(
                f"{type(layer).__name__} cannot take the statistics of several processes together; "
                "use freeze_batch_norm=True, one process, or another backbone"
            )
    if layers and layers[0].weight.is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for layer in layers:  # nn.SyncBatchNorm refuses CPU tensors
        layer.__class__ = _BatchNormOfAll


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class _BatchNormOfAll(_BatchNorm):
    """Batch norm with mean and variance over the inputs (N, C, ...), of one shape, of all processes."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        others = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _Sum.apply(wide.sum(others)) / count
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(others)) / count
        if self.running_mean is not None:
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)
