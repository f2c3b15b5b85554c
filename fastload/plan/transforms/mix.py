"""Transforms that show several images on one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import Transform, scaled, width_height


@dataclass
class Mosaic(Transform):
    """Four images around a random point (Bochkovskiy et al., "YOLOv4", 2020): each image and three drawn at random.

    The result is `size` = (height, width), or a square of `size` pixels. Each image is scaled to fit within it, keeping
    its aspect ratio, and put with a corner on the common point, which lies in the middle half of either axis; what
    exceeds its quadrant is cut. Put it first in the list: the three others come as they are in the dataset. A mosaic
    shows several sources, so `Targets.to_original` does not apply to it.
    """

    spans_batches = True

    size: int | tuple[int, int]
    min_visible: float = 0.1

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)
        if self._extent.min() < 4:
            raise ArgumentError(f"Mosaic needs a size of at least 4 pixels, not {self.size}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        others = rng.integers(len(images), size=3 * count)
        plan.extend(images.index[others], images.size[others])
        plan.resize(scaled(plan.size, (self._extent / plan.size).min(1)))
        into = np.tile(np.arange(count, dtype=np.int32), 4)
        point = np.rint(self._extent * rng.uniform(0.25, 0.75, (count, 2))).astype(np.int32)[into]
        quadrant = np.repeat([[0, 0], [1, 0], [0, 1], [1, 1]], count, 0) == 1  # (4 B, 2) right, lower
        shown = np.minimum(plan.size, np.where(quadrant, self._extent - point, point))
        plan.crop_to(np.concatenate([np.where(quadrant, 0, plan.size - shown), shown], 1))
        plan.compose(into, np.where(quadrant, point, point - shown), np.tile(self._extent, (count, 1)))
        plan.min_visible = max(plan.min_visible, self.min_visible)
