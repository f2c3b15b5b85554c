"""GridMosaic: four images in a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import Fill, Transform, check_fill, underlay


@dataclass
class GridMosaic(Transform):
    """Arrange each image and three random ones in a grid of two by two: the mosaic of DEIM (Huang et al., 2025).

    The three images are uniform over all images of the loader, with replacement; DEIM draws them from the last 50
    images. All four are scaled to a shorter edge of `size`, and their longer edge is rounded down. Each is placed at
    the upper left of its cell; cells are as wide as the widest and as high as the highest image. The result has the
    size of the four cells: follow it with `RandomAffine` and `Resize`.

    Put it first among those that apply to its images: transforms before it do not apply to the three others.

    Args:
        size: the shorter edge of each image in pixels.
        fill: the color of parts without an image. Default: 0. None: that of the collator.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    size: int = 320
    fill: Fill = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ArgumentError(f"GridMosaic needs a size of at least 1 pixel, not {self.size}")
        check_fill(self.fill, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        self.arrange(plan, images, rng.integers(len(images), size=(len(plan.size), 3)))

    def arrange(self, plan: BatchPlan, images: ImageIndex, others: NDArray[np.int64]) -> None:
        """Arrange each image and the images at positions `others` (B, 3)."""
        count = len(plan.size)
        plan.join(images.plan(others.T.reshape(-1)))
        plan.resize(np.floor(self.size * plan.size / plan.size.min(1, keepdims=True)).astype(np.int32))
        cell = plan.size.reshape(4, count, 2).max(0)
        into = np.tile(np.arange(count, dtype=np.int32), 4)
        place = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]).repeat(count, 0) * cell[into]
        plan.compose(into, place.astype(np.int32), 2 * cell)
        underlay(plan, np.arange(count), self.fill, self)
