"""Changes to batches of images, on the device where they lie."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def to_float(images: Tensor) -> Tensor:
    """uint8 images in 0..255, of any shape, as float32 in [0, 1]; TypeError for another dtype."""
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
    """Turn, move, stretch and slant each image (N, C, H, W) by its own random amount; what comes in is 0.

    degrees: of rotation, drawn from [-degrees, degrees]. translate: of the image's size, likewise, in both
    directions. scale: (low, high) factors, drawn on a logarithmic scale for height and width apart. shear:
    degrees of slant, drawn like rotation. All uniform. generator: on the images' device or on the CPU; None
    uses torch's own. Bilinear, computed in at least float32, returned in the images' dtype.
    first, of: the images are the first-th and following of a batch of `of`, for all of which is drawn: parts
    of a batch come out as they do in the whole, and a generator moves on as for the whole.
    Raises TypeError for images that are not floating point, ValueError for shapes or ranges that cannot be.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images must be a floating-point tensor, got {kind}; convert with to_float")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape (N, C, H, W), none of them 0, got {tuple(images.shape)}")
    limits = {"degrees": (degrees, 360), "translate": (translate, 1), "shear": (shear, 90)}
    for name, (value, limit) in limits.items():
        if not 0 <= value < limit:
            raise ValueError(f"{name} must be at least 0 and below {limit}, got {value}")
    low, high = scale
    if not 0 < low <= high < math.inf:
        raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {scale}")

    height, width = images.shape[2:]
    count = len(images) if of is None else of
    if not 0 <= first <= count - len(images):
        raise ValueError(f"{len(images)} images from {first} on do not lie in a batch of {count}")
    device = images.device if generator is None else generator.device
    drawn = torch.rand(6, count, generator=generator, device=device).to(images.device) * 2 - 1
    angle, slant = drawn[0] * math.radians(degrees), torch.tan(drawn[1] * math.radians(shear))
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
