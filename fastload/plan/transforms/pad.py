"""Pad: enlarges canvases without scaling images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import Fill, Transform, check_fill, underlay, width_height


@dataclass
class Pad(Transform):
    """Pad each image that is smaller than a size, as mmdetection's `Pad`. No box is clipped.

    A collator pads batches anyway. This transform pads before what follows it in the list, such as a flip.

    Args:
        size: (height, width) in pixels, or the edge of a square. Larger sides stay as they are.
        fill: the padding, gray or (red, green, blue). Default: that of the collator.
        center: pad on all sides. Default: on the right and below.

    Raises:
        ArgumentError: `size` or `fill` is out of range.
    """

    spans_batches = True

    size: int | tuple[int, int]
    fill: Fill = None
    center: bool = False

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)
        check_fill(self.fill, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        room = np.maximum(self._extent - plan.size, 0)
        corner = -(room // 2) if self.center else np.zeros_like(room)
        plan.crop_to(np.concatenate([corner, plan.size + room], 1))
        underlay(plan, np.flatnonzero(room.any(1)), self.fill, self)
