"""Draw the picture that explains MDR, mdr.png and mdr-dark.png, next to this file: python make_mdr_picture.py

Everything in it is computed: 60 points of three classes in 16 dimensions, their normalized distances, and the
same distances after gradient descent on L_MDR alone, levels held at -1.5, 0 and 1.5. Each picture carries its
narrow variant for a phone.
"""

from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from mdrbook.narrow import two_in_one
from mdrbook.plots import nearest_level
from mdrbook.style import figure, level_colors, signed, text_color, theme
from mdrlib import MDR, pairwise_distances

LEVELS = (-1.5, 0.0, 1.5)
CLASSES, MEMBERS, DIM, SPREAD = 3, 20, 16, 1.3
STEPS, RATE = 500, 20.0
SHOWN = 3  # points of each class in the left panel; the lines of all 60 would cover each other
BINS = torch.linspace(-3.45, 3.45, 24)  # of 0.3, levels in the middle of a bin, their borders between two


def random_points() -> Tensor:
    """Points (60, 16) about three random centres."""
    generator = torch.Generator().manual_seed(0)
    centres = SPREAD * torch.randn(CLASSES, 1, DIM, generator=generator)
    return (centres + torch.randn(CLASSES, MEMBERS, DIM, generator=generator)).flatten(0, 1)


def regularize(points: Tensor) -> Tensor:
    """The points after plain gradient descent on L_MDR, the rate falling linearly to 0."""
    x, mdr = points.clone().requires_grad_(), MDR(LEVELS, learn_levels=False)
    for step in range(STEPS):
        (gradient,) = torch.autograd.grad(mdr(x), x)
        with torch.no_grad():
            x -= RATE * (1 - step / STEPS) * gradient
    return x.detach()


def normalized(points: Tensor) -> Tensor:
    """z of the pairs i < j."""
    i, j = torch.triu_indices(len(points), len(points), offset=1)
    d = pairwise_distances(points)[i, j]
    return (d - d.mean()) / d.std()


def draw(points: Tensor, after: Tensor) -> Figure:
    """Three panels, 10 x 3.6 inches: points and their distances, the distances by level, and after MDR."""
    fig, axes = figure(10, 3.6, 1, 3, width_ratios=(0.8, 1, 1))
    fig.get_layout_engine().set(wspace=0.06, w_pad=0.08, h_pad=0.08)
    for ax, title, words in zip(
        axes,
        ("1  Normalize", "2  Assign", "3  Regularize"),
        (
            "all distances of a batch",
            "each to the nearest of 3 levels",
            f"after {STEPS} steps on $L_{{MDR}}$",
        ),
        strict=True,
    ):
        ax.set_title(title, fontsize=16, pad=30)
        ax.annotate(words, (0, 1), (0, 10), xycoords="axes fraction", textcoords="offset points", fontsize=13)
    draw_points(axes[0], points)
    top = 1.18 * float(torch.histogram(normalized(after), BINS).hist.max())
    for ax, z in zip(axes[1:], (normalized(points), normalized(after)), strict=True):
        draw_levels(ax, z, top)
    draw_pull(axes[1], top)
    return fig


def lay_out(points: Tensor) -> Tensor:
    """Places (N, 2) in the plane whose distances are close to those of the points (N, D): least squares."""
    d = pairwise_distances(points)
    centred = points - points.mean(0)
    plane = (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T).requires_grad_()
    for _ in range(500):
        (gradient,) = torch.autograd.grad((pairwise_distances(plane) - d).square().sum(), plane)
        with torch.no_grad():
            plane -= 0.02 * gradient
    return plane.detach()


def draw_points(ax, points: Tensor) -> None:
    """Some of the points laid out in a plane, joined by lines coloured by the level of their distance."""
    n = len(points)
    i, j = torch.triu_indices(n, n, offset=1)
    level = torch.zeros(n, n, dtype=torch.long)
    level[i, j] = torch.from_numpy(nearest_level(normalized(points), LEVELS))
    chosen = [c * MEMBERS + m for c in range(CLASSES) for m in range(SHOWN)]
    plane = lay_out(points[chosen])
    for k, color in reversed(list(enumerate(level_colors(len(LEVELS))))):  # near pairs over far ones
        for pair in torch.triu(level[chosen][:, chosen] == k, diagonal=1).nonzero():
            ax.plot(*plane[pair].T, color=color, linewidth=1.6)
    for c, marker in enumerate("os^"):
        look = {"marker": marker, "s": 95, "color": text_color(), "edgecolors": ax.get_facecolor()}
        ax.scatter(*plane[c * SHOWN : (c + 1) * SHOWN].T, zorder=3, linewidths=1.2, **look)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.set_adjustable("datalim")
    ax.spines[:].set_visible(False)
    ax.set_xlabel(r"$z = (d - \mu)\,/\,\sigma$", fontsize=14, labelpad=19)


def draw_levels(ax, z: Tensor, top: float) -> None:
    """Histogram of z by level, in bands that show what each level owns."""
    middles = [(a + b) / 2 for a, b in zip(LEVELS[:-1], LEVELS[1:], strict=True)]
    bounds = [float(BINS[0]), *middles, float(BINS[-1])]
    counts, middle = torch.histogram(z, BINS).hist, (BINS[:-1] + BINS[1:]) / 2
    for k, (level, color) in enumerate(zip(LEVELS, level_colors(len(LEVELS)), strict=True)):
        ax.axvspan(bounds[k], bounds[k + 1], color=color, alpha=0.13, linewidth=0)
        ax.plot([level, level], [0, top], color=color, linewidth=2.2, zorder=1)
        own = (middle > bounds[k]) & (middle < bounds[k + 1])
        ax.stairs(torch.where(own, counts, 0).numpy(), BINS.numpy(), fill=True, color=color, zorder=2)
    ax.set(xlim=(bounds[0], bounds[-1]), ylim=(0, top), yticks=[])
    ax.set_xticks(LEVELS, [signed(level).replace("0.0", "0") for level in LEVELS], fontsize=14)
    for label, color in zip(ax.get_xticklabels(), level_colors(len(LEVELS)), strict=True):
        label.set(color=color, fontweight="bold")
    ax.set_xlabel("normalized distance z", fontsize=14)
    ax.spines["left"].set_visible(False)
    ax.tick_params(length=0)


def draw_pull(ax, top: float) -> None:
    """Arrows to each level from both sides: the direction of -dL/dz = -sign(z - s)."""
    reach, height = 0.62, 0.86 * top
    for level, color in zip(LEVELS, level_colors(len(LEVELS)), strict=True):
        for side in (-1, 1):
            arrow = {
                "arrowstyle": "-|>",
                "color": color,
                "linewidth": 2.4,
                "mutation_scale": 16,
                "shrinkA": 0,
            }
            ax.annotate("", (level + 0.06 * side, height), (level + reach * side, height), arrowprops=arrow)


def main() -> None:
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    points = random_points()
    after = regularize(points)
    for name, dark in (("mdr.png", False), ("mdr-dark.png", True)):
        with plt.rc_context():
            theme(dark)
            Path(__file__).with_name(name).write_bytes(two_in_one(draw(points, after), dpi=200))


if __name__ == "__main__":
    main()
