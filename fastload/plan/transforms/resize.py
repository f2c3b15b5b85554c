"""Transforms that scale whole images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import FILTERS, BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import (
    Fill,
    Transform,
    check_fill,
    each_batch,
    fitting,
    scale_exactly,
    scaled,
    underlay,
    width_height,
)


@dataclass
class ShortestEdge(Transform):
    """Scale each image so that its shorter edge has a given size, keeping the aspect ratio.

    This is detectron2's `ResizeShortestEdge` with sample_style="choice". The scale is size / min(w, h), or
    max_size / max(w, h) if that is smaller. The result is floor(w * scale + 0.5) by floor(h * scale + 0.5) pixels, and
    at least 1 by 1. With `round_down` it is torchvision's `Resize(size, max_size=max_size)` instead, whose longer edge
    is int(size * long / short), or the shorter one int(max_size * size / that) if `max_size` limits the longer one. No
    box is clipped.

    Args:
        sizes: pixels of the shorter edge. If there are several, each is drawn with the same probability.
        max_size: limit of the longer edge, in pixels. Default: no limit.
        per_batch: draw one size for all images of a batch, which needs less padding. Default: one for each image.
        round_down: round as torchvision's `Resize`. Default: half up.

    Raises:
        ArgumentError: a size is not a whole number of at least 1.
    """

    spans_batches = True

    sizes: int | Sequence[int]
    max_size: int | None = None
    per_batch: bool = False
    round_down: bool = False

    def __post_init__(self) -> None:
        self._choices = np.atleast_1d(np.asarray(self.sizes))
        if not self._choices.size or self._choices.dtype.kind not in "iu" or self._choices.min() < 1:
            raise ArgumentError(f"ShortestEdge needs one or more sizes in whole pixels, not {self.sizes!r}")
        if self.max_size is not None and self.max_size < 1:
            raise ArgumentError(f"ShortestEdge needs a max_size of at least 1 pixel, not {self.max_size}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        width, height = plan.size[:, 0], plan.size[:, 1]
        edge = self._draw(plan, rng)
        if self.round_down:
            plan.resize(self._rounded_down(plan.size, edge))
            return
        scale = edge / np.minimum(width, height)
        if self.max_size is not None:
            scale = np.minimum(scale, self.max_size / np.maximum(width, height))
        plan.resize(scaled(plan.size, scale))

    def _rounded_down(self, size: NDArray[np.int32], edge: NDArray[np.int64]) -> NDArray[np.int32]:
        short = np.broadcast_to(edge, len(size)).astype(np.int64)
        long = short * size.max(1) // size.min(1)
        if self.max_size is not None:
            limited = long > self.max_size
            short = np.where(limited, self.max_size * short // long, short)
            long = np.minimum(long, self.max_size)
        wide = size[:, 0] > size[:, 1]
        new = np.stack([np.where(wide, long, short), np.where(wide, short, long)], 1).astype(np.int32)
        return new.clip(min=1)

    def _draw(self, plan: BatchPlan, rng: np.random.Generator) -> NDArray[np.int64]:
        """Sizes (B), or (1) for all images."""
        if len(self._choices) == 1:
            return self._choices
        if self.per_batch:
            return each_batch(plan, lambda batches: rng.choice(self._choices, batches))
        return rng.choice(self._choices, len(plan.size))


@dataclass
class LongestEdge(Transform):
    """Scale each image so that its longer edge has a given size, keeping the aspect ratio. No box is clipped.

    Args:
        size: pixels of the longer edge.

    Raises:
        ArgumentError: `size` is below 1.
    """

    spans_batches = True

    size: int

    def __post_init__(self) -> None:
        if np.asarray(self.size).dtype.kind not in "iu" or self.size < 1:
            raise ArgumentError(f"LongestEdge needs a size of at least 1 whole pixel, not {self.size}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        plan.resize(scaled(plan.size, self.size / plan.size.max(1)))


@dataclass
class Resize(Transform):
    """Scale each image to a fixed size without keeping the aspect ratio, as torchvision's `Resize((height, width))`.

    No box is clipped.

    Args:
        size: (height, width) in pixels, or the edge of a square.
        filter: "bilinear", "bilinear-no-antialias", "nearest" or "bicubic". Default: "bilinear", antialiased.

    Raises:
        ArgumentError: `size` is not one or two whole numbers of at least 1, or there is no such filter.
    """

    spans_batches = True

    size: int | tuple[int, int]
    filter: str = "bilinear"

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)
        check_filter(self.filter, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        plan.use_filter(self.filter)
        plan.resize(np.broadcast_to(self._extent, plan.size.shape))


@dataclass
class RandomResize(Transform):
    """Scale images to a size drawn from several, without keeping the aspect ratio. No box is clipped.

    RT-DETR and D-FINE draw one size for each batch. A size that is repeated is drawn more often.

    Args:
        sizes: sizes as in `Resize`, each drawn with the same probability.
        per_batch: draw one size for all images of a batch. Default: True.

    Raises:
        ArgumentError: there are no sizes, or one is not one or two whole numbers of at least 1.
    """

    spans_batches = True

    sizes: Sequence[int | tuple[int, int]]
    per_batch: bool = True

    def __post_init__(self) -> None:
        self._extents = np.array([width_height(size, self) for size in self.sizes], np.int32)
        if not len(self._extents):
            raise ArgumentError("RandomResize needs one or more sizes")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        def draw(count: int) -> NDArray[np.int32]:
            return self._extents[rng.integers(len(self._extents), size=count)]

        plan.resize(each_batch(plan, draw) if self.per_batch else draw(len(plan.size)))


@dataclass
class LetterBox(Transform):
    """Scale each image to the largest size within `size`, keeping the aspect ratio, and pad it to `size`.

    As in YOLOX, sizes are rounded down and boxes are scaled by exactly min(width / w, height / h).

    Args:
        size: (height, width) in pixels, or the edge of a square.
        fill: the padding, gray or (red, green, blue). Default: 114, as in YOLO. None: that of the collator.
        center: pad on all sides. Default: on the right and below.

    Raises:
        ArgumentError: `size` or `fill` is out of range.
    """

    spans_batches = True

    size: int | tuple[int, int]
    fill: Fill = 114
    center: bool = False

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)
        check_fill(self.fill, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        scale_exactly(plan, fitting(plan, self._extent))
        corner = -((self._extent - plan.size) // 2) if self.center else np.zeros_like(plan.size)
        plan.crop_to(np.concatenate([corner, np.broadcast_to(self._extent, plan.size.shape)], 1))
        underlay(plan, np.arange(len(plan.size)), self.fill, self)


def check_filter(name: str, user: Transform) -> None:
    """Raise ArgumentError unless `name` is one of FILTERS."""
    if name not in FILTERS:
        raise ArgumentError(f"{type(user).__name__} needs a filter among {', '.join(FILTERS)}, not {name!r}")
