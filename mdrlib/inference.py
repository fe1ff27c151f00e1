"""After training: an `Embedder` is a network with its weights and with what it expects of a photograph."""

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
from mdrlib.datasets.folder import listed
from mdrlib.datasets.loader import default_workers
from mdrlib.datasets.preprocessing import Preprocessing, open_image, optional
from mdrlib.evaluation import embed
from mdrlib.experiment import CHECKPOINT, pick_device
from mdrlib.models import EmbeddingNetwork, build_embedder

IN_MEMORY = ("digits", "glyphs", "omniglot")  # data sets whose images are no photographs
MANY = 256  # images from which on progress is shown


class Embedder:
    """A trained network and its preprocessing: images -> embeddings (N, D).

    Args:
        network: Images float32 (N, C, H, W) in [0, 1] -> embeddings (N, D).
        preprocessing: What evaluation makes of a photograph; None for a network of small drawings, which then
            takes uint8 tensors (N, C, H, W) as they are and no files.
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
        size = (3, preprocessing.image_size) if preprocessing else (1, 32)
        self.shape = (*size, size[1])  #: (C, H, W) of what the network sees.
        # The first pass is slow, and the network may refuse the size.
        embed(self.network, torch.zeros(1, *self.shape, dtype=torch.uint8))
        content = hashlib.sha256(f"{preprocessing} {network.normalize}".encode())
        for name, value in network.state_dict().items():
            content.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        self.fingerprint = content.hexdigest()[:16]  #: Of the weights and the preprocessing.

    @classmethod
    def load(cls, run: str | Path, device: str = "auto") -> "Embedder":
        """Load what a run has learned; nothing is downloaded, as all weights are in its checkpoint.

        Args:
            run: The folder of a run, or its checkpoint.pt alone.
            device: See `Embedder`.

        Raises:
            FileNotFoundError: There is no checkpoint.
            ValueError: The checkpoint is damaged, or not one of a run.
            ImportError: The backbone needs a package; the message names the extra that installs it.
        """
        path = checks.path(run, "run")
        path = path / CHECKPOINT if path.is_dir() else path
        if not path.is_file():
            wanted = "give the folder of a run that trained a network, or its checkpoint.pt"
            raise FileNotFoundError(f"{path} does not exist: {wanted}")
        state = checkpoint.load(path)
        if "config" not in state:
            raise ValueError(f"{path} is not the checkpoint of a run: it lacks the run's config")
        config = Config.of(state["config"])
        with torch.random.fork_rng(devices=[]):  # the first weights are random
            network = build_embedder(
                config.backbone, config.dim, config.normalize, pooling=config.pooling, weights=path
            )
        return cls(network, None if config.dataset in IN_MEMORY else Preprocessing.of(config), device)

    def __call__(self, images: Any, batch_size: int = 64) -> Tensor:
        """Embed images; threads decode them while the network works, and progress is shown for many.

        Args:
            images: A path, an image of pillow, or a uint8 tensor or array (C, H, W) of any size, C = 1 or 3;
                a sequence of them; or a tensor or array (N, C, H, W). A file, its image and its pixels give
                the same embedding.
            batch_size: Images that the network sees at a time.

        Returns:
            Embeddings (N, D) float32 on the CPU, in order.

        Raises:
            OSError: Images cannot be read; the message lists them.
            TypeError, ValueError: The images are of another kind, or none.
        """
        images = [images] if is_one(images) else list(images)
        if not images:
            raise ValueError("images must hold one image or more, got none")
        return embed(self.network, self._batches(images, checks.whole(batch_size, "batch_size", 1))).cpu()

    def _batches(self, images: list[Any], size: int) -> Iterator[Tensor]:
        """Yield uint8 batches; after an image that cannot be read, only look for more of them."""
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        hidden = len(images) < MANY or os.environ.get("MDR_PROGRESS", "bar") != "bar"
        bad: list[str] = []
        with (
            ThreadPoolExecutor(max(1, default_workers())) as threads,
            tqdm(total=len(images), unit="image", desc="embed", disable=hidden) as bar,
        ):
            pending = threads.map(self._pixels, parts[0])
            for part, following in zip(parts, [*parts[1:], []], strict=True):
                found = list(pending)
                pending = threads.map(self._pixels, following)
                bad += [str(pixels) for pixels in found if isinstance(pixels, OSError)]
                if not bad:
                    yield torch.stack(found)
                bar.update(len(part))
        if bad:
            raise OSError(f"{len(bad):,} of {len(images):,} images are unreadable: {listed(bad)}")

    def _pixels(self, image: Any) -> Tensor | OSError:
        """What the network sees of an image, uint8 (C, H, W), or why it cannot be read."""
        if isinstance(image, Tensor | np.ndarray):
            if image.dtype not in (torch.uint8, np.uint8) or image.ndim != 3 or image.shape[0] not in (1, 3):
                got = f"{image.dtype} {tuple(image.shape)}"
                raise ValueError(f"an image must be uint8 (1 or 3, H, W), got {got}")
            image = image.cpu().numpy() if isinstance(image, Tensor) else image
            if self.preprocessing is None:
                return torch.tensor(image)
            rows = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            image = optional("PIL.Image", "data").fromarray(np.ascontiguousarray(rows))
        if self.preprocessing is None:
            wanted = "uint8 tensors such as the images (N, 1, 32, 32) of its data set"
            raise TypeError(f"this network was trained on drawings: give {wanted}, got {checks.shown(image)}")
        try:
            if isinstance(image, str | PathLike):
                return self.preprocessing(open_image(checks.path(image)))
        except OSError as error:
            return error
        if not hasattr(image, "convert"):
            wanted = "paths, images of pillow or uint8 tensors (3, H, W)"
            raise TypeError(f"images must be {wanted}, got {checks.shown(image)}")
        return self.preprocessing(image)


def is_one(images: Any) -> bool:
    """Whether `images` is a single image: a path, an image of pillow, or pixels (C, H, W)."""
    one = isinstance(images, str | PathLike) or hasattr(images, "convert")
    return one or (isinstance(images, Tensor | np.ndarray) and images.ndim == 3)
