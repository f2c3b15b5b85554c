"""CenterNet* (Zhou et al. 2021, "Probabilistic two-stage detection"): CenterNet on a feature pyramid."""

from __future__ import annotations

from torch import Tensor

from detector.loss.center_assign import assign_centers
from detector.loss.center_loss import center_loss
from detector.loss.heatmap import heatmap
from detector.model.head import DenseHead, Losses, Predictions
from detector.model.norm import Norm


class CenterNetHead(DenseHead):
    """CenterNet*'s head: classes and boxes. Its arguments are those of `DenseHead` and these:

    Args:
        more_positives: also learn an object's class where its box is predicted well already.
        ignore_high: drop negatives whose predicted probability is at least this; 0 drops none.
    """

    box_start = 8.0
    quality_channels = 0

    def __init__(
        self,
        classes: int,
        strides: tuple[int, ...],
        channels: int,
        width: int,
        depth: int,
        norm: Norm,
        more_positives: bool = True,
        ignore_high: float = 0.0,
    ) -> None:
        super().__init__(classes, strides, channels, width, depth, norm)
        self.more_positives, self.ignore_high = more_positives, ignore_high

    def loss(self, output: Predictions, boxes: Tensor, labels: Tensor, usable: Tensor) -> Losses:
        grid = self.grid(output)
        usable = usable & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        targets = assign_centers(boxes, labels, usable, grid)
        spots = heatmap(boxes, labels, usable, grid, output.logits[0].shape[1])
        return center_loss(output.logits, output.boxes, targets, spots, self.more_positives, self.ignore_high)
