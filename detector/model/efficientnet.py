"""EfficientNet-Lite0: EfficientNet-B0 (Tan and Le 2019) without squeeze-and-excitation, with ReLU6."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from detector.model.conv_bn import ConvBN

# Each stage: expansion, channels, blocks, stride, kernel.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class EfficientNetLite0(nn.Module):
    """Images (B, 3, H, W) -> C3, C4, C5 at strides 8, 16, 32. H and W must be multiples of 32."""

    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)
    out_channels = (40, 112, 320)

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn(3, 32, kernel=3, stride=2)
        self.blocks = nn.ModuleList()
        channels = 32
        for expansion, width, depth, stride, kernel in STAGES:
            stage = nn.Sequential()
            for i in range(depth):
                stage.append(InvertedResidual(channels, width, expansion, kernel, stride if i == 0 else 1))
                channels = width
            self.blocks.append(stage)
        self._init_weights()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        features = []
        for stage in self.blocks:
            x = stage(x)
            features.append(x)
        return [features[2], features[4], features[6]]

    def stages(self) -> list[list[nn.Module]]:
        """The stem and four stages (strides 2 to 32), in the order they are frozen."""
        b = self.blocks
        return [[self.stem], [b[0], b[1]], [b[2]], [b[3], b[4]], [b[5], b[6]]]

    @torch.no_grad()
    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] ** 2 // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)


class InvertedResidual(nn.Module):
    """Expand, convolve each channel separately, project back."""

    def __init__(self, channels: int, width: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = channels * expansion
        layers = [_conv_bn(channels, inner, kernel=1)] if expansion > 1 else []
        layers.append(_conv_bn(inner, inner, kernel, stride, groups=inner))
        layers.append(_conv_bn(inner, width, kernel=1, activation=False))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.shortcut else y


class SamePadConv2d(nn.Conv2d):
    """A stride-2 convolution with TensorFlow's "SAME" padding of even sizes: one less before than after.

    The published weights were trained with it. Padding one more on both sides and dropping the first row and column
    gives the same result, and is cheaper than padding the input.
    """

    def __init__(self, channels: int, width: int, kernel: int, groups: int) -> None:
        super().__init__(channels, width, kernel, 2, kernel // 2 + 1, groups=groups, bias=False)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight, bias)[..., 1:, 1:]


def _conv_bn(
    channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    if stride == 2:
        conv: nn.Conv2d = SamePadConv2d(channels, width, kernel, groups)
    else:
        conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, groups=groups, bias=False)
    return ConvBN(conv, nn.BatchNorm2d(width, eps=1e-3), *([nn.ReLU6(inplace=True)] if activation else []))


def by_order(published: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename a published state dict to `model`'s names; both have the same order of layers.

    The classifier after the last block is dropped.

    Raises:
        ValueError: the shapes do not match.
    """
    source: Iterator[tuple[str, Tensor]] = iter(published.items())
    renamed = {}
    for name, own in model.state_dict().items():
        origin, value = next(source, ("nothing", torch.empty(0)))
        if value.shape != own.shape:
            raise ValueError(f"{origin} {tuple(value.shape)} found where {name} {tuple(own.shape)} is expected")
        renamed[name] = value
    return renamed
