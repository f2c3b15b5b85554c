"""What heads have in common: their interface, and the towers that predict at every cell of a pyramid."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detector.infer.postprocess import Detections, Settings, postprocess
from detector.model.grid import Grid, grid_of
from detector.model.norm import ConvNorm, LevelNorms, Norm

Losses = dict[str, Tensor]  # scalars on the device by name; their sum is what training minimizes
Output = Any  # of a head: a named tuple that only its own `loss` and `decode` read
RARE = -math.log(99)  # the bias with which every class starts at a score of 0.01


class Predictions(NamedTuple):
    """Predictions at every cell of a pyramid, per level, finest first."""

    logits: list[Tensor]  # (B, K, h, w) class scores before the sigmoid
    boxes: list[Tensor]  # (B, 4, h, w) distances left, top, right, bottom from the point, in strides, not negative
    quality: list[Tensor]  # (B, 1, h, w) predicted quality before the sigmoid; (B, 0, h, w) from heads without it


class Head(nn.Module, ABC):
    """The last part of a detector: predictions from a pyramid, their losses, and detections from them.

    Subclasses define `towers`, `forward`, `loss` and `decode`; training, evaluation and prediction use these alone.
    """

    @abstractmethod
    def towers(self) -> list[nn.Module]:
        """The hidden layers, all but those that make predictions."""

    @abstractmethod
    def forward(self, pyramid: list[Tensor], masks: list[Tensor] | None = None, region: Tensor | None = None) -> Output:
        """What `loss`, in training, or `decode`, otherwise, makes its result from.

        Args:
            pyramid: the features, per level (B, C, h, w).
            masks: see `LevelNorms.forward`.
            region: (B, 4) float xyxy, where each image lies on its canvas. Default: everywhere.
        """

    @abstractmethod
    def loss(self, output: Output, boxes: Tensor, labels: Tensor, usable: Tensor) -> Losses:
        """The losses of a batch, in float32, without waiting for the device.

        Args:
            output: of `forward`.
            boxes: (B, G, 4) float xyxy in canvas pixels.
            labels: (B, G) int64.
            usable: (B, G) bool, false for padding, crowds and other boxes that must not be learned.
        """

    @abstractmethod
    def decode(self, output: Output, region: Tensor, settings: Settings) -> Detections:
        """Detections in canvas pixels. See `postprocess` for `region` (B, 4) and `settings`."""


class DenseHead(Head):
    """Two towers over every level: one for the class, one for the box and, if there is one, its quality.

    Args:
        classes: number of classes K.
        strides: of the levels.
        channels: of the pyramid.
        width: channels of the towers.
        depth: number of convolutions in each tower.
        norm: of the towers.
    """

    box_start: float  # strides: the distances that new weights predict
    quality_channels: int  # 1, or 0 without a predicted quality

    def __init__(
        self, classes: int, strides: tuple[int, ...], channels: int, width: int, depth: int, norm: Norm
    ) -> None:
        super().__init__()
        self.strides = strides
        widths = [channels] + [width] * depth
        self.class_tower = tower(widths, norm, len(strides))
        self.box_tower = tower(widths, norm, len(strides))
        self.classify = nn.Conv2d(widths[-1], classes, 3, padding=1)
        self.locate = nn.Conv2d(widths[-1], 4 + self.quality_channels, 3, padding=1)  # all in one convolution
        self.scale = nn.Parameter(torch.ones(len(strides)))
        start_small(self)
        nn.init.constant_(self.classify.get_parameter("bias"), RARE)
        nn.init.constant_(self.locate.get_parameter("bias")[:4], self.box_start)

    def towers(self) -> list[nn.Module]:
        return [self.class_tower, self.box_tower]

    def forward(
        self, pyramid: list[Tensor], masks: list[Tensor] | None = None, region: Tensor | None = None
    ) -> Predictions:
        class_features = run(self.class_tower, pyramid, masks)
        located = [self.locate(feature) for feature in run(self.box_tower, pyramid, masks)]
        return Predictions(
            logits=[self.classify(feature) for feature in class_features],
            boxes=[(x[:, :4] * self.scale[level]).relu() for level, x in enumerate(located)],
            quality=[x[:, 4:] for x in located],
        )

    def decode(self, output: Predictions, region: Tensor, settings: Settings) -> Detections:
        return postprocess(*output, self.grid(output), region, settings)

    def grid(self, predictions: Predictions) -> Grid:
        """The points of predictions."""
        return grid_of(self.strides, predictions.logits)


def tower(widths: list[int], norm: Norm, levels: int) -> nn.ModuleList:
    """3 x 3 convolutions from each of `widths` to the next, shared by all levels."""
    return nn.ModuleList(
        ConvNorm(nn.Conv2d(before, after, 3, padding=1), LevelNorms(norm, after, levels))
        for before, after in pairwise(widths)
    )


def run(blocks: nn.ModuleList, levels: list[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
    """The output of a tower. See `LevelNorms.forward` for `masks`."""
    for block in blocks:
        levels = block(levels, masks)
    return levels


def start_small(module: nn.Module) -> None:
    """Give convolutions small random weights and biases of 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.01)
            nn.init.zeros_(part.get_parameter("bias"))
