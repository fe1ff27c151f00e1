"""BN-Inception, the backbone of most papers on deep metric learning."""

from torch import Tensor, cat, nn
from torch.nn.functional import avg_pool2d, max_pool2d

# The channels that leave a block's layers, as the published weights have them; 0 where there is no layer.
BLOCKS = {
    #     1x1  3x3: reduce, 3x3   double 3x3: reduce, both   pooling, its projection
    "3a": (64, 64, 64, 64, 96, "average", 32),
    "3b": (64, 64, 96, 64, 96, "average", 64),
    "3c": (0, 128, 160, 64, 96, "max", 0),
    "4a": (224, 64, 96, 96, 128, "average", 128),
    "4b": (192, 96, 128, 96, 128, "average", 128),
    "4c": (160, 128, 160, 128, 160, "average", 128),
    "4d": (96, 128, 192, 160, 192, "average", 128),
    "4e": (0, 128, 192, 192, 256, "max", 0),
    "5a": (352, 192, 320, 160, 224, "average", 128),
    "5b": (352, 192, 320, 192, 224, "max", 128),
}


class BNInception(nn.Module):
    """Inception with batch norm after each convolution (Ioffe & Szegedy, "Batch Normalization", ICML 2015).

    Takes images (N, 3, H, W) in the order B, G, R, from 0 to 255 minus the mean colour; H and W are multiples
    of 32, or other sides that halve five times. Returns features (N, 1024). Keys and shapes of the state_dict
    are those of the published file bn_inception-52deb4733.pth without its classifier.
    """

    def __init__(self) -> None:
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, 7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        channels = 192
        for block, (single, reduce, three, double_reduce, double, _, projection) in BLOCKS.items():
            name = f"inception_{block}"
            stride = 1 if projection else 2  # a block without projection halves the maps
            if single:
                self._add(f"{name}_1x1", channels, single, 1)
            self._add(f"{name}_3x3_reduce", channels, reduce, 1)
            self._add(f"{name}_3x3", reduce, three, 3, stride)
            self._add(f"{name}_double_3x3_reduce", channels, double_reduce, 1)
            self._add(f"{name}_double_3x3_1", double_reduce, double, 3)
            self._add(f"{name}_double_3x3_2", double, double, 3, stride)
            if projection:
                self._add(f"{name}_pool_proj", channels, projection, 1)
            channels = single + three + double + (projection or channels)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def _add(self, name: str, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(inputs, outputs, size, stride, padding=size // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _layers(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)).relu_()
        return x

    def maps(self, x: Tensor) -> Tensor:
        """Return the last feature maps (N, 1024, h, w); h is about H / 32."""
        shape = tuple(x.shape)
        x = _halve(self._layers(x, "conv1_7x7_s2"))
        x = _halve(self._layers(x, "conv2_3x3_reduce", "conv2_3x3"))
        for block, (single, *_, pooling, projection) in BLOCKS.items():
            if not projection and any(side % 2 for side in x.shape[2:]):
                raise ValueError(f"bn_inception takes sides such as 224, multiples of 32, got images {shape}")
            name = f"inception_{block}"
            branches = [self._layers(x, f"{name}_1x1")] if single else []
            branches.append(self._layers(x, f"{name}_3x3_reduce", f"{name}_3x3"))
            double = f"{name}_double_3x3"
            branches.append(self._layers(x, f"{double}_reduce", f"{double}_1", f"{double}_2"))
            if projection:
                pooled = (avg_pool2d if pooling == "average" else max_pool2d)(x, 3, stride=1, padding=1)
                branches.append(self._layers(pooled, f"{name}_pool_proj"))
            else:
                branches.append(_halve(x))
            x = cat(branches, 1)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.maps(x)).flatten(1)


def _halve(x: Tensor) -> Tensor:
    return max_pool2d(x, 3, stride=2, ceil_mode=True)  # the original, in Caffe, rounds sizes up
