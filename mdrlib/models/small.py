"""The convolutional network for the book's small sets: quick enough to train on a laptop's CPU."""

import torch
from torch import Tensor, nn


class SmallConvNet(nn.Module):
    """Four blocks of convolution 3 x 3, batch norm, 2 x 2 max pooling and ReLU, of `channels` channels each.

    The architecture few-shot learning uses for Omniglot (Vinyals et al., "Matching Networks for One Shot
    Learning", NeurIPS 2016), with 64. Takes images (N, C, 32, 32) in [0, 1], of which it sees the mean over
    C, and returns features (N, 4 channels).
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.features = 4 * channels  # of 2 x 2 places
        layers: list[nn.Module] = []
        for inputs in (1, channels, channels, channels):
            layers += [
                nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.MaxPool2d(2),  # before the ReLU: the same function, with a quarter of the ReLU's work
                nn.ReLU(inplace=True),
            ]
        # With channels last and the pooling first, this network alone took two thirds of its time on a CPU.
        self.layers = nn.Sequential(*layers, nn.Flatten()).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[2:] != (32, 32):
            raise ValueError(f"the small network takes images (N, C, 32, 32), got {tuple(images.shape)}")
        grey = images.mean(1, keepdim=True)
        return self.layers(grey.contiguous(memory_format=torch.channels_last))
