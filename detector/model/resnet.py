"""ResNet-18, -34 and -50 (He et al. 2016), with torchvision's parameter names so that its weights files load."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.model.conv_bn import ConvBN, conv_bn

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = conv_bn(self.conv1, self.bn1, x).relu_()
        y = conv_bn(self.conv2, self.bn2, y)
        return (y + self.downsample(x)).relu_()


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = conv_bn(self.conv1, self.bn1, x).relu_()
        y = conv_bn(self.conv2, self.bn2, y).relu_()
        y = conv_bn(self.conv3, self.bn3, y)
        return (y + self.downsample(x)).relu_()


def _shortcut(channels: int, width: int, stride: int) -> nn.Module:
    if channels == width and stride == 1:
        return nn.Identity()
    return ConvBN(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


class ResNet(nn.Module):
    """Images (B, 3, H, W) -> C3, C4, C5 at strides 8, 16, 32."""

    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, name: str) -> None:
        super().__init__()
        block = Bottleneck if name == "resnet50" else BasicBlock
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, depth in enumerate(DEPTHS[name]):
            width = 64 * 2**stage
            blocks = []
            for i in range(depth):
                blocks.append(block(channels, width, stride=2 if stage > 0 and i == 0 else 1))
                channels = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.out_channels = tuple(64 * 2**stage * block.expansion for stage in (1, 2, 3))
        self._init_weights()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.layer1(self.maxpool(conv_bn(self.conv1, self.bn1, images).relu_()))
        c3 = self.layer2(x)
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]

    def stages(self) -> list[list[nn.Module]]:
        """The stem and the four stages, in the order they are frozen."""
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    @torch.no_grad()
    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
