"""Checks of what public functions are given, in one place so that the errors read alike."""

import math
import operator
import os
import reprlib
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from torch import Tensor

SHOWN = 80  # characters of a wrong value in an error


def embeddings(
    x: Tensor, name: str = "embeddings", at_least: int = 2, wait: bool = True, dim: int | None = None
) -> Tensor:
    """Return finite embeddings (N, D), N >= `at_least` and D = `dim` if given, in float32 or float64.

    Half precision is widened: a mean over N(N-1) distances does not fit in 8 or 11 bits. With wait=False the
    CPU does not wait for a GPU to check values: NaN then reaches the loss, which the trainer checks.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (N, D), got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}; convert with .float()")
    if x.dtype.itemsize < 2 or x.layout != torch.strided:
        raise TypeError(f"{name} must be dense, of 16 bits or more, got {x.dtype} and {x.layout}")
    if x.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {tuple(x.shape)}")
    if x.shape[0] < at_least or x.shape[1] < 1:
        expected = f"at least {at_least} vector(s) of 1 or more dimensions"
        raise ValueError(f"{name} must hold {expected}, got {tuple(x.shape)}")
    if dim not in (None, x.shape[1]):
        raise ValueError(f"{name} must have {dim} dimensions, got {x.shape[1]}")
    checked = not torch.compiler.is_compiling() and (wait or x.device.type == "cpu")
    # A sum is finite only if all of it is, and faster than a check of each. It may overflow: then check.
    if checked and not x.detach().sum().isfinite() and not x.isfinite().all():
        bad = f"{int((~x.isfinite()).sum())} NaN or infinite values among {x.numel()}"
        raise ValueError(f"{name} hold {bad}: check the learning rate and the input")
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def labels(y: Tensor, count: int, name: str = "labels") -> Tensor:
    """Return integer labels (N,) with N = `count` as int64."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (N,), got {type(y).__name__}")
    if y.is_floating_point() or y.is_complex():
        raise TypeError(f"{name} must be integers, got {y.dtype}; convert with .long()")
    if y.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one per vector, got {tuple(y.shape)}")
    if y.dtype == torch.uint64 and (y.long() < 0).any():
        raise ValueError(f"{name} must be below 2^63, got larger ones: number the classes from 0")
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
    """Return a path with ~ expanded, which a shell leaves as it is in --out=~/runs and YAML everywhere."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {shown(value)}")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} {shown(value)} is below no known home folder; write it in full") from error


def whole(value: int, name: str, least: int) -> int:
    """Return an integer of Python, numpy or torch, at least `least`, as int; True and 3.0 are refused."""
    wanted = f"{name} must be a whole number of at least {least}, got {shown(value)}"
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(wanted)
    if operator.index(value) < least:
        raise ValueError(wanted)
    return operator.index(value)


def real(value: float, name: str, least: float | None = None, below: float | None = None) -> float:
    """Return a finite number of Python, numpy or torch, in [`least`, `below`), as float."""
    limits = [f"at least {least:g}"] if least is not None else []
    limits += [f"below {below:g}"] if below is not None else []
    wanted = f"{name} must be a finite number {' and '.join(limits)}".strip() + f", got {shown(value)}"
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(wanted)
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        raise ValueError(wanted) from None
    low = -math.inf if least is None else least
    high = math.inf if below is None else below
    if not (math.isfinite(number) and low <= number < high):
        raise ValueError(wanted)
    return number


def _plain(value: Any) -> Any:
    """Return a scalar of numpy or torch as a Python number, anything else unchanged."""
    return value.item() if getattr(value, "shape", None) in ((), (1,)) else value


def level_values(levels: Tensor | Iterable[float]) -> Tensor:
    """Return finite levels as a floating-point tensor (S,), S >= 1."""
    levels = levels if isinstance(levels, Tensor) else torch.tensor([float(s) for s in levels])
    levels = levels if levels.is_floating_point() else levels.float()
    finite = torch.compiler.is_compiling() or bool(torch.isfinite(levels).all())
    if levels.ndim != 1 or levels.numel() == 0 or not finite:
        raise ValueError(f"levels must be one or more finite numbers such as (-3., 0., 3.), got {levels}")
    return levels


def scalar(value: float | Tensor, name: str, minimum: float = -math.inf) -> float | Tensor:
    """Return a finite number, or tensor of one, not below `minimum`."""
    value = value.detach().reshape(()) if isinstance(value, Tensor) else value
    if not torch.compiler.is_compiling() and not (math.isfinite(value) and value >= minimum):
        raise ValueError(f"{name} must be finite and at least {minimum}, got {float(value)}")
    return value
