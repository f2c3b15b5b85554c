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
    """Scale each image so that its shorter edge has a given size, keeping the aspect ratio.

    This is detectron2's `ResizeShortestEdge` with sample_style="choice". The scale is size / min(w, h), or
    max_size / max(w, h) if that is smaller. The result is floor(w * scale + 0.5) by floor(h * scale + 0.5) pixels, and
    at least 1 by 1. No box is clipped.

    Args:
        sizes: pixels of the shorter edge. If there are several, each is drawn with the same probability.
        max_size: limit of the longer edge, in pixels. Default: no limit.
        per_batch: draw one size for all images of a batch, which needs less padding. Default: one for each image.

    Raises:
        ArgumentError: a size is not a whole number of at least 1.
    """

    sizes: int | Sequence[int]
    max_size: int | None = None
    per_batch: bool = False

    def __post_init__(self) -> None:
        self._choices = np.atleast_1d(np.asarray(self.sizes))
        if not self._choices.size or self._choices.dtype.kind not in "iu" or self._choices.min() < 1:
            raise ArgumentError(f"ShortestEdge needs one or more sizes in whole pixels, not {self.sizes!r}")
        self.spans_batches = not self.per_batch
        if self.max_size is not None and self.max_size < 1:
            raise ArgumentError(f"ShortestEdge needs a max_size of at least 1 pixel, not {self.max_size}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        width, height = plan.size[:, 0], plan.size[:, 1]
        scale = self._draw(len(plan.size), rng) / np.minimum(width, height)
        if self.max_size is not None:
            scale = np.minimum(scale, self.max_size / np.maximum(width, height))
        plan.resize(scaled(plan.size, scale))

    def _draw(self, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Sizes (B), or (1) for all images."""
        if len(self._choices) == 1:
            return self._choices
        return rng.choice(self._choices, 1 if self.per_batch else batch)


@dataclass
class Resize(Transform):
    """Scale each image to a fixed size without keeping the aspect ratio, as torchvision's `Resize((height, width))`.

    No box is clipped.

    Args:
        size: (height, width) in pixels, or the edge of a square.

    Raises:
        ArgumentError: `size` is not one or two whole numbers of at least 1.
    """

    spans_batches = True

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        plan.resize(np.broadcast_to(self._extent, plan.size.shape))


@dataclass
class RandomFlip(Transform):
    """Mirror each image left to right at random, as torchvision's `RandomHorizontalFlip`. No box is clipped.

    Args:
        p: the probability. Default: 0.5.

    Raises:
        ArgumentError: `p` is not within 0 to 1.
    """

    spans_batches = True

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ArgumentError(f"RandomFlip needs a probability from 0 to 1, not {self.p}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        plan.flip_horizontally(rng.random(len(plan.size)) < self.p)


@dataclass
class ScaleJitterCrop(Transform):
    """Scale each image at random, and crop it where it exceeds a fixed size.

    This is large-scale jitter (Ghiasi et al., "Simple Copy-Paste", 2021), torchvision's `ScaleJitter` with a random
    crop. The image is scaled to the largest size within s * `size` that keeps its aspect ratio, where s is uniform in
    `scale`. If it is then larger than `size`, a window of that size is kept, uniform over all whole-pixel positions.
    Images that are smaller stay smaller: for batches of constant shape, use a collator with `canvas_sizes=size`.

    Args:
        size: (height, width) in pixels, or the edge of a square.
        scale: the smallest and the largest s. Default: 0.1 to 2.
        min_visible: drop a clipped box with less than this share of its area left, 0 to 1; see
            `fastload.plan.transforms`. Default: 0.

    Raises:
        ArgumentError: `size` is not one or two whole numbers of at least 1, or `scale` is not 0 < low <= high.
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
