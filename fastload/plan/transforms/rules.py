"""Rules that decide which boxes of a transformed image are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import Transform


@dataclass
class SanitizeBoxes(Transform):
    """Drop boxes that are too small, too narrow or hidden for the most part, as torchvision's `SanitizeBoundingBoxes`.

    The rules hold for the finished image, wherever this transform stands in the list.

    Args:
        min_size: the least side in pixels, whether the box is clipped or not. Default: 1.
        min_visible: the least share of its area that a clipped box must have left, 0 to 1. Default: 0.
        max_aspect: the most times that the longer side may be the shorter one. Default: any.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    min_size: float = 1.0
    min_visible: float = 0.0
    max_aspect: float = np.inf

    def __post_init__(self) -> None:
        if not (0 <= self.min_size < np.inf and 0 <= self.min_visible <= 1 and self.max_aspect >= 1):
            raise ArgumentError(f"{self} is out of range: use a min_visible from 0 to 1 and a max_aspect of at least 1")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        plan.drop_boxes(self.min_visible, self.min_size, self.max_aspect)
