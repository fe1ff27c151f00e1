"""Multi-level distance regularization (Kim & Park, AAAI 2021) for deep metric learning."""

from mdrlib.distances import normalize_by_mean_distance, pairwise_distances
from mdrlib.gallery import Gallery
from mdrlib.inference import Embedder
from mdrlib.mdr import MDR, mdr_loss

__version__ = "0.1.0"
__all__ = ["Embedder", "Gallery", "MDR", "mdr_loss", "normalize_by_mean_distance", "pairwise_distances"]
