"""Numbers and names of metrics as text; helper until they are in `comparison`."""

METRICS = {"r_precision": "R-Precision", "map@r": "MAP@R"}


def metric_name(key: str) -> str:
    """The written form of a key of `Result.metrics`: "recall@1" -> "Recall@1"."""
    return METRICS.get(key, key.replace("recall", "Recall"))


def signed(value: float, digits: int = 1) -> str:
    """A number with a true minus sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")  # + 0.0: no minus zero
