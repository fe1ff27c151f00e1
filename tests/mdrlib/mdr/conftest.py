"""Tests that take `backend` run for each; "triton" where its kernels run in Triton's interpreter.

Triton decides that when it is imported: `test_triton.py` starts a process of its own for it.
"""

import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mdrlib.mdr import dense

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(params=("eager", "tiled", "tiles", *(["triton"] if INTERPRETED else [])))
def backend(request, monkeypatch):
    if request.param == "tiles":  # small batches too
        monkeypatch.setattr(dense, "LARGEST", 0)
        return "tiled"
    return request.param


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
