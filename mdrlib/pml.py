"""The names of `mdrlib.losses` for pytorch-metric-learning."""

from mdrlib.losses import MDRRegularizer, build_loss

__all__ = ["MDRRegularizer", "build_loss"]
