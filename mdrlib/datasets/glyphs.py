"""Generated handwriting: alphabet > character > writer. A character is two to four strokes, Bezier curves.

In the helpers, curves are (..., 4, 2); 2 is x to the right and y down.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ALPHABETS, CHARACTERS, WRITERS = 10, 12, 20  # alphabets in each split, characters in each, drawings of each
SIZE = 32

# How hard the set is. Half the height of a character is 1, angles are radians; pairs are ranges, HABIT and
# DRAWING with one number are standard deviations.
FAVOURITES = 8  # curves of the pool that an alphabet uses
LEADING = 4  # of these, which the first stroke of a character may be
STROKES = (2, 4)  # in a character
HABIT_CURVE = 0.08  # of a writer: how differently each curve of the pool is drawn
HABIT_SLANT = 0.18
HABIT_ROUNDNESS = 0.18
HABIT_STRETCH = 0.10
HABIT_PEN = (0.65, 1.2)  # radius in pixels
DRAWING_CURVE = 0.08  # of each drawing: control points of each stroke
DRAWING_OFFSET = 0.08  # strokes against each other
DRAWING_SIZE = 0.08  # of each stroke
DRAWING_ANGLE = 0.12  # of each stroke
DRAWING_TURN = 0.10  # of the character
DRAWING_SLANT = 0.10
DRAWING_SCALE = 0.10
DRAWING_PEN = 0.10
SHORTENED = 0.15  # probability that a stroke loses up to
SHORTENED_BY = 0.35  # of its length

CURVES = [
    [(0.0, -1.0), (0.0, -0.3), (0.0, 0.3), (0.0, 1.0)],  # upright
    [(-1.0, 0.0), (-0.3, 0.0), (0.3, 0.0), (1.0, 0.0)],  # level
    [(0.7, -0.9), (0.3, -0.3), (-0.3, 0.3), (-0.7, 0.9)],  # falling to the left
    [(-0.7, -0.9), (-0.3, -0.3), (0.3, 0.3), (0.7, 0.9)],  # falling to the right
    [(0.7, -0.8), (-1.1, -1.1), (-1.1, 1.1), (0.7, 0.8)],  # c
    [(-0.7, -0.8), (1.1, -1.1), (1.1, 1.1), (-0.7, 0.8)],  # mirrored c
    [(-0.8, -0.8), (-0.8, 1.2), (0.8, 1.2), (0.8, -0.8)],  # u
    [(-0.8, 0.8), (-0.8, -1.2), (0.8, -1.2), (0.8, 0.8)],  # n
    [(0.7, -0.9), (-1.7, -0.9), (1.7, 0.9), (-0.7, 0.9)],  # s
    [(-0.7, -0.9), (1.7, -0.9), (-1.7, 0.9), (0.7, 0.9)],  # mirrored s
    [(-1.0, 0.2), (-0.3, -1.0), (0.3, 1.0), (1.0, -0.2)],  # wave
    [(0.3, -1.0), (0.3, 0.8), (0.2, 1.2), (-0.8, 0.7)],  # j
    [(-0.4, -1.0), (-0.5, 1.1), (0.2, 1.1), (0.8, 0.8)],  # l
    [(0.0, -0.9), (1.9, 1.1), (-1.9, 1.1), (0.0, -0.9)],  # drop
    [(0.0, 0.9), (-1.9, -1.1), (1.9, -1.1), (0.0, 0.9)],  # drop upside down
    [(-0.6, 0.9), (1.8, -1.6), (-1.8, -1.6), (0.6, 0.9)],  # ribbon
    [(0.9, -0.6), (-1.8, 1.6), (-1.8, -1.6), (0.9, 0.6)],  # alpha
    [(-0.4, 0.0), (-0.1, 0.0), (0.1, 0.0), (0.4, 0.0)],  # dash
    [(0.1, -0.4), (0.3, 0.0), (0.1, 0.3), (-0.2, 0.5)],  # comma
    [(-0.8, 0.1), (-0.2, 1.1), (-0.3, 1.0), (0.8, -0.9)],  # check mark
    [(-0.7, 0.9), (-0.9, -1.2), (-0.6, -1.0), (0.8, -0.9)],  # gamma
    [(-0.9, 0.2), (-0.4, -0.5), (0.4, -0.5), (0.9, 0.2)],  # shallow arch
    [(-0.9, -0.2), (-0.4, 0.5), (0.4, 0.5), (0.9, -0.2)],  # shallow bowl
    [(-0.6, -0.4), (-0.3, -1.4), (1.3, -0.9), (0.1, 0.9)],  # question mark
]
POOL = torch.tensor(CURVES, dtype=torch.float64)
STEPS = 64  # points on a stroke
UNIT = 64  # to a pixel
REACH = 2  # pixels, more than any pen's radius


def generate(split: str) -> dict[str, Any]:
    """Draw a split as arguments of `ImageSet`: (2400, 1, 32, 32), strokes bright on black."""
    first = {"train": 0, "test": ALPHABETS}[split]
    curves, kind, present = _characters(_Random(1 + first))
    habits, random = _Random(0), _Random(2 + first)
    strokes = _drawings(curves, kind, habits, random)
    pen = habits.uniform(*HABIT_PEN, WRITERS).repeat(len(curves))
    pen = pen * torch.exp(random.normal(DRAWING_PEN, len(pen)))
    names = [f"alphabet {first + a + 1:02d}" for a in range(ALPHABETS)]
    classes = torch.arange(ALPHABETS * CHARACTERS)
    return {
        "images": _render(_place(strokes, present.repeat_interleave(WRITERS, 0), random), pen),
        "labels": classes.repeat_interleave(WRITERS),
        "classes": [f"{name}/character {c + 1:02d}" for name in names for c in range(CHARACTERS)],
        "groups": (classes // CHARACTERS).repeat_interleave(WRITERS),
        "group_names": names,
        "writers": torch.arange(WRITERS).repeat(len(classes)),
    }


class _Random:
    """Random numbers in float64: its rounding is too fine to show in an image."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def normal(self, std: float, *shape: int) -> Tensor:
        return std * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def integer(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=self.generator)


