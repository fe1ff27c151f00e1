"""Multi-level distance regularization: the module, its loss as a function, and the backends."""

from mdrlib.mdr.module import MDR, mdr_loss

__all__ = ["MDR", "mdr_loss"]
