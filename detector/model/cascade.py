"""The stages of a cascade (Cai and Vasconcelos 2018): each classifies regions of interest and moves their boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SIDE = 7  # cells along each side of a region's features
LARGEST_CHANGE = math.log(1000 / 16)  # of the logarithm of a side


class BoxHead(nn.Module):
    """Two hidden layers, from which classes and one box for all classes are predicted.

    Args:
        channels: of the pyramid.
        width: of the hidden layers.
        classes: number of classes K.
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        layers = nn.Linear(SIDE * SIDE * channels, width), nn.Linear(width, width)
        self.hidden = nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1], nn.ReLU(inplace=True))
        self.classify = nn.Linear(width, classes + 1)
        self.locate = nn.Linear(width, 4)
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        for layer, std in ((self.classify, 0.01), (self.locate, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, P, C, 7, 7) -> logits (B, P, K + 1), the last for "no object", and differences (B, P, 4)."""
        hidden = self.hidden(features.permute(0, 1, 3, 4, 2).flatten(2))  # no copy where channels are innermost
        return self.classify(hidden), self.locate(hidden)


def encode(boxes: Tensor, targets: Tensor, scale: tuple[float, float]) -> Tensor:
    """The differences from boxes to targets, (..., 4) xyxy: of centers in sides of the box, of logarithms of sides.

    Multiplied by `scale`, one factor for centers and one for sides. Boxes and targets need an area above 0.
    """
    center, sides = _center(boxes)
    target_center, target_sides = _center(targets)
    return torch.cat([scale[0] * (target_center - center) / sides, scale[1] * (target_sides / sides).log()], -1)


def decode(boxes: Tensor, differences: Tensor, scale: tuple[float, float]) -> Tensor:
    """The inverse of `encode`: boxes moved by differences (..., 4), which enlarge a side 62.5 times at most."""
    center, sides = _center(boxes)
    shift, change = differences.float().split(2, -1)
    center = center + shift / scale[0] * sides
    half = (change / scale[1]).clamp(max=LARGEST_CHANGE).exp() * sides / 2
    return torch.cat([center - half, center + half], -1)


def clip(boxes: Tensor, region: Tensor) -> Tensor:
    """Boxes (B, P, 4) xyxy, cut to the region (B, 4) of their image."""
    low, high = region[:, None, :2].repeat(1, 1, 2), region[:, None, 2:].repeat(1, 1, 2)
    return torch.minimum(torch.maximum(boxes, low), high)


def _center(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes.float().split(2, -1)
    return (low + high) / 2, high - low
