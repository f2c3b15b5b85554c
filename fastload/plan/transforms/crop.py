"""Transforms that show a part of each image, or place it on a larger canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex, PlannedBoxes
from fastload.plan.transforms.resize import check_filter
from fastload.plan.transforms.transform import (
    Fill,
    Transform,
    check_fill,
    check_probability,
    check_range,
    check_share,
    fitting,
    scaled,
    underlay,
    width_height,
)

TRIES = 10  # of torchvision's RandomResizedCrop and RandomErasing
TRIALS_AT_ONCE = 10  # of RandomIoUCrop; most need few


@dataclass
class ScaleJitterCrop(Transform):
    """Scale each image at random, and crop it where it exceeds a fixed size.

    This is large-scale jitter (Ghiasi et al., "Simple Copy-Paste", 2021), torchvision's `ScaleJitter` with a random
    crop. The image is scaled to the largest size within s * `size` that keeps its aspect ratio, where s is uniform in
    `scale`; its sides are rounded half up, where torchvision rounds them down. If it is then larger than `size`, a
    window of that size is kept, uniform over all whole-pixel positions. Images that are smaller stay smaller: for
    batches of constant shape, use a collator with `canvas_sizes=size`.

    Args:
        size: (height, width) in pixels, or the edge of a square.
        scale: the smallest and the largest s. Default: 0.1 to 2.
        min_visible: drop a clipped box with less than this share of its area left, 0 to 1; see
            `fastload.plan.transforms`. Default: 0.
        diagonal: draw one number for the window's position in x and y, as torchvision's `FixedSizeCrop` does. Default:
            one for each.

    Raises:
        ArgumentError: `size` is not one or two whole numbers of at least 1, or `scale` is not 0 < low <= high.
    """

    spans_batches = True

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.1, 2.0)
    min_visible: float = 0.0
    diagonal: bool = False

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)
        check_share("min_visible", self.min_visible, self)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ArgumentError(f"ScaleJitterCrop needs a scale (low, high) with 0 < low <= high, not {self.scale}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        jitter = rng.uniform(*self.scale, len(plan.size))
        plan.resize(scaled(plan.size, jitter * fitting(plan, self._extent)))
        window = np.minimum(plan.size, self._extent)
        share = rng.random((len(window), 1 if self.diagonal else 2))
        corner = np.floor(share * (plan.size - window + 1))
        plan.crop_to(np.concatenate([corner, window], 1).astype(np.int32))
        plan.drop_boxes(self.min_visible)


@dataclass
class CenterCrop(Transform):
    """Show the middle of each image, padded where the image is smaller, as torchvision's `CenterCrop`.

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
        room = plan.size - self._extent
        corner = np.where(room < 0, -(-room // 2), np.rint(room / 2)).astype(np.int32)
        plan.crop_to(np.concatenate([corner, np.broadcast_to(self._extent, room.shape)], 1))


@dataclass
class RandomResizedCrop(Transform):
    """Show a random part of each image, scaled to a fixed size, as torchvision's `RandomResizedCrop`.

    The area is uniform in `scale` times that of the image, and the logarithm of the aspect ratio is uniform in `ratio`.
    Of ten tries, the first that fits into the image counts; if none does, a central part with the nearest possible
    ratio.

    Args:
        size: (height, width) in pixels, or the edge of a square.
        scale: the smallest and the largest share of the area. Default: 0.08 to 1.
        ratio: the smallest and the largest ratio of width to height. Default: 3/4 to 4/3.
        filter: as in `Resize`. Default: "bilinear", antialiased.
        min_visible: drop a clipped box with less than this share of its area left, 0 to 1. Default: 0.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    filter: str = "bilinear"
    min_visible: float = 0.0

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)
        check_range("scale", self.scale, 0, self)
        check_range("ratio", self.ratio, 1e-6, self)
        check_filter(self.filter, self)
        check_share("min_visible", self.min_visible, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        window, _ = part_of_area(plan.size, self.scale, self.ratio, rng)
        plan.crop_to(window)
        plan.use_filter(self.filter)
        plan.resize(np.broadcast_to(self._extent, plan.size.shape))
        plan.drop_boxes(self.min_visible)


def part_of_area(
    size: NDArray[np.int32],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
    least: int = 1,
    most: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Draw parts of images of given sizes as torchvision's `RandomResizedCrop.get_params` does.

    Args:
        size: (B, 2) width, height.
        scale: share of the area.
        ratio: width / height.
        rng: the source of all random numbers.
        least: pixels; a try with a shorter side does not fit.
        most: (B, 2) width, height; a try that is wider or higher does not fit. Default: `size`.

    Returns:
        (B, 4) x, y, w, h, and (B) whether a try fitted. If none did, the part is the central one.
    """
    count = len(size)
    area = size.prod(1)[:, None] * rng.uniform(*scale, (count, TRIES))
    aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), (count, TRIES)))
    tries = np.rint(np.sqrt(np.stack([area * aspect, area / aspect], -1)))  # (B, TRIES, 2) width, height
    fits = ((tries >= least) & (tries <= (size if most is None else most)[:, None])).all(-1)
    window = tries[np.arange(count), fits.argmax(1)]
    room = size - window
    corner = np.floor(rng.random((count, 2)) * (room + 1))
    width, height = size[:, 0], size[:, 1]
    nearest = np.clip(width / height, *ratio)
    narrower = np.minimum(np.rint(height * nearest), width)
    lower = np.minimum(np.rint(width / nearest), height)
    central = np.stack([narrower, lower], 1)
    fitted: NDArray[np.bool_] = fits.any(1)
    one = fitted[:, None]
    window, corner = np.where(one, window, np.maximum(central, 1)), np.where(one, corner, (size - central) // 2)
    return np.concatenate([corner, window], 1).astype(np.int32), fitted


@dataclass
class RandomSizeCrop(Transform):
    """Crop each image to a random width and height at a random place, as DETR's `RandomSizeCrop`.

    Width and height are uniform from `min_size` to the smaller of `max_size` and the image's side, and the place over
    all whole-pixel positions. A side that is shorter than `min_size` is not cropped.

    Args:
        min_size: pixels.
        max_size: pixels.
        min_visible: drop a clipped box with less than this share of its area left, 0 to 1. Default: 0.

    Raises:
        ArgumentError: the sizes are not 1 <= min_size <= max_size.
    """

    spans_batches = True

    min_size: int
    max_size: int
    min_visible: float = 0.0

    def __post_init__(self) -> None:
        check_share("min_visible", self.min_visible, self)
        if not 1 <= self.min_size <= self.max_size:
            raise ArgumentError(f"RandomSizeCrop needs 1 <= min_size <= max_size, not {self.min_size}, {self.max_size}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        most = np.minimum(plan.size, self.max_size)
        least = np.minimum(most, self.min_size)
        window = rng.integers(least, most + 1)
        corner = rng.integers(0, plan.size - window + 1)
        plan.crop_to(np.concatenate([corner, window], 1).astype(np.int32))
        plan.drop_boxes(self.min_visible)


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


@dataclass
class RandomZoomOut(Transform):
    """Place each image on a larger canvas, as torchvision's `RandomZoomOut` (Liu et al., "SSD", 2016).

    Both sides of the canvas are the image's times one number that is uniform in `side_range`, and the place is uniform.
    No box is clipped.

    Args:
        side_range: the smallest and the largest factor. Default: 1 to 4.
        fill: the color around the image. Default: that of the collator.
        p: the probability. Default: 0.5.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    side_range: tuple[float, float] = (1.0, 4.0)
    fill: Fill = None
    p: float = 0.5

    def __post_init__(self) -> None:
        check_range("side_range", self.side_range, 1, self)
        check_probability(self.p, self)
        check_fill(self.fill, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        chosen = rng.random(len(plan.size)) < self.p
        factor = np.where(chosen, rng.uniform(*self.side_range, len(chosen)), 1)
        self.zoom(plan, factor, rng.random((len(chosen), 2)))

    def zoom(self, plan: BatchPlan, factor: NDArray[np.float64], place: NDArray[np.float64]) -> None:
        """Enlarge canvases by `factor` (B) and place images at `place` (B, 2), a share of the room in x and y."""
        canvas = (plan.size * factor[:, None]).astype(np.int32)
        corner = ((canvas - plan.size) * place).astype(np.int32)
        plan.crop_to(np.concatenate([-corner, canvas], 1))
        underlay(plan, np.flatnonzero(factor > 1), self.fill, self)


@dataclass
class RandomIoUCrop(Transform):
    """Crop each image so that some box keeps at least a given overlap, as torchvision's `RandomIoUCrop`.

    This is the crop of SSD (Liu et al., 2016). A minimum overlap is drawn from `sampler_options`; from 1 on, the image
    stays as it is. Then up to `trials` windows are drawn. Their sides are `min_scale` to `max_scale` times those of the
    image, and their aspect ratio must be within `min_aspect_ratio` to `max_aspect_ratio`. The first window counts that
    holds the center of a box and of whose centered boxes one has the minimum IoU with it. If there is none, another
    minimum is drawn. Boxes with centers outside the window are dropped. Images without boxes stay as they are.

    Args:
        min_scale, max_scale: shares of the sides. Default: 0.3 and 1.
        min_aspect_ratio, max_aspect_ratio: width / height of the window. Default: 0.5 and 2.
        sampler_options: minimum overlaps. Default: 0, 0.1, 0.3, 0.5, 0.7, 0.9 and 1.
        trials: windows per minimum overlap. Default: 40.
        p: the probability; others stay as they are. Default: 1.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    min_scale: float = 0.3
    max_scale: float = 1.0
    min_aspect_ratio: float = 0.5
    max_aspect_ratio: float = 2.0
    sampler_options: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    trials: int = 40
    p: float = 1.0

    def __post_init__(self) -> None:
        check_range("min_scale, max_scale", (self.min_scale, self.max_scale), 1e-6, self)
        check_range("aspect ratios", (self.min_aspect_ratio, self.max_aspect_ratio), 1e-6, self)
        check_probability(self.p, self)
        if self.max_scale > 1 or self.trials < 1 or not len(self.sampler_options) or max(self.sampler_options) < 1:
            raise ArgumentError(
                f"{self} is out of range: use a max_scale of at most 1, at least 1 trial, and options of which one is 1"
            )

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        boxes = images.boxes(plan)
        count = len(plan.size)
        window = np.concatenate([np.zeros_like(plan.size), plan.size], 1)
        slots = np.flatnonzero((rng.random(count) < self.p) & (np.bincount(boxes.slot, minlength=count) > 0))
        least, tried = np.empty(count), np.full(count, self.trials)
        largest = np.zeros(count, np.float32)
        np.maximum.at(largest, boxes.slot, (boxes.box[:, 2:] - boxes.box[:, :2]).prod(1))
        while len(slots):
            again = slots[tried[slots] >= self.trials]
            least[again], tried[again] = rng.choice(np.asarray(self.sampler_options), len(again)), 0
            slots = slots[least[slots] < 1]
            corner, extent, possible = self._draw(plan.size[slots], self.trials - tried[slots], rng)
            possible &= (
                least[slots, None] * extent.prod(-1) <= largest[slots, None] * 1.001
            )  # others need no exact test
            of, trial = np.nonzero(possible)
            windows = np.concatenate([corner[of, trial], extent[of, trial]], 1)
            suits = np.flatnonzero(suitable(windows, slots[of], least[slots[of]], boxes))[::-1]
            window[slots[of[suits]]] = windows[suits]  # the first of a slot is assigned last
            tried[slots] += TRIALS_AT_ONCE
            slots = np.delete(slots, of[suits])
        cropped = (window[:, 2:] != plan.size).any(1)
        plan.crop_to(window)
        plan.keep_centered(cropped)

    def _draw(
        self, size: NDArray[np.int32], left: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        """Draw TRIALS_AT_ONCE (T) windows of each of S images of given sizes.

        Returns:
            (S, T, 2) x, y; (S, T, 2) width, height; and (S, T) whether it is one of the first `left` (S), is not empty,
            and has a valid aspect ratio.
        """
        shape = len(size), TRIALS_AT_ONCE, 2
        extent = (size[:, None] * rng.uniform(self.min_scale, self.max_scale, shape)).astype(np.int32)
        corner = ((size[:, None] - extent) * rng.random(shape)).astype(np.int32)
        wide, high = extent[..., 0], extent[..., 1]
        valid = (wide >= self.min_aspect_ratio * high) & (wide <= self.max_aspect_ratio * high) & (extent > 0).all(-1)
        return corner, extent, valid & (np.arange(TRIALS_AT_ONCE) < left[:, None])


def suitable(
    window: NDArray[np.int32], slot: NDArray[np.int64], least: NDArray[np.float64], boxes: PlannedBoxes
) -> NDArray[np.bool_]:
    """Return (W) whether a box whose center is in the window has an IoU of at least `least` with it.

    Args:
        window: (W, 4) x, y, w, h.
        slot: (W) the slot of each window.
        least: (W) the minimum IoU.
        boxes: boxes sorted by slot.
    """
    first, end = (boxes.slot.searchsorted(slot, side) for side in ("left", "right"))
    counts = end - first
    of = np.arange(len(window)).repeat(counts)  # of each pair of a window and a box
    box = np.arange(len(of)) + (end - counts.cumsum()).repeat(counts)
    common = np.ones(len(of), np.float32)
    area = np.ones(len(of), np.float32)
    inside: Any = True
    for axis in (0, 1):
        near, far = boxes.box[:, axis].take(box), boxes.box[:, axis + 2].take(box)
        low, length = (window[:, k].astype(np.float32) for k in (axis, axis + 2))
        start, stop = low.take(of), (low + length).take(of)
        center = (near + far) / 2
        inside = inside & (center > start) & (center < stop)
        common *= np.maximum(np.minimum(far, stop) - np.maximum(near, start), 0)
        area *= far - near
    area += window[:, 2:].prod(1).astype(np.float32).take(of)
    enough = inside & (common >= least.astype(np.float32).take(of) * (area - common))
    found = np.zeros(len(window), np.bool_)
    found[of[enough]] = True
    return found
