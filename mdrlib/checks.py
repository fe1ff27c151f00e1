"""Checks of the arguments of public functions, in one place so that the errors read alike."""

import math
import os
import reprlib
import sys
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHOWN = 80  # characters of a wrong value in an error


def transformed() -> bool:
    """Return whether torch.compile, torch.export or torch.func runs the code, which then sees no values."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def recomputing() -> bool:
    """Return whether a backward pass runs the code, as it does when checkpointing computes a part again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def embeddings(
    x: Tensor,
    name: str = "embeddings",
    at_least: int = 2,
    wait: bool = True,
    dim: int | None = None,
    values: bool = True,
) -> Tensor:
    """Return finite embeddings (N, D), N >= `at_least` and D = `dim` if given, in float32 or float64.

    Half precision is widened: a mean over N(N-1) distances does not fit in 8 or 11 bits. With wait=False,
    values on a GPU are not checked, because the CPU would wait for them; with values=False, none are.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (N, D), got {type(x).__name__}")
    if not x.is_floating_point() or x.dtype.itemsize < 2:
        how = "convert it to 16 bits or more, for example with .float()"
        raise TypeError(f"{name} must be floating point, got {x.dtype}; {how}")
    if x.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {tuple(x.shape)}")
    if x.shape[0] < at_least or x.shape[1] < 1:
        expected = f"at least {at_least} vector(s) of 1 or more dimensions"
        raise ValueError(f"{name} must hold {expected}, got {tuple(x.shape)}")
    if dim not in (None, x.shape[1]):
        raise ValueError(f"{name} must have {dim} dimensions, got {x.shape[1]}")
    if values and not transformed() and (wait or x.device.type == "cpu"):
        finite(x, name)
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def finite(x: Tensor, name: str = "embeddings") -> None:
    """Raise ValueError if x holds NaN or infinite values."""
    # A sum is finite only if all of it is, and faster than a check of each. It may overflow: then check.
    if not math.isfinite(x.detach().sum()) and not x.isfinite().all():
        bad = f"{int((~x.isfinite()).sum())} NaN or infinite values among {x.numel()}"
        raise ValueError(f"{name} hold {bad}: check the learning rate and the input")


def labels(y: Tensor, count: int, name: str = "labels") -> Tensor:
    """Return integer labels (N,) with N = `count` as int64."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (N,), got {type(y).__name__}")
    if y.is_floating_point() or y.is_complex():
        raise TypeError(f"{name} must be integers, got {y.dtype}; convert with .long()")
    if y.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one per vector, got {tuple(y.shape)}")
    return y.long()


def shown(value: Any) -> str:
    """Return repr(value) as one line of at most SHOWN characters, whatever the size of the value."""
    short = reprlib.Repr()
    short.maxlevel = 2
    short.maxstring = short.maxother = short.maxlong = SHOWN
    try:
        text = " ".join(short.repr(value).split())
    except ValueError:  # Python prints no integer of more than 4,300 digits
        text = f"{type(value).__name__} of too many digits"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def path(value: str | os.PathLike[str], name: str = "path") -> Path:
    """Return a path with ~ expanded: shells do not expand it in --out=~/runs, and YAML never does."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {shown(value)}")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} {shown(value)} is below no known home folder: write it in full") from error


def whole(value: int, name: str, least: int) -> int:
    """Return an integer of Python, numpy or torch, at least `least`, as int; True and 3.0 are refused."""
    wanted = f"{name} must be a whole number of at least {least}, got {shown(value)}"
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(wanted)
    if value < least:
        raise ValueError(wanted)
    return value


def real(value: float, name: str, least: float = -math.inf, below: float = math.inf) -> float:
    """Return a finite number of Python, numpy or torch, in [`least`, `below`), as float."""
    limits = [f"at least {least:g}"] if least > -math.inf else []
    limits += [f"below {below:g}"] if below < math.inf else []
    wanted = f"{name} must be a finite number {' and '.join(limits)}".strip() + f", got {shown(value)}"
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(wanted)
    largest = sys.float_info.max  # which an integer may exceed
    if not (max(least, -largest) <= value <= largest and value < below):
        raise ValueError(wanted)
    return float(value)


def _plain(value: Any) -> Any:
    """Return a scalar of numpy or torch as a Python number, anything else unchanged."""
    return value.item() if getattr(value, "shape", None) in ((), (1,)) else value


def level_values(levels: Tensor | Iterable[float]) -> Tensor:
    """Return finite levels as a floating-point tensor (S,), S >= 1."""
    levels = levels if isinstance(levels, Tensor) else torch.tensor([float(s) for s in levels])
    levels = levels if levels.is_floating_point() else levels.float()
    unseen = transformed() or levels.device.type != "cpu"  # a GPU is not waited for
    if levels.ndim != 1 or levels.numel() == 0 or not (unseen or levels.isfinite().all()):
        raise ValueError(f"levels must be one or more finite numbers such as (-3., 0., 3.), got {levels}")
    return levels


def scalar(value: float | Tensor, name: str, minimum: float = -math.inf) -> float | Tensor:
    """Return a finite number, or tensor of one, not below `minimum`."""
    if not isinstance(value, Tensor):
        return real(value, name, minimum)
    if not (transformed() or value.is_cuda):  # a GPU is not waited for
        real(value, name, minimum)
    return value.detach().reshape(())
