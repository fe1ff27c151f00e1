"""Small image sets for zero-shot retrieval, the batches drawn from them and what changes their images."""

from mdrlib.datasets.catalog import ImageSet, load
from mdrlib.datasets.sampling import PKBatchSampler

__all__ = ["ImageSet", "PKBatchSampler", "load"]
