"""mdrlib.allocator in a process of its own, since what it sets stays."""

import platform
import subprocess
import sys

import pytest

from mdrlib import allocator

STEP = """
import resource, sys
from mdrlib.allocator import keep_freed_memory
if sys.argv[1] == "keep": assert keep_freed_memory()
import torch
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(12_000_000)
before = faults()
for _ in range(40): torch.ones(12_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again():
    faults = {}
    for name in ("keep", "return"):
        done = subprocess.run([sys.executable, "-c", STEP, name], capture_output=True, text=True, check=True)
        faults[name] = int(done.stdout)
    assert faults["keep"] < faults["return"] / 3, faults  # page faults, whose work this saves


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is False
