"""Weights from files: an embedder's, a run's checkpoint, published ImageNet files, the authors' models."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mdrlib import checkpoint

AUTHORS_PREFIX = "base.model."  # before the backbone's keys in their checkpoints
NETWORK_PREFIX = "backbone.network."


def load_embedder(model: nn.Module, path: Path) -> None:
    """Load the weights of an `EmbeddingNetwork` from a file without executing anything in it.

    The file has one of four forms: a state_dict of an embedder; a checkpoint of a run, a dict with such a
    state_dict under "model"; a checkpoint of the paper's authors (github.com/kakaoenterprise/AAAI2021_MDR),
    with keys base.model.* and linear.*; a published file of the backbone's network, which leaves `linear`
    unchanged. A classifier in it is ignored.

    Raises:
        ValueError: The file is damaged or does not fit the network; or a tensor has another kind of numbers,
            holds NaN or infinite values, or is a matrix of zeros. The message names the first such tensor.
    """
    wanted = model.state_dict()
    found = {key.replace(AUTHORS_PREFIX, NETWORK_PREFIX): value for key, value in _read(path).items()}
    if not any(key.startswith("backbone.") for key in found):
        found = {NETWORK_PREFIX + key: value for key, value in found.items()}
        found |= {key: value for key, value in wanted.items() if key.startswith("linear.")}
    heads = tuple(f"{NETWORK_PREFIX}{head}." for head in getattr(model.backbone, "heads", ()))
    found = {key: value for key, value in found.items() if not key.startswith(heads)}
    for key, value in wanted.items():
        if key.endswith("num_batches_tracked"):  # missing in files of torch before 0.4.1, and rarely read
            found.setdefault(key, value)
        elif key in found and found[key].shape == (1, *value.shape):
            found[key] = found[key][0]  # rows in the published file of bn_inception
    for key in sorted(wanted.keys() | found.keys()):
        file, own = (tuple(state[key].shape) if key in state else "absent" for state in (found, wanted))
        if file != own:
            raise ValueError(f"{path} does not fit: {key} is {file} in the file and {own} in the model")
    model.load_state_dict({key: _as(wanted[key], found[key], f"{path}: {key}") for key in wanted})


def _read(path: Path) -> dict[str, Tensor]:
    try:
        found = checkpoint.read(path)
        found = found.get("model", found)
        return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    except (ValueError, AttributeError) as error:
        wrong = "is damaged, or holds more than tensors and plain values"
        raise ValueError(f"{path} {wrong}: {error}") from error


def _as(wanted: Tensor, value: Tensor, name: str) -> Tensor:
    """Return a tensor of a file in the form of the model's; ValueError if it cannot be a trained one."""
    if value.layout is not torch.strided or value.dtype.is_floating_point != wanted.dtype.is_floating_point:
        raise ValueError(f"{name} is {value.dtype} ({value.layout}) and must be {wanted.dtype}")
    made = value.to(wanted.dtype)
    if not made.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values")
    if made.ndim > 1 and not made.any() and wanted.any():
        raise ValueError(f"{name} is all zero")
    return made
