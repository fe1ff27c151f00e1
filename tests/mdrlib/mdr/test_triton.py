"""Backend "triton" without a GPU: its tests in Triton's interpreter, its kernels through the compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mdrlib import MDR, mdr_loss

HERE = Path(__file__).parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

pytestmark = pytest.mark.skipif(INTERPRETED, reason="is in the interpreter already")


def run(*command, **environment):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=HERE.parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=540,
    )
    return done.returncode, done.stdout + done.stderr


CORE = "three_steps and 8x4 or pairs_with_a_bank or near_coincident"


@pytest.mark.parametrize(
    "which, least",
    [(f"triton and ({CORE})", 5), pytest.param("triton", 30, marks=pytest.mark.slow)],
    ids=("core", "all"),
)
@pytest.mark.timeout(600)
def test_backend_in_the_interpreter(which, least):
    pytest.importorskip("triton")
    code, output = run(
        "-m", "pytest", str(HERE), "-q", "-k", which, "-p", "no:cacheprovider", TRITON_INTERPRET="1"
    )
    assert code == 0, output[-5000:]
    assert int(output.split(" passed")[0].split()[-1]) >= least, output


def test_cpu_tensors_without_the_interpreter_are_refused():
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="on a GPU, not cpu.*tiled"):
        MDR(backend="triton")(torch.randn(4, 2))


def test_without_triton_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "mdrlib.mdr.triton_kernels", raising=False)
    monkeypatch.delattr("mdrlib.mdr.triton_kernels", raising=False)
    with pytest.raises(ImportError, match="triton"):
        mdr_loss(torch.randn(4, 2), (0.0,), 1.0, 1.0, backend="triton")


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mdrlib.mdr import triton_kernels as kernels

tile = {"SELF": True}
near = {"OWN": 128, "OTHER": 32, "DIMS": 32, "TILES": 128}
numbers = "rows columns dims once own_count other_count own_step other_step own_tile other_tile".split()
for kernel, constants in (
    (kernels.sums_kernel, tile),
    (kernels.loss_kernel, tile | {"SHARE": 0.5, "WEIGHTS": True, "LEVELS": 3}),
    (kernels.near_kernel, near),
):
    types = {n: "i32" if n in numbers else "*i32" if "tiles" in n else "*fp32" for n in kernel.arg_names}
    types |= dict.fromkeys(constants, "constexpr")
    at = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, types, constexprs=at)
    code = triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm
    assert "atom." not in code["ptx"], "an order of additions that may change"
    print("compiled", kernel.__name__)
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_atomics():
    triton = pytest.importorskip("triton")
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
        pytest.skip("the compiler is called otherwise")
    code, output = run("-c", COMPILE)
    assert code == 0 and output.count("compiled") == 3, output
