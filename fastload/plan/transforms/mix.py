"""Transforms that combine several images into one, or cover parts of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.crop import part_of_area
from fastload.plan.transforms.transform import (
    Fill,
    Transform,
    check_fill,
    check_probability,
    check_range,
    check_share,
    each_batch,
    edit_slots,
    fill_color,
    fitting,
    scale_exactly,
    underlay,
    width_height,
)

QUADRANTS = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.bool_)  # right, lower: of a mosaic's images in their order


@dataclass
class Mosaic(Transform):
    """Arrange each image and three random ones around a random point (Bochkovskiy et al., "YOLOv4", 2020).

    This is YOLOX's mosaic, which others share. The result is twice as wide and high as `size`. The point is uniform in
    the middle half of each axis, in whole pixels. The three images are uniform over all images of the loader, with
    replacement. All four are scaled to the largest size within `size` that keeps their aspect ratio, and placed with
    one corner on the point: the original image at the upper left, the others at the upper right, lower left and lower
    right. What lies beyond the edges is cut off. Then a transform usually cuts the mosaic to `size`: `MosaicAffine`,
    `RandomPerspective` or `RandomAffine` and `CenterCrop`.

    Put it first in `transforms`: transforms before it do not apply to the three images. `Targets.to_original` does not
    support mosaics, since they have several sources.

    Args:
        size: (height, width) of each image in pixels, or the edge of a square.
        fill: the color of parts without an image. Default: 114. None: that of the collator.
        min_visible: drop a clipped box with less than this share of its area left, 0 to 1; see
            `fastload.plan.transforms`. Default: 0.
        p: the probability. Other images stay as they are. Default: 1.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    size: int | tuple[int, int]
    fill: Fill = 114
    min_visible: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)
        check_probability(self.p, self)
        check_share("min_visible", self.min_visible, self)
        check_fill(self.fill, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        point = np.trunc(self._extent * rng.uniform(0.5, 1.5, (count, 2))).astype(np.int32)
        others = rng.integers(len(images), size=(count, 3))
        chosen = np.flatnonzero(rng.random(count) < self.p)
        edit_slots(plan, chosen, lambda part: self.arrange(part, images, others[chosen], point[chosen]))

    def arrange(self, plan: BatchPlan, images: ImageIndex, others: NDArray[np.int64], point: NDArray[np.int32]) -> None:
        """Arrange each image and the images at positions `others` (B, 3) around `point` (B, 2)."""
        count = len(plan.size)
        plan.join(images.plan(others.T.reshape(-1)))
        scale_exactly(plan, fitting(plan, self._extent))
        into, quadrant = np.tile(np.arange(count, dtype=np.int32), 4), QUADRANTS.repeat(count, 0)
        point = point[into]
        shown = np.minimum(plan.size, np.where(quadrant, 2 * self._extent - point, point))
        plan.crop_to(np.concatenate([np.where(quadrant, 0, plan.size - shown), shown], 1))
        plan.compose(into, np.where(quadrant, point, point - shown), np.tile(2 * self._extent, (count, 1)))
        underlay(plan, np.arange(count), self.fill, self)
        plan.drop_boxes(self.min_visible)


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
        place = QUADRANTS.repeat(count, 0) * cell[into]
        plan.compose(into, place.astype(np.int32), 2 * cell)
        underlay(plan, np.arange(count), self.fill, self)


@dataclass
class MixUp(Transform):
    """Blend each image with a random one that is scaled, mirrored and cropped at random: the MixUp of YOLOX.

    The other image is uniform over all images of the loader that have boxes. It is scaled to the largest size within
    that of the image, padded to it with 114, scaled by a factor that is uniform in `scale`, mirrored with probability
    0.5, padded with black if it is then smaller, and cropped at a random place if it is larger. Both are blended with
    opacity 0.5, and the boxes of both are kept. The two images count the same, so boxes have no weights.

    Args:
        scale: the smallest and the largest factor. Default: 0.5 to 1.5.
        p: the probability. As in YOLOX, an image stays as it is if none of the images that it shows has boxes.
            Default: 1.
        fill: the first padding. Default: 114.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    scale: tuple[float, float] = (0.5, 1.5)
    p: float = 1.0
    fill: int | tuple[int, int, int] = 114

    def __post_init__(self) -> None:
        check_range("scale", self.scale, 1e-3, self)
        check_probability(self.p, self)
        fill_color(self.fill, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        chosen = np.flatnonzero((rng.random(len(plan.size)) < self.p) & images.has_boxes(plan))
        others = rng.choice(images.with_boxes, len(chosen)) if len(images.with_boxes) else np.empty(0, np.int64)
        jitter, flip = rng.uniform(*self.scale, len(chosen)), rng.random(len(chosen)) < 0.5
        place = rng.random((len(chosen), 2))
        if len(others):
            self.mix(plan, images, chosen, others, jitter, flip, place)

    def mix(
        self,
        plan: BatchPlan,
        images: ImageIndex,
        slots: NDArray[np.int64],
        others: NDArray[np.int64],
        jitter: NDArray[np.float64],
        flip: NDArray[np.bool_],
        place: NDArray[np.float64],
    ) -> None:
        """Blend the `slots` (S) with the images at positions `others` (S).

        Args:
            plan: the plan.
            images: all images.
            slots: (S) the slots.
            others: (S) positions of images.
            jitter: (S) factors by which these are scaled.
            flip: (S) whether they are mirrored.
            place: (S, 2) where they are cropped, as a share of the whole-pixel positions in x and y.
        """
        target, other = plan.size[slots], images.plan(others)
        scale_exactly(other, fitting(other, target))
        other.crop_to(np.concatenate([np.zeros_like(target), target], 1))
        underlay(other, np.arange(len(slots)), self.fill, self)
        scale_exactly(other, jitter)
        other.flip_horizontally(flip)
        corner = np.floor(place * np.maximum(other.size - target, 0)).astype(np.int32)
        other.crop_to(np.concatenate([corner, target], 1))
        draw_over(plan, slots, other, alpha=np.full(len(slots), 0.5))


@dataclass
class BatchMixUp(Transform):
    """Blend each image with the one before it in its batch (Zhang et al., "mixup", 2018), as DEIM does.

    Images must have the same size, so scale them before. The share of the image itself is one number for a batch, and
    that of the other image is the rest. Boxes of both are kept. `Targets` has the shares as the column `mix_weight`, by
    which to multiply the loss of a box, and soft labels consist of them. With `alpha` and `p=1`, this is torchvision's
    `MixUp`.

    Args:
        share: the smallest and the largest share, which is uniform. Default: 0.45 to 0.55.
        p: the probability, for whole batches. Default: 0.5.
        alpha: draw the share from Beta(alpha, alpha) instead. Default: None.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    share: tuple[float, float] = (0.45, 0.55)
    p: float = 0.5
    alpha: float | None = None

    def __post_init__(self) -> None:
        check_range("share", self.share, 0, self)
        check_probability(self.p, self)
        if self.share[1] > 1:
            raise ArgumentError(f"BatchMixUp needs shares of at most 1, not {self.share}")
        if self.alpha is not None:
            check_alpha(self.alpha, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        share = each_batch(plan, lambda batches: self._draw(rng, batches))
        mixed = each_batch(plan, rng.random) < self.p
        self.mix(plan, np.where(mixed, share, 1))

    def _draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        return rng.uniform(*self.share, count) if self.alpha is None else rng.beta(self.alpha, self.alpha, count)

    def mix(self, plan: BatchPlan, share: NDArray[np.float64]) -> None:
        """Blend each image, of which `share` (B) stays, with the one before it in its batch."""
        mixed, before = with_the_one_before(plan, share < 1, self)
        if not len(mixed):
            return
        other = plan.take(before)
        weight = np.ones(len(plan.size))
        weight[mixed] = share[mixed]
        plan.weigh(weight)
        other.weigh(1 - share[mixed])
        draw_over(plan, mixed, other, alpha=1 - share[mixed])


@dataclass
class _RandomRectangle(Transform):
    """The settings of transforms that cover a rectangle of each image by a part of another one."""

    spans_batches = True

    alpha: float = 1.0
    min_visible: float = 0.1
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.p, self)
        check_share("min_visible", self.min_visible, self)
        check_alpha(self.alpha, self)


@dataclass
class CutMix(_RandomRectangle):
    """Cover a random rectangle of each image by the same part of a random other one (Yun et al., "CutMix", 2019).

    The other image is uniform over all images of the loader, and is scaled to the size of the image, without keeping
    its aspect ratio. The rectangle has a share 1 - l of the area and the aspect ratio of the image, where l is drawn
    from Beta(alpha, alpha); its center is uniform, and what lies beyond the image is cut off. Boxes of both images are
    kept as far as they are visible in their own image: one that is hidden by the rectangle is not dropped.

    Args:
        alpha: the parameter of the distribution. Default: 1, uniform.
        min_visible: drop a clipped box with less than this share of its area left, 0 to 1. Default: 0.1.
        p: the probability. Default: 0.5.

    Raises:
        ArgumentError: an argument is out of range.
    """

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        low, high = rectangle(plan.size, rng.beta(self.alpha, self.alpha, count), rng.random((count, 2)))
        chosen = np.flatnonzero((rng.random(count) < self.p) & (high > low).all(1))
        other = images.plan(rng.integers(len(images), size=count)[chosen])
        if not len(chosen):
            return
        corner, extent = low[chosen], (high - low)[chosen]
        other.resize(plan.size[chosen])
        other.crop_to(np.concatenate([corner, extent], 1))
        other.min_visible = self.min_visible
        draw_over(plan, chosen, other, corner)


@dataclass
class BatchCutMix(_RandomRectangle):
    """Cover a random rectangle of each image by the same part of the one before it in its batch (Yun et al., 2019).

    Images must have the same size, so scale them before. All images of a batch have the same rectangle, which is drawn
    as in `CutMix`. Soft labels follow the area of the rectangle. With `p=1`, this is torchvision's `CutMix`.

    Args:
        alpha: the parameter of the distribution. Default: 1, uniform.
        min_visible: drop a clipped box with less than this share of its area left, 0 to 1. Default: 0.1.
        p: the probability, for whole batches. Default: 0.5.

    Raises:
        ArgumentError: an argument is out of range.
    """

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        share = each_batch(plan, lambda batches: rng.beta(self.alpha, self.alpha, batches))
        center = each_batch(plan, lambda batches: rng.random((batches, 2)))
        mixed = each_batch(plan, rng.random) < self.p
        self.cut(plan, np.where(mixed, share, 1), center)

    def cut(self, plan: BatchPlan, share: NDArray[np.float64], center: NDArray[np.float64]) -> None:
        """Cover the part 1 - `share` (B) of each image, around `center` (B, 2), a share of the width and height."""
        low, high = rectangle(plan.size, share, center)
        mixed, before = with_the_one_before(plan, np.all(high > low, axis=1), self)
        if not len(mixed):
            return
        other = plan.take(before)
        corner, extent = low[mixed], (high - low)[mixed]
        other.crop_to(np.concatenate([corner, extent], 1))
        other.drop_boxes(self.min_visible)
        draw_over(plan, mixed, other, corner)


@dataclass
class SimpleCopyPaste(Transform):
    """Paste random objects of the image before it in its batch onto each image (Ghiasi et al., 2021).

    As torchvision's `SimpleCopyPaste` without blending: of the n objects that the other image shows, n are drawn with
    replacement, and each that is drawn is pasted once. Images must have the same size, so scale them before, such as by
    `ScaleJitterCrop`. `FastLoader(masks=True)` is needed, and parts of masks that pasted objects cover are cut away;
    boxes follow with `boxes_from_masks=True`. Put it before transforms that adjust colors or blend images, and use
    `skip_crowd=True`, as regions of crowds are pasted too.

    Args:
        p: the probability, for each image. Default: 1.

    Raises:
        ArgumentError: `p` is not within 0 to 1.
    """

    spans_batches = True

    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        pasted, before = with_the_one_before(plan, rng.random(count) < self.p, self)
        other = plan.take(before)
        boxes = images.boxes(other)
        number = np.bincount(boxes.slot, minlength=len(pasted))
        first = (number.cumsum() - number)[boxes.slot]
        drawn = np.unique(first + rng.integers(number[boxes.slot]))
        if not len(drawn):
            return
        other.cut_out(boxes.row[drawn], boxes.number[drawn])
        plan.join(other)
        corner = np.zeros((count + len(pasted), 2), np.int32)
        plan.compose(np.concatenate([np.arange(count), pasted]), corner, plan.size[:count])


@dataclass
class RandomErasing(Transform):
    """Cover a random rectangle of each image with a color, as torchvision's `RandomErasing` (Zhong et al., 2020).

    The area is uniform in `scale` times that of the image, and the logarithm of the ratio of height to width is uniform
    in `ratio`. Of ten tries, the first that is lower and narrower than the image counts; if none is, the image stays as
    it is. Boxes are not dropped.

    Args:
        p: the probability. Default: 0.5.
        scale: the smallest and the largest share of the area. Default: 0.02 to 0.33.
        ratio: the smallest and the largest ratio of height to width. Default: 0.3 to 3.3.
        value: the color, gray or (red, green, blue), or "random" for a color drawn for each rectangle; torchvision's
            "random" draws each pixel. Default: 0.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: int | tuple[int, int, int] | Literal["random"] = 0

    def __post_init__(self) -> None:
        check_probability(self.p, self)
        check_range("scale", self.scale, 0, self)
        check_share("scale", self.scale[1], self)
        check_range("ratio", self.ratio, 1e-6, self)
        self._color = fill_color(0 if self.value == "random" else self.value, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        wide_to_high = 1 / self.ratio[1], 1 / self.ratio[0]
        part, fitted = part_of_area(plan.size, self.scale, wide_to_high, rng, least=0, most=plan.size - 1)
        color = (
            rng.integers(256, size=(len(part), 3)) if self.value == "random" else np.tile(self._color, (len(part), 1))
        )
        fitted &= (part[:, 2:] > 0).all(1)
        chosen = np.flatnonzero((rng.random(len(part)) < self.p) & fitted)
        if len(chosen):
            plan.cover(chosen, part[chosen], color[chosen])


def check_alpha(alpha: float, user: Transform) -> None:
    """Raise ArgumentError unless `alpha` is a parameter of a Beta distribution."""
    if not 0 < alpha < np.inf:
        raise ArgumentError(f"{type(user).__name__} needs an alpha above 0, not {alpha}")


def rectangle(
    size: NDArray[np.int32], share: NDArray[np.float64], center: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return CutMix's rectangles (x0, y0) and (x1, y1), each (B, 2), empty if they are narrower than two pixels.

    Args:
        size: (B, 2) width, height of the images.
        share: (B) of the area that stays uncovered, before the rectangle is clipped to the image.
        center: (B, 2) x, y as shares of the width and height, below 1.
    """
    half = np.trunc(size * np.sqrt(1 - share)[:, None] / 2)
    pixel = np.floor(center * size)
    low, high = np.maximum(pixel - half, 0), np.minimum(pixel + half, size)
    return low.astype(np.int32), high.astype(np.int32)


def with_the_one_before(
    plan: BatchPlan, wanted: NDArray[np.bool_], user: Transform
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the slots (S) that are `wanted` (B) and not alone in their batch, and the one before each in its batch.

    The last one of a batch comes before the first one.

    Raises:
        ArgumentError: two of a pair have different sizes. The message names the class of `user`.
    """
    count = len(plan.size)
    batch = np.zeros(count, np.int32) if plan.batch is None else plan.batch
    first, last = batch.searchsorted(batch), batch.searchsorted(batch, "right") - 1
    before = np.arange(count) - 1
    before[first == before + 1] = last[first == before + 1]
    slots = np.flatnonzero(wanted & (first < last))
    before = before[slots]
    if (plan.size[slots] != plan.size[before]).any():
        raise ArgumentError(f"{type(user).__name__} needs images of one size: put Resize or LetterBox before it")
    return slots, before


def draw_over(
    plan: BatchPlan,
    slots: NDArray[np.int64],
    other: BatchPlan,
    corner: NDArray[np.int32] | None = None,
    alpha: NDArray[np.float64] | None = None,
) -> None:
    """Draw the S slots of another plan over `slots` (S) of a plan. Soft labels follow the visible areas.

    Args:
        plan: the plan.
        slots: one for each slot of `other`.
        other: the other plan.
        corner: (S, 2) x, y of the upper left corners. Default: 0.
        alpha: (S) opacities. Default: 1.
    """
    count = len(plan.size)
    corners, opacity = np.zeros((count + len(slots), 2), np.int32), np.ones(count + len(slots))
    if corner is not None:
        corners[count:] = corner
    if alpha is not None:
        opacity[count:] = alpha
    covered = opacity[count:] * other.size.prod(1) / plan.size[slots].prod(1)
    kept = np.ones(count)
    kept[slots] -= covered
    plan.share_label(kept)
    other.share_label(covered)
    plan.join(other)
    plan.compose(np.concatenate([np.arange(count), slots]), corners, plan.size[:count], opacity)
