"""Transforms that combine several images into one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import Transform, scaled, width_height


@dataclass
class Mosaic(Transform):
    """Arrange each image and three random ones around a random point (Bochkovskiy et al., "YOLOv4", 2020).

    The point is uniform in the middle half of each axis, rounded to pixels. The three images are uniform over all
    images of the loader, with replacement. All four are scaled to the largest size within `size` that keeps their
    aspect ratio, and placed with one corner on the point: the original image at the upper left, the others at the upper
    right, lower left and lower right. Each is cropped to its quadrant. Uncovered parts have the collator's `fill`.

    Put it first in `transforms`: transforms before it do not apply to the three images. `Targets.to_original` does not
    support mosaics, since they have several sources.

    Args:
        size: (height, width) of the result in pixels, or the edge of a square; at least 4.
        min_visible: drop a clipped box with less than this share of its area left, 0 to 1; see
            `fastload.plan.transforms`. Default: 0.1.

    Raises:
        ArgumentError: `size` is not one or two whole numbers of at least 4.
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
