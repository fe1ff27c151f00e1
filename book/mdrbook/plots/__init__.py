"""Charts of the chapters.

Every function returns a matplotlib Figure that pyplot does not keep, so that a notebook shows it once, as the
last line of a cell. `ax`, where a function has it, is drawn into instead of a new figure.
"""

from mdrbook.plots.distances import (
    binned_medians,
    distance_histogram,
    distance_strip,
    distances_to_levels,
    level_shares,
    nearest_level,
    outlined_histograms,
    pair_matrix,
    point_map,
    shown_range,
    sorted_levels,
)
from mdrbook.plots.intervals import interval_rows, metric_over
from mdrbook.plots.training import (
    label_ends,
    level_occupancy,
    level_trajectories,
    loss_curves,
    metric_bars,
    recall_curves,
)

__all__ = [
    "binned_medians", "distance_histogram", "distance_strip", "distances_to_levels", "interval_rows",
    "label_ends", "level_occupancy", "level_shares", "level_trajectories", "loss_curves", "metric_bars",
    "metric_over", "nearest_level", "outlined_histograms", "pair_matrix", "point_map", "recall_curves",
    "shown_range", "sorted_levels",
]  # fmt: skip
