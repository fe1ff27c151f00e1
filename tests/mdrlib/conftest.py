"""A run on photographs as it lies on disk, and a folder of photographs to search in."""

import numpy as np
import pytest
import torch

from mdrlib import checkpoint
from mdrlib.experiment import Config
from mdrlib.models import build_embedder


@pytest.fixture(scope="session")
def photo_config():
    return Config(
        dataset="cub", backbone="squeezenet1_1", dim=8, method="triplet+l2", image_size=48, stored_size=64
    )


@pytest.fixture(scope="session")
def photo_run(photo_config, tmp_path_factory):
    """The folder of a run on photographs, with a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("photo") / "run"
    torch.manual_seed(5)
    network = build_embedder("squeezenet1_1", 8, "l2")
    state = {"config": photo_config.to_dict(), "model": network.state_dict(), "iteration": 3}
    checkpoint.save(folder / "checkpoint.pt", state)
    return folder


@pytest.fixture
def album(tmp_path, monkeypatch):
    """A folder of eight photographs of noise in coarse squares, in two classes and without one."""
    from PIL import Image

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = ["blé & <oats>/1.png", "blé & <oats>/2.png", "milk/fresh/a.jpg", "milk/fresh/b.jpg"]
    names += ["milk/c d.webp", "milk/e.PNG", "loose.jpg", "other.jpeg"]
    for number, name in enumerate(names):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        squares = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(squares).resize((80, 60 + number), Image.Resampling.NEAREST).save(path)
    return tmp_path / "album"
