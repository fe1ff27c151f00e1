"""Tests that take `backend` run for each one; "triton" on a GPU, or in Triton's interpreter.

Triton decides that when it is imported: `test_triton.py` starts a process of its own for it.
"""

import os
from importlib.util import find_spec

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mdrlib.mdr import dense, triton_backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


GPU = torch.cuda.is_available() and find_spec("triton") is not None
TRITON = ("triton", "triton-strips") if INTERPRETED or GPU else ()


@pytest.fixture(params=("eager", "tiled", "tiles", *TRITON))
def backend(request, monkeypatch):
    """The name of a backend; "triton" takes the tests' tensors to the GPU and brings its results back."""
    if request.param == "tiles":  # small batches too
        monkeypatch.setattr(dense, "LARGEST", 0)
        return "tiled"
    if request.param == "triton-strips":  # likewise
        monkeypatch.setattr(triton_backend, "SMALL", 0)
    if "triton" in request.param and not INTERPRETED:
        for name in ("step", "pairs", "statistics", "loss"):
            monkeypatch.setattr(triton_backend, name, there_and_back(getattr(triton_backend, name)))
    return request.param.split("-")[0]


def there_and_back(function):
    def moved(*arguments):
        found = function(*tree_map_only(torch.Tensor, torch.Tensor.cuda, arguments))
        return tree_map_only(torch.Tensor, torch.Tensor.cpu, found)

    return moved


class Watch(TorchDispatchMode):
    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return out


@pytest.fixture
def watch():
    """A context in which `watch.largest` becomes the number of elements of the largest tensor made."""
    return Watch()
