"""Changes to batches of images, on the device where they lie."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images in 0..255, of any shape, as float32 in [0, 1]; refuse another dtype."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images must be a uint8 tensor, got {kind}")
    return images.float() / 255


def random_affine(
    images: Tensor,
    generator: Generator | None = None,
    degrees: float = 10.0,
    translate: float = 0.1,
    scale: tuple[float, float] = (0.9, 1.1),
    shear: float = 10.0,
    first: int = 0,
    of: int | None = None,
) -> Tensor:
    """Rotate, move, scale and shear each image by its own random amount, filling with 0.

    Bilinear, computed in at least float32.

    Args:
        images: (N, C, H, W) floating point.
        generator: On the device of the images or on the CPU; None uses torch's own.
        degrees: Rotation, uniform in [-degrees, degrees].
        translate: Share of the image's size, likewise, in both directions.
        scale: The lowest and highest factor, uniform on a logarithmic scale, for height and width apart.
        shear: Degrees, drawn like rotation.
        first: The number of the first image in a batch of `of`.
        of: Amounts are drawn for so many images, so that a part of a batch changes as it does in the whole.

    Returns:
        (N, C, H, W) in the dtype of the images.
    """
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point, got {images.dtype}; convert with to_float")
    height, width = images.shape[2:]
    count = len(images) if of is None else of
    device = images.device if generator is None else generator.device
    drawn = torch.rand(6, count, generator=generator, device=device).to(images.device) * 2 - 1
    angle, slant = drawn[0] * math.radians(degrees), torch.tan(drawn[1] * math.radians(shear))
    low, high = scale
    middle, half = math.log(high * low) / 2, math.log(high / low) / 2
    stretch_x, stretch_y = torch.exp(middle + half * drawn[2:4])
    # From output to input coordinates: A x + t with A = stretch^-1 . slant . rotation. affine_grid measures
    # both directions in halves of the image, so that turning one into the other takes the aspect ratio.
    cos, sin, aspect = torch.cos(angle), torch.sin(angle), height / width
    row_x = torch.stack([cos + slant * sin, (slant * cos - sin) * aspect], 1) / stretch_x[:, None]
    row_y = torch.stack([sin / aspect, cos], 1) / stretch_y[:, None]
    moved = 2 * translate * drawn[4:6].T
    theta = torch.cat([torch.stack([row_x, row_y], 1), moved[:, :, None]], 2)[first : first + len(images)]
    dtype = torch.promote_types(images.dtype, torch.float32)
    grid = F.affine_grid(theta.to(dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images.to(dtype), grid, align_corners=False).to(images.dtype)
