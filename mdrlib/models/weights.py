"""Weights from files: an embedder's, a run's checkpoint, published ImageNet files, the authors' models."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

AUTHORS_PREFIX = "base.model."  # before the backbone's keys in their checkpoints


def load_embedder(model: nn.Module, path: Path) -> None:
    """Fill an `Embedder` from a file; nothing in the file is executed.

    The file has one of four forms: a state_dict of an embedder; a checkpoint of a run, a dict with such a
    state_dict under "model"; a checkpoint of the paper's authors (github.com/kakaoenterprise/AAAI2021_MDR),
    with keys base.model.* and linear.*; a published file of the backbone's network, which leaves `linear`
    unchanged. A classifier in it is ignored.

    Args:
        model: The embedder, filled in place.
        path: The file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged or its tensors do not fit; the message names the first that differ.
    """
    found = _read(path)
    network = getattr(model.backbone, "network", None)
    if network is not None:
        own = {key: value for key, value in found.items() if not key.startswith(AUTHORS_PREFIX)}
        bare = {key.removeprefix(AUTHORS_PREFIX): found[key] for key in found.keys() - own.keys()}
        if not bare and network.state_dict().keys() & found.keys():
            own = {f"linear.{key}": value for key, value in model.linear.state_dict().items()}
            bare = found
        if bare:
            bare = _modern(bare, network, model.backbone.heads)
            found = own | {f"backbone.network.{key}": value for key, value in bare.items()}
    _fill(model, found, path)


def load_network(network: nn.Module, heads: Sequence[str], path: Path) -> None:
    """Fill `network` from a published file, whose classifiers `heads` are ignored."""
    _fill(network, _modern(_read(path), network, heads), path)


def _read(path: Path) -> dict[str, object]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises several kinds
        raise ValueError(f"{path} is damaged, or holds more than tensors and plain values") from error
    found = found.get("model", found) if isinstance(found, dict) else found
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _modern(found: dict[str, object], network: nn.Module, heads: Sequence[str]) -> dict[str, object]:
    """A published state_dict without classifiers and in the form that torch writes today.

    Files older than torch 0.4.1 have no num_batches_tracked, which only batch norm without momentum reads;
    that of bn_inception has vectors of shape (1, C).
    """
    wanted = network.state_dict()
    classifier = tuple(f"{head}." for head in heads)
    found = {key: value for key, value in found.items() if not key.startswith(classifier)}
    for key, value in wanted.items():
        if key.endswith("num_batches_tracked"):
            found.setdefault(key, value)
        elif isinstance(found.get(key), Tensor) and found[key].shape == (1, *value.shape):
            found[key] = found[key][0]
    return found


def _fill(model: nn.Module, found: dict[str, object], path: Path) -> None:
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {k: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in found.items()}
    differ = sorted(k for k in wanted.keys() | given.keys() if wanted.get(k) != given.get(k))
    if differ:
        lines = [f"{key}: file {given.get(key)}, model {wanted.get(key)}" for key in differ[:3]]
        raise ValueError(f"{path} does not fit the model in {len(differ)} tensors: " + "; ".join(lines))
    model.load_state_dict(found)
