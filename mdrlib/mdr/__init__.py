"""Multi-level distance regularization: the module, its loss as a function, the backends, a memory bank."""

from mdrlib.mdr.bank import MemoryBank
from mdrlib.mdr.module import MDR, mdr_loss

__all__ = ["MDR", "MemoryBank", "mdr_loss"]
