"""Processes that train as one: `torchrun -m mdrlib run ...` on several GPUs or nodes.

Each process sends its shard of the global batch through the network, gathers all embeddings and takes the
loss of the global batch; DistributedDataParallel averages the gradients of the network. So every process has
the loss, gradients, levels and statistics of a single process. Without torchrun there is one process.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(hours=1)  # the first process evaluates alone
T = TypeVar("T")


def join() -> None:
    """Join the processes that torchrun has started, by gloo for CPU tensors and nccl for GPU tensors."""
    if dist.is_torchelastic_launched() and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun has started, and leave them; without torchrun there is one.

    An error goes into torchrun's summary of failures. If your program calls `init_process_group` itself,
    leave this out: the other functions of this module use any process group.
    """
    join()
    try:
        yield
    except Exception as error:
        if world_size() > 1:
            get_error_handler().record_exception(error)
        raise  # without leaving, for which all would have to be there
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))  # or one would be gone while another still listens to it
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if world_size() > 1 else 1


def local_rank() -> int:
    """Return the number of this process among those on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank())) if world_size() > 1 else 0


def from_first(function: Callable[[], T]) -> T:
    """Call `function` in the first process; return its result, or raise its error, in every process.

    The others wait, at most for the timeout of the process group, an hour with `processes`. Evaluate
    and save in such a function, with the `module` of DistributedDataParallel and without `gather`, because
    the others do not take part.
    """
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = function()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def agree(name: str, value: Any) -> None:
    """Raise ValueError in every process unless all have the same `value`, which the error calls `name`."""
    found: list[Any] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(found, value)
    for number, other in enumerate(found):
        if other != found[0]:
            raise ValueError(f"{name} differs: {found[0]} in process 0, {other} in process {number}")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return _own_rows(total)


def gather(x: Tensor) -> Tensor:
    """Gather the rows (B / world_size, ...) of all processes into (B, ...), by rank, with gradient.

    If all take the same loss of the global batch, the gradient of x is world_size times that of the loss:
    right once DistributedDataParallel has averaged over processes. So every parameter used before `gather`
    must be in DistributedDataParallel. Those used after it, such as levels and proxies, stay outside: each
    process has their whole gradient.

    Args:
        x: Any dtype, with the same shape in every process; integers, such as labels, have no gradient. One
            process gets x itself.
    """
    return _Gather.apply(x) if world_size() > 1 else x


def _own_rows(x: Tensor) -> Tensor:
    return x.tensor_split(world_size())[rank()]


def parallel(model: nn.Module) -> nn.Module:
    """Wrap a model for training: shard of images -> embeddings of the global batch.

    With one process, return the model unchanged. Dropout draws the same numbers in every process.

    Args:
        model: Called as model(images, gather=gather). It must gather before any operation that makes rows
            depend on each other, as `EmbeddingNetwork` does. For batch norm see `share_batch_norm`.
    """
    if world_size() == 1:
        return model
    share_batch_norm(model.train())
    return DistributedDataParallel(model)


def share_batch_norm(model: nn.Module) -> None:
    """Make batch norm use statistics of the global batch in training, before wrapping the model.

    Raises:
        ValueError: A layer is a subclass of batch norm, such as timm's with an activation.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    for layer in layers:
        if type(layer) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):  # timm's have an activation
            advice = "use freeze_batch_norm=True, one process, or another backbone"
            raise ValueError(f"{type(layer).__name__} cannot share statistics with processes; {advice}")
    if layers and layers[0].weight.is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for layer in layers:  # nn.SyncBatchNorm refuses CPU tensors: each process normalizes the global batch
        layer.register_forward_pre_hook(lambda layer, inputs: gather(inputs[0]) if layer.training else None)
        layer.register_forward_hook(lambda layer, _, y: _own_rows(y) if layer.training else None)