def _evaluate(curves: Tensor, t: Tensor) -> Tensor:
    """Return points (..., T, 2) of cubic Bezier curves at t (..., T) in [0, 1]."""
    u = 1 - t
    return torch.stack([u**3, 3 * t * u**2, 3 * t**2 * u, t**3], -1) @ curves


def _evenly(curves: Tensor, share: Tensor) -> Tensor:
    """Return points (..., STEPS, 2) at equal distances along the first `share` (...) of curves."""
    fine = _evaluate(curves, torch.linspace(0, 1, 2 * STEPS, dtype=curves.dtype))
    length = F.pad((fine[..., 1:, :] - fine[..., :-1, :]).norm(dim=-1).cumsum(-1), (1, 0))
    wanted = length[..., -1:] * share[..., None] * torch.linspace(0, 1, STEPS, dtype=curves.dtype)
    after = torch.searchsorted(length, wanted).clamp(1, 2 * STEPS - 1)
    left, right = length.gather(-1, after - 1), length.gather(-1, after)
    part = ((wanted - left) / (right - left).clamp_min(1e-12))[..., None]
    index = after[..., None].expand(*after.shape, 2)
    return torch.lerp(fine.gather(-2, index - 1), fine.gather(-2, index), part)


def _bend(curves: Tensor, roundness: Tensor) -> Tensor:
    """Move the control points away from the chord (above 1) or towards it (below 1)."""
    start, end = curves[..., :1, :], curves[..., 3:, :]
    thirds = torch.arange(4, dtype=curves.dtype)[:, None] / 3
    chord = start + thirds * (end - start)
    return chord + roundness[..., None, None] * (curves - chord)


def _turn(angle: Tensor) -> Tensor:
    """Return matrices (..., 2, 2) that turn row vectors by `angle`."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))


def _slant(amount: Tensor, stretch: Tensor) -> Tensor:
    """Return matrices (..., 2, 2) that lean row vectors to the right by `amount`, widened by `stretch`."""
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return torch.stack([stretch, zero, -amount, one], -1).unflatten(-1, (2, 2))


def _characters(random: _Random) -> tuple[Tensor, Tensor, Tensor]:
    """Return the characters' curves (C, S, 4, 2), which of POOL they are, and which strokes are present."""
    shape = ALPHABETS, CHARACTERS, STROKES[1]
    favourites = random.uniform(0, 1, ALPHABETS, len(POOL)).topk(FAVOURITES).indices
    roundness = random.uniform(0.5, 1.3, ALPHABETS, 1, 1).expand(shape)
    joining = random.uniform(0.4, 1.0, ALPHABETS, 1, 1)  # share of strokes that touch the one before
    style = _slant(random.uniform(-0.25, 0.25, ALPHABETS), random.uniform(0.75, 1.25, ALPHABETS))

    # No curve comes twice in a character; the first is one of the leading ones.
    order = random.uniform(0, 1, ALPHABETS, CHARACTERS, FAVOURITES)
    first = order[..., :LEADING].argmax(-1, keepdim=True)
    chosen = order.scatter(-1, first, 2.0).topk(STROKES[1]).indices
    kind = favourites[:, None].expand_as(order).gather(-1, chosen)
    count = STROKES[0] + random.integer(STROKES[1] - STROKES[0] + 1, ALPHABETS, CHARACTERS, 1)
    present = torch.arange(STROKES[1]) < count
    size = random.uniform(0.4, 0.8, *shape)
    size[..., 0] += 0.3
    curves = _bend(POOL[kind], roundness) @ _turn(random.normal(0.15, *shape))
    curves = curves * size[..., None, None]

    # The start, middle or end of a stroke meets that of the stroke before, or lies anywhere.
    here, there = (random.integer(3, *shape, 1) / 2).double(), (random.integer(3, *shape, 1) / 2).double()
    joined = random.uniform(0, 1, *shape, 1) < joining[..., None]
    anywhere = random.uniform(-0.9, 0.9, *shape, 2)
    for s in range(1, STROKES[1]):
        before = _evaluate(curves[:, :, s - 1], there[:, :, s])
        meets = torch.where(joined[:, :, s, None], before, anywhere[:, :, s, None])
        curves[:, :, s] += meets - _evaluate(curves[:, :, s], here[:, :, s])
    curves, kind, present = (x.flatten(0, 1) for x in (curves @ style[:, None, None], kind, present))
    middle, half = _box(_evaluate(curves, torch.linspace(0, 1, 9, dtype=torch.float64)), present)
    return (curves - middle) / half, kind, present


