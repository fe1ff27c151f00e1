"""Multi-level distance regularization (Kim & Park, AAAI 2021) for deep metric learning."""

from mdrlib.distances import normalize_by_mean_distance, pairwise_distances
from mdrlib.mdr import MDR, mdr_loss

__version__ = "0.1.0"
__all__ = ["MDR", "mdr_loss", "normalize_by_mean_distance", "pairwise_distances"]
