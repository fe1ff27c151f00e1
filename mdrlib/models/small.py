"""The convolutional network for the book's small sets: quick enough to train on a laptop's CPU."""

from torch import Tensor, nn


class SmallConvNet(nn.Module):
    """Four blocks of convolution 3 x 3, batch norm, ReLU and 2 x 2 max pooling, 64 channels each.

    The architecture few-shot learning uses for Omniglot (Vinyals et al., "Matching Networks for One Shot
    Learning", NeurIPS 2016). Takes images (N, C, 32, 32) in [0, 1], of which it sees the mean over C, and
    returns features (N, 256).
    """

    features = 256

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (1, channels, channels, channels):
            layers += [
                nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[2:] != (32, 32):
            raise ValueError(f"the small network takes images (N, C, 32, 32), got {tuple(images.shape)}")
        return self.layers(images.mean(1, keepdim=True))
