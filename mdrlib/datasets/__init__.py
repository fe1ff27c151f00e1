"""Image sets for zero-shot retrieval, in memory or on disk, and the batches drawn from them."""

from mdrlib.datasets.catalog import ImageSet, load
from mdrlib.datasets.files import ImageFiles
from mdrlib.datasets.sampling import PKBatchSampler

__all__ = ["ImageFiles", "ImageSet", "PKBatchSampler", "load"]
