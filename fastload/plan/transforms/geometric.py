"""Transforms that scale, crop and flip images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import Transform, scaled, width_height


@dataclass
class ShortestEdge(Transform):
    """Scale the shorter edge to a size, keeping the aspect ratio; `max_size` limits the longer edge.

    `sizes` is in pixels, one or several; of several each image draws its own, or with `per_batch` the whole batch one,
    which wastes less of the canvas. The result is rounded half up, as in detectron2's ResizeShortestEdge: with
    scale = size / min(w, h), lowered to max_size / max(w, h) if need be, it is (floor(w * scale + .5), floor(h * scale
    + .5)).
    """

    sizes: int | Sequence[int]
    max_size: int | None = None
    per_batch: bool = False

    def __post_init__(self) -> None:
        self._choices = np.atleast_1d(np.asarray(self.sizes))
        if not self._choices.size or self._choices.dtype.kind not in "iu" or self._choices.min() < 1:
            raise ArgumentError(f"ShortestEdge needs one or several sizes in whole pixels, not {self.sizes!r}")
        self.spans_batches = not self.per_batch
        if self.max_size is not None and self.max_size < 1:
            raise ArgumentError(f"ShortestEdge needs a max_size of at least one pixel, not {self.max_size}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        width, height = plan.size[:, 0], plan.size[:, 1]
        scale = self._short(len(plan.size), rng) / np.minimum(width, height)
        if self.max_size is not None:
            scale = np.minimum(scale, self.max_size / np.maximum(width, height))
        plan.resize(scaled(plan.size, scale))

    def _short(self, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        if len(self._choices) == 1:
            return self._choices
        return rng.choice(self._choices, 1 if self.per_batch else batch)


@dataclass
class Resize(Transform):
    """Scale every image to `size` = (height, width), or a square of `size` pixels; the aspect ratio is not kept."""

    spans_batches = True

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        plan.resize(np.broadcast_to(self._extent, plan.size.shape))


@dataclass
class RandomFlip(Transform):
    """Mirror an image left to right with probability `p`."""

    spans_batches = True

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ArgumentError(f"RandomFlip needs a probability from 0 to 1, not {self.p}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        plan.flip_horizontally(rng.random(len(plan.size)) < self.p)


@dataclass
class ScaleJitterCrop(Transform):
    """Large-scale jitter (Ghiasi et al., "Simple Copy-Paste", 2021).

    Each image is scaled to fit within s * `size`, s drawn uniformly from `scale`, keeping its aspect ratio; what
    then exceeds `size` = (height, width), or a square of `size` pixels, is cropped at random. Smaller images are left
    for the collator to pad: give it `canvas_sizes=size` for batches of one constant shape.
    """

    spans_batches = True

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.1, 2.0)
    min_visible: float = 0.0

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ArgumentError(f"ScaleJitterCrop needs a scale (low, high) with 0 < low <= high, not {self.scale}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        jitter = rng.uniform(*self.scale, len(plan.size))
        plan.resize(scaled(plan.size, jitter * (self._extent / plan.size).min(1)))
        window = np.minimum(plan.size, self._extent)
        corner = np.floor(rng.random(window.shape) * (plan.size - window + 1))
        plan.crop_to(np.concatenate([corner, window], 1).astype(np.int32))
        plan.min_visible = max(plan.min_visible, self.min_visible)
