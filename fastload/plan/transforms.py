"""Transforms: geometry and colour as numbers in a batch's plan. No pixel is touched here.

**What happens to boxes**, whatever the transforms: a box follows its image exactly and is clipped to the part of the
image that is shown. A box that was cut is dropped when less than `min_visible` of its area is left or when what is left
is thinner than one canvas pixel. A box that was not cut is never dropped, however small. Crowd regions follow the same
rules and stay flagged as crowds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.records import Records

GREY = 128.0  # what ColorJitter's contrast leaves unchanged
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in JPEG


class Transform:
    """Base class of everything that edits a plan. To write one, override `__call__`.

    `spans_batches = True` says that it treats each image by itself. It may then be given the images of several batches
    at once, which takes a fraction of the time; but all transforms of a loader must say so.
    """

    spans_batches = False

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, records: Records) -> None:
        """Change `plan` (B images) through its edits: `resize`, `window`, `mirror`, `recolor`, `extend`, `merge`.

        `plan.size` (B, 2) has the images' width and height as they are so far. Draw all chance from `rng`, which is
        seeded by (seed, epoch, step): that is what makes runs repeatable. `records` are all images of the loader, for
        transforms that mix in others.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override __call__(plan, rng, records)")


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

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, records: Records) -> None:
        width, height = plan.size[:, 0], plan.size[:, 1]
        scale = self._short(len(plan.size), rng) / np.minimum(width, height)
        if self.max_size is not None:
            scale = np.minimum(scale, self.max_size / np.maximum(width, height))
        plan.resize(_scaled(plan.size, scale))

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
        self._extent = _width_height(self.size, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, records: Records) -> None:
        plan.resize(np.broadcast_to(self._extent, plan.size.shape))


@dataclass
class RandomFlip(Transform):
    """Mirror an image left to right with probability `p`."""

    spans_batches = True

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ArgumentError(f"RandomFlip needs a probability from 0 to 1, not {self.p}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, records: Records) -> None:
        plan.mirror(rng.random(len(plan.size)) < self.p)


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
        self._extent = _width_height(self.size, self)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ArgumentError(f"ScaleJitterCrop needs a scale (low, high) with 0 < low <= high, not {self.scale}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, records: Records) -> None:
        jitter = rng.uniform(*self.scale, len(plan.size))
        plan.resize(_scaled(plan.size, jitter * (self._extent / plan.size).min(1)))
        window = np.minimum(plan.size, self._extent)
        corner = np.floor(rng.random(window.shape) * (plan.size - window + 1))
        plan.window(np.concatenate([corner, window], 1).astype(np.int32))
        plan.min_visible = max(plan.min_visible, self.min_visible)


@dataclass
class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue at random; costs nothing, being one matrix a pixel anyway.

    Brightness, contrast and saturation are multiplied by factors drawn from [max(0, 1 - x), 1 + x]; hue is turned by
    up to `hue` of a full turn either way (at most 0.5). They are applied in this order. Differences from torchvision's:
    contrast is about a fixed mid-grey (128), since an image's mean is not known before it is decoded; hue is a
    rotation about the grey axis of RGB instead of a shift in HSV; values are clipped once at the end.
    """

    spans_batches = True

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation, self.hue) < 0 or self.hue > 0.5:
            raise ArgumentError(f"{self} is out of range: all must be 0 or more, hue at most 0.5")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, records: Records) -> None:
        count = len(plan.size)
        ranges = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (rng.uniform(max(0.0, 1 - x), 1 + x, (count, 1, 1)) for x in ranges)
        turn = rng.uniform(-self.hue, self.hue, (count, 1, 1)) * 2 * np.pi
        color = np.empty((count, 3, 4), np.float32)
        color[:, :, :3] = brightness * contrast * (_hue(turn) @ _saturation(saturation))
        color[:, :, 3] = GREY * (1 - contrast[:, 0])  # hue and saturation leave greys as they are
        plan.recolor(color)


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
        self._extent = _width_height(self.size, self)
        if self._extent.min() < 4:
            raise ArgumentError(f"Mosaic needs a size of at least 4 pixels, not {self.size}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, records: Records) -> None:
        count = len(plan.size)
        others = rng.integers(len(records), size=3 * count)
        plan.extend(records.index[others], records.size[others])
        plan.resize(_scaled(plan.size, (self._extent / plan.size).min(1)))
        into = np.tile(np.arange(count, dtype=np.int32), 4)
        point = np.rint(self._extent * rng.uniform(0.25, 0.75, (count, 2))).astype(np.int32)[into]
        quadrant = np.repeat([[0, 0], [1, 0], [0, 1], [1, 1]], count, 0) == 1  # (4 B, 2) right, lower
        shown = np.minimum(plan.size, np.where(quadrant, self._extent - point, point))
        plan.window(np.concatenate([np.where(quadrant, 0, plan.size - shown), shown], 1))
        plan.merge(into, np.where(quadrant, point, point - shown), np.tile(self._extent, (count, 1)))
        plan.min_visible = max(plan.min_visible, self.min_visible)


def _width_height(size: int | tuple[int, int], user: Transform) -> NDArray[np.int32]:
    """`size`, an edge or (height, width) in pixels, as (width, height)."""
    pair = np.asarray((size, size) if isinstance(size, int) else size)
    if pair.shape != (2,) or pair.dtype.kind not in "iu" or pair.min() < 1:
        raise ArgumentError(f"{type(user).__name__} needs a size in pixels, one or (height, width), not {size!r}")
    return pair[::-1].astype(np.int32)


def _scaled(size: NDArray[np.int32], scale: NDArray[np.float64]) -> NDArray[np.int32]:
    """`size` (B, 2) times `scale` (B), rounded half up, one pixel at least."""
    return np.maximum(np.floor(size * scale[:, None] + 0.5), 1).astype(np.int32)


def _saturation(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 3, 3): blend with the pixel's own grey."""
    matrix: NDArray[np.float64] = factor * np.eye(3) + (1 - factor) * LUMA
    return matrix


def _hue(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 3, 3): rotation about the axis (1, 1, 1) by `angle` radians (Rodrigues' formula)."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    matrix: NDArray[np.float64] = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * cross
    return matrix
