"""Backend "triton" without a GPU: its tests in Triton's interpreter, its kernels through the compiler."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from mdrlib import MDR, mdr_loss
from mdrlib.distances import kernels_run, tried
from mdrlib.mdr import tiled
from mdrlib.mdr.module import _backend

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
GPU = "test_sizes or compiled_whole or from_differences or not_finite"  # of test_on_a_gpu.py


@pytest.mark.parametrize(
    "which, least",
    [(f"triton and ({CORE}) or {GPU}", 16), pytest.param("triton or on_a_gpu", 90, marks=pytest.mark.slow)],
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


def test_auto_takes_tiled_with_one_warning_where_triton_cannot_build(monkeypatch):
    """As without a C compiler, which Triton's launcher needs; `auto` on a GPU that is not there."""
    pytest.importorskip("triton")
    device = torch.device("cuda:0")
    tried.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Triton cannot run on cuda:0.*plain torch") as warned:
            assert not kernels_run(device)
            assert _backend("auto", types.SimpleNamespace(device=device)) is tiled
        assert len(warned) == 1
    finally:
        tried.cache_clear()


def test_a_module_and_embeddings_on_two_devices_get_one_clear_line():
    x = torch.empty(4, 2, device="meta")
    with pytest.raises(ValueError, match=r"embeddings are on meta and MDR on cpu: .*\.to\('meta'\)"):
        MDR()(x)
    with pytest.raises(ValueError, match="embeddings are on cpu and the bank on meta"):
        MDR()(torch.randn(4, 2), x)


COMPILE = """
import itertools, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mdrlib import differences
from mdrlib.mdr import triton_kernels, triton_small

REGISTERS = 168  # a thread, for 3 programs of 4 warps at a time
NUMBERS = "n m rows columns stride dims once tiles programs row_step column_step".split()
NUMBERS += "own_count other_count own_step other_step own_tile other_tile".split()
WIDE = "sums_kernel loss_kernel weights_kernel".split()  # of rows that are padded
settings = {"SELF": True, "SQUARED": False, "DIVIDE": True, "MIRROR": True, "SHARE": 0.5, "WEIGHTS": True}
settings |= {"UPDATE": True, "DIAGONAL": False, "RELATIVE": 1e-4, "ABSOLUTE": 1e-8, "GRADIENT": True}
settings |= {"OWN": 128, "OTHER": 16, "TILES": 128}
kernels = [
    (differences.distances_kernel, 4, [{"MOMENTS": True}, {"MOMENTS": False}]),
    (differences._forces_kernel, 8, [{}]),
    (triton_small.weights_kernel, 4, [{"LEVELS": 3}, {"LEVELS": 16}]),
    (triton_small.gradient_kernel, 8, [{"LEVELS": 3}, {"LEVELS": 16}]),
    (triton_kernels.sums_kernel, 4, [{}]),
    (triton_kernels.loss_kernel, 4, [{"LEVELS": s, "HALVES": h} for s in (3, 16) for h in (True, False)]),
    (triton_kernels.near_kernel, 8, [{}]),
]
kinds = {"moments": "*fp64", "momentum": "fp32", "near_tiles": "*i32", "tiles": "*i32"}


def compiled(kernel, warps, constants, capability, divisible):
    types, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        number = name in NUMBERS and not (name == "tiles" and kernel is triton_kernels.near_kernel)
        types[name] = "constexpr" if name in constants else "i32" if number else kinds.get(name, "*fp32")
        if name == "weights" and constants.get("HALVES"):
            types[name] = "*bf16"
        if types[name].startswith("*") or name == "stride" or number and divisible:
            attributes[(place,)] = [["tt.divisibility", 16]]
    at = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, types, constexprs=at, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}).asm


def usage(cubin):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True)
    text = done.stdout + done.stderr
    return [int(re.search(name + ":([0-9]+)", text)[1]) for name in ("REG", "STACK", "LOCAL")]


for (kernel, warps, choices), divisible in itertools.product(kernels, (True, False)):
    for choice in choices:
        constants = {name: value for name, value in (settings | choice).items() if name in kernel.arg_names}
        code = compiled(kernel, warps, constants, int(sys.argv[1]), divisible)
        registers, stack, local = usage(code["cubin"])
        case = f"{kernel.__name__} {choice} {divisible}: {registers} registers"
        assert "atom." not in code["ptx"], "an order of additions that may change: " + case
        assert stack == local == 0, "spilled registers: " + case
        assert registers <= REGISTERS, case
        wide = re.search(r"ld\\.global[.a-z0-9:]*\\.v[24]", code["ptx"])
        if kernel.__name__ in WIDE or divisible and kernel is not triton_kernels.near_kernel:
            assert wide, "loads of single numbers: " + case
        print("compiled", case)
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", (80, 90, 100))
def test_kernels_fit_a_gpu(capability):
    """No spilled register, at most 168 of them, wide loads, no atomics; for 3 and 16 levels and odd sizes."""
    triton = pytest.importorskip("triton")
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 4):
        pytest.skip("the compiler is called otherwise")
    code, output = run("-c", COMPILE, str(capability))
    assert code == 0 and output.count("compiled") == 26, output
