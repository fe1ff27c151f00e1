"""From the last feature maps to one vector an image."""

from torch import Tensor, nn

POOLING = ("average", "average+max")


class AverageMaxPool(nn.Module):
    """Maps (N, C, H, W) -> (N, C, 1, 1): a channel's mean plus its maximum.

    As in the code of Kim et al., "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020.
    """

    def forward(self, maps: Tensor) -> Tensor:
        # amax, not max pooling: its gradient has one order of summation on a GPU too.
        return maps.mean((2, 3), keepdim=True) + maps.amax((2, 3), keepdim=True)


def global_pool(pooling: str) -> nn.Module:
    """The layer (N, C, H, W) -> (N, C, 1, 1) for one of POOLING; ValueError for another name."""
    if pooling not in POOLING:
        raise ValueError(f"pooling must be one of {POOLING}, got {pooling!r}")
    return nn.AdaptiveAvgPool2d(1) if pooling == "average" else AverageMaxPool()