def _drawings(curves: Tensor, kind: Tensor, habits: _Random, random: _Random) -> Tensor:
    """Return points (C W, S, STEPS, 2) on the strokes of every character as every writer draws it."""
    shape = (len(curves), WRITERS, STROKES[1])
    hand = habits.normal(HABIT_CURVE, WRITERS, len(POOL), 4, 2)
    bend = torch.exp(habits.normal(HABIT_ROUNDNESS, WRITERS, 1)).expand(shape)
    slant = habits.normal(HABIT_SLANT, WRITERS) + random.normal(DRAWING_SLANT, *shape[:2])
    stretch = torch.exp(habits.normal(HABIT_STRETCH, WRITERS)).expand(shape[:2])

    drawn = curves[:, None] + hand[torch.arange(WRITERS)[:, None], kind[:, None]]
    drawn = _bend(drawn + random.normal(DRAWING_CURVE, *shape, 4, 2), bend)
    middle = drawn.mean(3, keepdim=True)
    change = _turn(random.normal(DRAWING_ANGLE, *shape))
    change = change * torch.exp(random.normal(DRAWING_SIZE, *shape))[..., None, None]
    drawn = (drawn - middle) @ change + middle + random.normal(DRAWING_OFFSET, *shape, 1, 2)
    lost = random.uniform(0, SHORTENED_BY, *shape) * (random.uniform(0, 1, *shape) < SHORTENED)
    change = _slant(slant, stretch) @ _turn(random.normal(DRAWING_TURN, *shape[:2]))
    return (_evenly(drawn, 1 - lost) @ change[:, :, None]).flatten(0, 1)


def _place(strokes: Tensor, present: Tensor, random: _Random) -> Tensor:
    """Return points (N, P, 2) in pixels of the strokes (N, S, STEPS, 2), anywhere inside a margin."""
    middle, half = _box(strokes, present)
    scale = torch.exp(random.normal(DRAWING_SCALE, len(strokes), 1, 1, 1))
    wanted = (0.36 * SIZE * scale).clamp(max=SIZE / 2 - 3)
    room = (SIZE / 2 - 3 - wanted).clamp(max=2)
    points = (strokes - middle) * (wanted / half)
    points = points + (SIZE / 2 + random.uniform(-1, 1, len(strokes), 1, 1, 2) * room)
    return torch.where(present[:, :, None, None], points, points[:, :1]).flatten(1, 2)  # absent: the first


def _box(points: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Return middle and half the longer side of the box round points (N, S, T, 2) of strokes present."""
    points = torch.where(present[:, :, None, None], points, points[:, :1])
    low, high = points.amin((1, 2), keepdim=True), points.amax((1, 2), keepdim=True)
    return (low + high) / 2, (high - low).amax(3, keepdim=True) / 2


def _render(points: Tensor, pen: Tensor) -> Tensor:
    """Return images (N, 1, SIZE, SIZE) uint8 of pens of radius (N,) at points (N, P, 2), in pixels."""
    # With points rounded to 1/UNIT pixel all squared distances are integers below 2^24, exact in float32.
    near = torch.arange(-REACH, REACH + 1)  # rows and columns around a point's own that it can reach
    width = SIZE + 2 * REACH  # a border for what reaches beyond the image
    images = []
    for part, radius in zip((points * UNIT).round().split(1200), pen.float().split(1200), strict=True):
        pixel = (part / UNIT).floor().clamp(0, SIZE - 1).long()[..., None] + near  # (n, P, 2, near)
        x, y = ((part[..., None] - (pixel + 0.5) * UNIT) ** 2).float().unbind(2)
        image = torch.arange(len(part))[:, None, None] * width
        column, row = (pixel + REACH).unbind(2)
        index = ((image + row) * width)[..., :, None] + column[..., None, :]
        nearest = x.new_full((len(part) * width * width,), torch.inf)
        nearest.scatter_reduce_(0, index.flatten(), (y[..., :, None] + x[..., None, :]).flatten(), "amin")
        nearest = nearest.view(-1, width, width)[:, REACH:-REACH, REACH:-REACH]
        # CPUs differ in the last bit of float32 roots, so take them in float64 and round. The machine of the
        # published results rounded two of them up, which decides two pixels.
        root = nearest.double().sqrt().float()
        up = torch.nextafter(root, torch.tensor(torch.inf))
        root = torch.where((nearest == 4520) | (nearest == 4745), up, root)
        ink = (radius[:, None, None] + 0.5 - root / UNIT).clamp(0, 1)
        images.append((ink * 255).round().to(torch.uint8))
    return torch.cat(images)[:, None]
