"""Transforms of batches of images, on the device of the images."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images of any shape as float32 in [0, 1]."""
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    return images.float() / 255


def random_affine(
    images: Tensor,
    generator: Generator,
    degrees: float = 10.0,
    translate: float = 0.1,
    scale: tuple[float, float] = (0.9, 1.1),
    shear: float = 10.0,
    first: int = 0,
    of: int | None = None,
) -> Tensor:
    """Rotate, move, scale and shear each image by its own random amount, bilinearly, filling with 0.

    Args:
        images: (N, C, H, W) floating point.
        generator: On the device of the images or on the CPU.
        degrees, shear: Largest angles in degrees; angles are uniform in [-degrees, degrees].
        translate: Largest shift in both directions, as a share of the image's size.
        scale: Smallest and largest factor, uniform in its logarithm, drawn for height and for width.
        first, of: `images` are numbers `first` on of a whole batch of `of` images: each changes as in that.
    """
    count = len(images) if of is None else of
    drawn = torch.rand(6, count, generator=generator, device=generator.device).to(images.device) * 2 - 1
    angle, slant = drawn[0] * math.radians(degrees), torch.tan(drawn[1] * math.radians(shear))
    low, high = scale
    middle, half = math.log(high * low) / 2, math.log(high / low) / 2
    stretch_x, stretch_y = torch.exp(middle + half * drawn[2:4])
    # From output to input coordinates: A x + t with A = stretch^-1 . slant . rotation. affine_grid measures
    # both directions in halves of the image, so that turning one into the other takes the aspect ratio.
    cos, sin, aspect = torch.cos(angle), torch.sin(angle), images.shape[2] / images.shape[3]
    row_x = torch.stack([cos + slant * sin, (slant * cos - sin) * aspect], 1) / stretch_x[:, None]
    row_y = torch.stack([sin / aspect, cos], 1) / stretch_y[:, None]
    moved = 2 * translate * drawn[4:6].T
    theta = torch.cat([torch.stack([row_x, row_y], 1), moved[:, :, None]], 2)[first : first + len(images)]
    grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
