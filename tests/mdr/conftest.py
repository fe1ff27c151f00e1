"""Tests that take `backend` run for each one; "triton" where its kernels run in triton's interpreter.

triton decides that when it is imported: `test_triton.py` starts a process of its own for it.
"""

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(params=("eager", "tiled", "triton") if INTERPRETED else ("eager", "tiled"))
def backend(request):
    return request.param
