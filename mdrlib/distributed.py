"""Several processes that train as one: `torchrun -m mdrlib run ...` on several GPUs or nodes.

Each process sends its share of a batch through the network, gathers all embeddings and takes the loss of the
whole batch; DistributedDataParallel averages the gradients of the network. So each process has the loss, the
gradients, the levels and the running statistics that one process would have. Of one process, which torchrun
has not started, every function here does nothing or the plain thing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mdrlib.models.batch_norm import share_batch_norm

# How long a process waits for the others before it takes them for dead. The first one evaluates alone.
TIMEOUT = timedelta(minutes=10)
T = TypeVar("T")


def join() -> None:
    """Join the processes that torchrun has started. Does nothing without torchrun, or in a process group.

    CPU tensors travel by gloo, those of GPUs by nccl.
    """
    if dist.is_torchelastic_launched() and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)


@contextmanager
def processes() -> Iterator[None]:
    """All that a process of torchrun does: `join` at the start, leave at the end, which is for good.

    An error goes into torchrun's summary of what failed. The group is then left as it is: to end it, all
    would have to be there.
    """
    join()
    try:
        yield
    except Exception as error:
        if world_size() > 1:
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)
        raise
    if world_size() > 1:
        _wait()  # or one would be gone while another still listens to it
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_world_size() -> int:
    """How many processes there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if world_size() > 1 else 1


def local_rank() -> int:
    """The number of this process among those of this machine."""
    return int(os.environ.get("LOCAL_RANK", rank())) if world_size() > 1 else 0


def from_first(function: Callable[[], T]) -> T:
    """What `function()` returns or raises in the first process, the only one to call it, in every process.

    What it returns has to be picklable, its tensors on the CPU.
    """
    if world_size() == 1:
        return function()
    found: list[Any] = [None, None]
    if rank() == 0:
        try:
            found[0] = function()
        except Exception as error:
            found[1] = error
    dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
    if found[1] is not None:
        raise found[1]
    return found[0]


def agree(name: str, value: Any) -> None:
    """Raise ValueError in a process whose `value`, called `name`, is not that of the first."""
    first = from_first(lambda: value)
    if value != first:
        raise ValueError(f"{name} differs: {first} in the first process, {value} in process {rank()}")


@contextmanager
def local_first() -> Iterator[None]:
    """Let the first process of each machine through, then the others: they find what it has downloaded."""
    if local_rank() > 0:
        _wait()
    try:
        yield
    finally:  # after an error too: the others will meet it themselves
        if local_rank() == 0:
            _wait()


def _wait() -> None:
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))  # a barrier might choose a GPU before the processes have theirs


@torch.no_grad()
def broadcast(*modules: object) -> None:
    """Give the modules among `modules` the parameters and buffers that they have in the first process."""
    if world_size() > 1:
        for module in modules:
            for value in module.state_dict().values() if isinstance(module, nn.Module) else ():
                if isinstance(value, Tensor):
                    dist.broadcast(value, 0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every process has the gradient of the same loss by all rows, and knows how its own rows came to be.
        # Over the processes the network's gradients have to be summed: DistributedDataParallel averages.
        return gradient.tensor_split(world_size())[rank()] * world_size()


def gather(x: Tensor) -> Tensor:
    """Rows (B / world_size, ...) of each process -> all rows (B, ...), by rank, with gradient.

    Every process has to take the same loss of them, and DistributedDataParallel to average the gradients of
    what x was made with: the backward pass gives x its gradient times world_size.
    """
    return _Gather.apply(x) if world_size() > 1 else x


def shards(count: int, batch_size: int) -> list[int]:
    """How many of `count` rows each process takes, by rank: whole batches, the last of which may be short.

    So each batch is the one that a single process would have, and its results have the same bits. Shares
    differ by one batch at most; some are 0 where there are fewer batches than processes.
    """
    batches = -(-count // batch_size)
    bounds = [min(count, batches * r // world_size() * batch_size) for r in range(world_size() + 1)]
    return [stop - start for start, stop in zip(bounds, bounds[1:], strict=False)]


@torch.no_grad()
def gather_shards(x: Tensor, sizes: list[int]) -> Tensor:
    """Rows (sizes[rank], ...) of each process -> all rows (sum of sizes, ...), by rank, without gradient."""
    if world_size() == 1:
        return x
    parts = [x.new_empty(max(sizes), *x.shape[1:]) for _ in sizes]
    parts[rank()][: len(x)] = x  # what travels is of one size; what is beyond a share is cut off again
    dist.all_gather(parts, parts[rank()].clone())
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _WholeBatch(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, gather=gather)


def parallel(model: nn.Module) -> nn.Module:
    """The model for training steps: images of this process's share -> embeddings of the whole batch.

    `model(images, gather=f)` has to apply f to the rows of its share before anything that makes them depend
    on each other, as `models.Embedder` does. Batch norm that is not frozen takes the statistics of the whole
    batch from here on, in `model` itself. What else in the network is random (dropout) draws the same numbers
    in every process, not those of one process. Of one process: the model.
    Raises ValueError for a batch norm of a kind of its own that is not frozen.
    """
    if world_size() == 1:
        return model
    share_batch_norm(model.train())
    return DistributedDataParallel(_WholeBatch(model))
