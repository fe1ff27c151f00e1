"""What every public function asks of its inputs, in one place so that the errors read alike."""

import math

import torch
from torch import Tensor


def embeddings(x: Tensor, name: str = "embeddings", at_least: int = 2, wait: bool = True) -> Tensor:
    """Return `x` (N, D), N >= `at_least`, in float32 or float64; raise TypeError or ValueError otherwise.

    Half precision is widened to float32: a mean over N(N-1) distances does not fit in 8 or 11 bits.
    wait: False for what runs in every training step. On a GPU its values are then not looked at, for which
    the CPU would wait until the GPU has computed them; NaN reaches the loss, which the trainer looks at.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (N, D), got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}; convert with .float()")
    if x.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {tuple(x.shape)}")
    if x.shape[0] < at_least or x.shape[1] < 1:
        raise ValueError(
            f"{name} must hold at least {at_least} vector(s) of 1 or more dimensions, got {tuple(x.shape)}"
        )
    looked_at = not torch.compiler.is_compiling() and (wait or x.device.type == "cpu")
    # A sum is finite only if all of it is, and quicker than a look at each; it may overflow, then look.
    if looked_at and not x.detach().sum().isfinite() and not x.isfinite().all():
        raise ValueError(
            f"{name} hold {int((~torch.isfinite(x)).sum())} NaN or infinite values among {x.numel()}; "
            "look at the learning rate and at the input before the loss"
        )
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def labels(y: Tensor, count: int, name: str = "labels") -> Tensor:
    """Return integer labels (N,) with N = `count`; raise TypeError or ValueError otherwise."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (N,), got {type(y).__name__}")
    if y.is_floating_point() or y.is_complex():
        raise TypeError(f"{name} must be integers, got {y.dtype}; convert with .long()")
    if y.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one a vector, got {tuple(y.shape)}")
    return y


def neighbours(k: int, there: int) -> int:
    """Return k, an integer from 1 to the neighbours `there` are; raise ValueError otherwise."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= there:
        raise ValueError(f"k must be an integer from 1 to the {there} neighbours there are, got {k}")
    return k


def level_values(levels: object) -> Tensor:
    """Return levels as a tensor (S,), S >= 1, finite; raise TypeError or ValueError otherwise."""
    if not isinstance(levels, Tensor):
        try:
            levels = torch.tensor([float(s) for s in levels])  # type: ignore[attr-defined]
        except (TypeError, ValueError) as error:
            raise TypeError(f"levels must be numbers such as (-3., 0., 3.), got {levels!r}") from error
    if levels.ndim != 1 or levels.numel() == 0:
        raise ValueError(f"levels must be one or more numbers, shape (S,), got shape {tuple(levels.shape)}")
    if not levels.is_floating_point():
        levels = levels.float()
    if not torch.compiler.is_compiling() and not torch.isfinite(levels).all():
        raise ValueError(f"levels must be finite, got {levels.tolist()}")
    return levels


def scalar(value: object, name: str, minimum: float = -math.inf) -> float | Tensor:
    """Return a finite number or one-element tensor not below `minimum`; raise otherwise."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}")
        value = value.detach().reshape(())
        if torch.compiler.is_compiling():
            return value
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (math.isfinite(float(value)) and float(value) >= minimum):
        raise ValueError(f"{name} must be finite and at least {minimum}, got {float(value)}")
    return value
