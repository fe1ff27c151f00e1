"""Use of a trained run: an `Embedder` is its network with weights and preprocessing."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mdrlib import checkpoint, checks
from mdrlib.config import Config
from mdrlib.datasets import IN_MEMORY
from mdrlib.datasets.folder import listed
from mdrlib.datasets.preprocessing import Preprocessing, open_image, optional
from mdrlib.evaluation import embed
from mdrlib.experiment import CHECKPOINT, pick_device
from mdrlib.models import EmbeddingNetwork, build_embedder


class Embedder:
    """A trained network and its preprocessing: images -> embeddings (N, D).

    Args:
        network: Images float32 (N, C, H, W) in [0, 1] -> embeddings (N, D).
        preprocessing: How a photograph is prepared. None for a network trained on drawings, which takes
            uint8 tensors (N, C, H, W) unchanged, and no files.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".
    """

    def __init__(
        self, network: EmbeddingNetwork, preprocessing: Preprocessing | None = None, device: str = "auto"
    ) -> None:
        self.device = pick_device(device)
        # On a CPU channels last is faster: see `experiment`.
        layout = torch.channels_last if self.device.type == "cpu" else torch.preserve_format
        self.network = network.to(self.device, memory_format=layout).eval().requires_grad_(False)
        self.preprocessing, self.dim = preprocessing, network.dim
        side = preprocessing.image_size if preprocessing else 32
        self.shape = (3 if preprocessing else 1, side, side)  #: (C, H, W) of what the network sees
        # The first pass is slow, and the network may refuse the size.
        embed(self.network, torch.zeros(1, *self.shape, dtype=torch.uint8))
        content = hashlib.sha256(f"{preprocessing} {network.normalize}".encode())
        for name, value in network.state_dict().items():
            content.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        self.fingerprint = content.hexdigest()[:16]  #: of the weights and the preprocessing

    @classmethod
    def load(cls, run: str | Path, device: str = "auto") -> "Embedder":
        """Load the network of a run. All weights are in its checkpoint, so nothing is downloaded.

        Args:
            run: The folder of a run, or its checkpoint.pt alone.
            device: See `Embedder`.

        Raises:
            FileNotFoundError: The checkpoint does not exist.
            ValueError: The checkpoint is damaged, or does not come from a run.
        """
        path = checks.path(run, "run")
        path = path / CHECKPOINT if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: give the folder of a run, or its checkpoint.pt")
        state = checkpoint.load(path)
        if "config" not in state:
            raise ValueError(f"{path} is not the checkpoint of a run (it has no config): give a run's folder")
        c = Config.of(state["config"])
        with torch.random.fork_rng(devices=[]):  # the first weights are random
            network = build_embedder(c.backbone, c.dim, c.normalize, pooling=c.pooling, weights=path)
        return cls(network, None if c.dataset in IN_MEMORY else Preprocessing.of(c), device)

    def __call__(self, images: Any, batch_size: int = 64) -> Tensor:
        """Embed images.

        Args:
            images: A path, a Pillow image, or a uint8 tensor or array (C, H, W) of any size, C = 1 or 3; or
                several of these, also as (N, C, H, W). Each form of an image gives the same embedding.
            batch_size: Number of images that the network takes at a time.

        Returns:
            Embeddings (N, D) float32 on the CPU, in order.

        Raises:
            OSError: Images cannot be read; the message lists them.
            TypeError, ValueError: The images have another form, or there is none.
        """
        images = [images] if is_one(images) else list(images)
        if not images:
            raise ValueError("images must hold one image or more, got none")
        return embed(self.network, self._batches(images, checks.whole(batch_size, "batch_size", 1))).cpu()

    def _batches(self, images: list[Any], size: int) -> Iterator[Tensor]:
        """Yield uint8 batches; after an unreadable image, only look for further unreadable ones."""
        quiet = os.environ.get("MDR_PROGRESS", "bar") != "bar"
        bad: list[str] = []
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in tqdm(range(0, len(images), size), "embed", delay=2, disable=quiet, unit="batch"):
                found = list(threads.map(self._pixels, images[start : start + size]))
                bad += [str(pixels) for pixels in found if isinstance(pixels, OSError)]
                if not bad:
                    yield torch.stack(found)
        if bad:
            raise OSError(f"{len(bad):,} of {len(images):,} images are unreadable: {listed(bad)}")

    def _pixels(self, image: Any) -> Tensor | OSError:
        """Return the network's input for an image, uint8 (C, H, W), or why it cannot be read."""
        if isinstance(image, Tensor | np.ndarray):
            image = np.asarray(image)
            if image.dtype != np.uint8 or image.ndim != 3 or len(image) not in (1, 3):
                raise ValueError(f"an image must be uint8 (1 or 3, H, W), got {image.dtype} {image.shape}")
            if self.preprocessing is None:
                return torch.tensor(image)
            rows = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            image = optional("PIL.Image", "data").fromarray(rows)
        wanted = "paths, Pillow images or uint8 tensors (3, H, W)"
        if self.preprocessing is None:
            wanted = "uint8 tensors (1, 32, 32), because the network was trained on drawings"
        elif isinstance(image, str | PathLike):
            try:
                image = open_image(checks.path(image))
            except OSError as error:
                return error
        if self.preprocessing is None or not hasattr(image, "convert"):
            raise TypeError(f"images must be {wanted}, got {checks.shown(image)}")
        return self.preprocessing(image)


def is_one(images: Any) -> bool:
    """Return whether `images` is a single image: a path, a Pillow image, or pixels (C, H, W)."""
    one = isinstance(images, str | PathLike) or hasattr(images, "convert")
    return one or (isinstance(images, Tensor | np.ndarray) and images.ndim == 3)
