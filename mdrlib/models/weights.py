"""Weights from files: an embedder's, a run's checkpoint, published ImageNet files, the authors' models."""

from pathlib import Path

import torch
from torch import Tensor, nn

AUTHORS_PREFIX = "base.model."  # what their checkpoints call the backbone


def load_embedder(model: nn.Module, path: Path) -> None:
    """Fill `model`, with parts `backbone` and `linear`, from a file in one of four forms.

    An embedder's state_dict; a run's checkpoint, a dict with one under "model"; a checkpoint of the authors'
    (github.com/kakaoenterprise/AAAI2021_MDR), with keys base.model.* and linear.*; a published file of the
    network alone, such as ImageNet weights, which leaves `linear` as it is. A classifier in it is left out.
    Nothing in the file is executed. Raises OSError where it cannot be read, ValueError where its tensors do
    not fit, naming the first that differ.
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


def load_network(network: nn.Module, heads: tuple[str, ...], path: Path) -> None:
    """Fill `network` from a published file that may hold a classifier, its layers' names in `heads`."""
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


def _modern(found: dict[str, object], network: nn.Module, heads: tuple[str, ...]) -> dict[str, object]:
    """`found`, of a network alone, without its classifiers and as torch writes it today.

    Files of before torch 0.4.1 have no num_batches_tracked, which only a batch norm without momentum reads;
    bn_inception's has vectors of shape (1, C).
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
