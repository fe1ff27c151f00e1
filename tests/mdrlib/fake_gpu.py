"""Torch operations on a GPU that is not there: shapes alone, with every wait and launch counted."""

import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import mdrlib

aten = torch.ops.aten
LIBRARY = Path(mdrlib.__file__).parent
# What reads back from the device how many or which numbers there are, or one of them.
READS = {
    aten._local_scalar_dense,
    aten.item,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.unique_dim,
    aten._unique2,
    aten.bincount,
    aten.unique_consecutive,
}
# Memory, views and notes about tensors: nothing runs.
FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach}
FREE |= {aten.lift_fresh, aten.alias, aten._unsafe_view, torch.ops.prim.device}
KERNELS = {"mdrlib::mdr_step": 3, "mdrlib::distances": 1, "mdrlib::distance_gradient": 1}  # of our operators
# torch.use_deterministic_algorithms refuses these on a GPU, or did in a version that we support.
UNORDERED = {aten.cumsum, aten.cumprod, aten.kthvalue, aten.histc, aten.put_, aten.put, aten.median}


class FakeGPU(TorchDispatchMode):
    """Run CPU operations as they are, and those of device "cuda" as shapes."""

    def __init__(self, fake):
        super().__init__()
        self.fake = fake
        self.waits, self.launches, self.unordered = [], [], []
        self.pinned = {}  # by id; the values keep the ids theirs

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        packet, wanted = function.overloadpacket, kwargs.get("device")
        if packet in (aten.is_pinned, aten._pin_memory):
            return self._pin(packet, args[0])
        there = any(isinstance(t, FakeTensor) and t.device.type == "cuda" for t in tensors)
        goes = wanted is not None and torch.device(wanted).type == "cuda"
        if not (there or goes or any(isinstance(t, FakeTensor) for t in tensors)):
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        if there or goes:
            self._note(function, packet, args, kwargs, tensors, wanted)

        def faked(leaf):
            real = isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor)
            return self.fake.from_tensor(leaf) if real else leaf

        args, kwargs = tree_map(faked, (args, kwargs))
        return function(*args, **kwargs)

    def clear(self):
        """Forget what was counted so far."""
        self.waits, self.launches, self.unordered = [], [], []

    def _pin(self, packet, tensor):
        if packet is aten.is_pinned:
            return id(tensor) in self.pinned
        with unset_fake_temporarily():
            copy = tensor.clone()
        self.pinned[id(copy)] = copy
        return copy

    def _note(self, function, packet, args, kwargs, tensors, wanted):
        ours = [at for at in traceback.extract_stack() if LIBRARY in Path(at.filename).parents]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "elsewhere"
        what = f"{function} at {where}"
        devices = {t.device.type for t in tensors if t.ndim or packet in (aten._to_copy, aten.copy_)}
        copies = packet in (aten._to_copy, aten.copy_)
        if copies and wanted is not None:
            devices.add(torch.device(wanted).type)
        if copies and devices == {"cpu", "cuda"}:
            source = args[1] if packet is aten.copy_ else args[0]
            waits = not (kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2]))
            if waits or (source.device.type == "cpu" and id(source) not in self.pinned):
                self.waits.append(what)
        masks = [t for t in tree_leaves(args[1:]) if isinstance(t, torch.Tensor) and t.dtype == torch.bool]
        if packet in READS or (packet in (aten.index, aten.index_put, aten.index_put_) and masks):
            self.waits.append(what)
        if packet in UNORDERED and tensors[0].is_floating_point():
            self.unordered.append(what)
        name = function._schema.name
        aliases = [a.alias_info for a in function._schema.arguments if a.alias_info is not None]
        views = any(not alias.is_write for alias in aliases)
        if packet not in FREE and not views:
            self.launches += [what] * KERNELS.get(name, 1)


@torch.no_grad()
def backward(loss):
    """Tensor.backward node by node: torch's own engine asks the driver for the GPU's streams."""
    needed, seen = Counter(), {loss.grad_fn}
    queue = [loss.grad_fn]
    while queue:
        for node, _ in queue.pop().next_functions:
            if node is not None:
                needed[node] += 1
                if node not in seen:
                    seen.add(node)
                    queue.append(node)
    found = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready = [loss.grad_fn]
    while ready:
        node = ready.pop()
        given = found.pop(node, {})
        if hasattr(node, "variable"):
            leaf = node.variable
            if 0 in given:
                leaf.grad = given[0] if leaf.grad is None else leaf.grad + given[0]
            continue
        call = node if callable(node) else node.apply  # a function of Python
        out = call(*(given.get(k) for k in range(len(node._input_metadata))))
        out = out if isinstance(out, tuple) else (out,)
        for (after, slot), value in zip(node.next_functions, out, strict=False):
            if after is None:
                continue
            if value is not None:
                shape = tuple(after._input_metadata[slot].shape)
                if tuple(value.shape) != shape:  # it was broadcast
                    value = value.sum_to_size(shape)
                slots = found.setdefault(after, {})
                slots[slot] = slots[slot] + value if slot in slots else value
            needed[after] -= 1
            if needed[after] == 0:
                ready.append(after)


@contextmanager
def fake_gpu(monkeypatch):
    """Pretend that a GPU is there and that Triton's kernels run on it."""
    from mdrlib import distances
    from mdrlib.mdr import module

    for place in (distances, module):
        monkeypatch.setattr(place, "kernels_run", lambda device: device.type == "cuda")
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with FakeTensorMode() as fake, FakeGPU(fake) as gpu:
        yield gpu
