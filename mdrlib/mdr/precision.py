"""Full float32 for matrix products, whatever the process has chosen for its network."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products of float32 in float32: TF32 and bfloat16 off within, the user's setting restored.

    |a|^2 + |b|^2 - 2ab subtracts numbers that agree in their first digits: with the 10 bits of TF32 a
    distance keeps one or two digits. A setting of the process: products that other threads start meanwhile
    are computed in float32 too.
    """
    parts = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    newer = {part: part.fp32_precision for part in parts if hasattr(part, "fp32_precision")}  # torch >= 2.9
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by the newer names, which the older function refuses to read
        older = "highest"
    if older == "highest" and {"none", "ieee"}.issuperset(newer.values()):
        yield
        return
    try:
        if older != "highest":
            torch.set_float32_matmul_precision("highest")
        for part, value in newer.items():
            if value != "none":  # "none", the default, is float32
                part.fp32_precision = "ieee"
        yield
    finally:
        # The older function overwrites the newer names: they come last.
        if older != "highest":
            torch.set_float32_matmul_precision(older)
        for part, value in newer.items():
            part.fp32_precision = value
