"""FCOS (Tian et al. 2019, 2020): a fully convolutional, anchor-free detector."""

from __future__ import annotations

from torch import Tensor

from detector.loss.assign import assign
from detector.loss.fcos_loss import QualityKind, fcos_loss
from detector.model.head import DenseHead, Losses, Predictions
from detector.model.norm import Norm


class FCOSHead(DenseHead):
    """FCOS's head: classes, boxes and their quality. Its arguments are those of `DenseHead` and `quality`."""

    box_start = 4.0  # the middle of a level's range, and far from 0, where the ReLU has no gradient
    quality_channels = 1

    def __init__(
        self,
        classes: int,
        strides: tuple[int, ...],
        channels: int,
        width: int,
        depth: int,
        norm: Norm,
        quality: QualityKind = "iou",
    ) -> None:
        super().__init__(classes, strides, channels, width, depth, norm)
        self.quality = quality

    def loss(self, output: Predictions, boxes: Tensor, labels: Tensor, usable: Tensor) -> Losses:
        targets = assign(boxes, labels, usable, self.grid(output))
        return fcos_loss(*output, targets, self.quality)
