"""Checks of what public functions are given, in one place so that the errors read alike."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


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
    """Return integer labels (N,) with N = `count`."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (N,), got {type(y).__name__}")
    if y.is_floating_point() or y.is_complex():
        raise TypeError(f"{name} must be integers, got {y.dtype}; convert with .long()")
    if y.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one per vector, got {tuple(y.shape)}")
    return y


def level_values(levels: Tensor | Iterable[float]) -> Tensor:
    """Return finite levels as a floating-point tensor (S,), S >= 1."""
    levels = levels if isinstance(levels, Tensor) else torch.tensor([float(s) for s in levels])
    levels = levels if levels.is_floating_point() else levels.float()
    unseen = torch.compiler.is_compiling() or levels.device.type != "cpu"  # a GPU is not waited for
    finite = unseen or bool(torch.isfinite(levels).all())
    if levels.ndim != 1 or levels.numel() == 0 or not finite:
        raise ValueError(f"levels must be one or more finite numbers such as (-3., 0., 3.), got {levels}")
    return levels


def scalar(value: float | Tensor, name: str, minimum: float = -math.inf) -> float | Tensor:
    """Return a finite number, or tensor of one, not below `minimum`."""
    value = value.detach().reshape(()) if isinstance(value, Tensor) else value
    unseen = torch.compiler.is_compiling() or getattr(value, "is_cuda", False)  # a GPU is not waited for
    if not unseen and not (math.isfinite(value) and value >= minimum):
        raise ValueError(f"{name} must be finite and at least {minimum}, got {float(value)}")
    return value
