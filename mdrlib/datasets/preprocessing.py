"""Preprocessing of photographs: from a file to an upright RGB square of one size."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What turns an image upright, by its EXIF orientation.
TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"}
TURNS |= {7: "TRANSVERSE", 8: "ROTATE_90"}


def optional(module: str, extra: str) -> Any:
    """Import and return a module of a package that only `extra` of mdrlib installs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is missing: pip install 'mdrlib[{extra}]'") from error


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of evaluation: a stored square, of which the network sees the middle.

    Sizes and filter (Lanczos) are those of the authors, kakaoenterprise/AAAI2021_MDR, utils/common.py.
    """

    image_size: int = 224  #: pixels of the side that the network sees
    stored_size: int = 0  #: of the stored square; 0 for 256 / 224 of image_size
    keep_aspect: bool = False  #: False stretches a photograph to the square, True takes its middle square

    def __post_init__(self) -> None:
        if not self.stored_size:
            object.__setattr__(self, "stored_size", round(self.image_size * 256 / 224))
        if self.stored_size < self.image_size:
            given = f"{self.stored_size} and {self.image_size}"
            raise ValueError(f"stored_size must be 0 or at least image_size, got {given}")

    @classmethod
    def of(cls, config: Any) -> "Preprocessing":
        """Make the Preprocessing of a `Config`."""
        return cls(config.image_size, config.stored_size, config.keep_aspect)

    def __call__(self, image: Any) -> Tensor:
        """Return the network's input for a Pillow image, uint8 (3, image_size, image_size)."""
        seen = np.array(self.middle(self.store(to_rgb(image))))
        return torch.from_numpy(seen).permute(2, 0, 1).contiguous()

    def store(self, image: Any) -> Any:
        """Return the stored square of an RGB Pillow image, stored_size x stored_size."""
        width, height = image.size
        left, top = max(width - height, 0) / 2, max(height - width, 0) / 2
        box = (left, top, width - left, height - top) if self.keep_aspect else None
        lanczos = optional("PIL.Image", "data").Resampling.LANCZOS
        return image.resize((self.stored_size, self.stored_size), lanczos, box)

    def middle(self, image: Any) -> Any:
        """Return the middle of a stored square, image_size x image_size."""
        left = round((self.stored_size - self.image_size) / 2)
        return image.crop((left, left, left + self.image_size, left + self.image_size))


def open_image(path: str | Path) -> Any:
    """Open an image file as an RGB Pillow image, see `to_rgb`; OSError names a damaged file."""
    pillow = optional("PIL.Image", "data")
    try:
        with pillow.open(path) as image:
            return to_rgb(image)
    except Exception as error:  # pillow raises many kinds for a damaged file
        raise OSError(f"{path} cannot be read as an image ({error}); see `mdrlib data check`") from error


def to_rgb(image: Any) -> Any:
    """Convert a Pillow image to 8-bit RGB, upright by its EXIF data, on white where it is transparent.

    16-bit grey is scaled by its whole range. Numbers of unknown range raise ValueError.
    """
    pillow = optional("PIL.Image", "data")
    image.load()  # which turns a TIFF
    turn = TURNS.get(orientation(image))
    upright = image.transpose(pillow.Transpose[turn]) if turn else image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        tags = getattr(image, "tag_v2", {})  # a TIFF may have 12 bits, or 0 for white
        (bits,), white = tags.get(258, (16,)), tags.get(262) == 0
        grey = np.asarray(upright).astype(np.float64) * (255 / (2**bits - 1))
        grey = 255 - grey if white else grey
        upright = pillow.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    elif image.mode[0] in "IF":
        raise ValueError("it holds numbers of unknown range: save it with 8 or 16 bits")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        white = pillow.new("RGBA", upright.size, "white")
        upright = pillow.alpha_composite(white, upright)
    upright = upright.convert("RGB")
    upright.info.clear()  # of the orientation, which must not turn it again
    return upright


def orientation(image: Any) -> int:
    """Return the EXIF orientation of a Pillow image, 1 (upright) to 8; 1 if its data cannot be read."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # pillow raises many kinds for damaged EXIF data
        return 1
