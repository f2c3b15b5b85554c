"""Transforms that change the colors of images. Boxes do not change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import IDENTITY_COLOR, IDENTITY_HSV, BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import RandomTransform, Transform, check_probability, check_range

GRAY = 128.0  # the level that ColorJitter's contrast leaves unchanged
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in JPEG
ORDERS = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])  # of three channels


@dataclass
class ColorJitter(Transform):
    """Change the brightness, contrast, saturation and hue of each image at random, as torchvision's `ColorJitter`.

    By default the changes are one matrix per image, which costs no time, and differ from torchvision's: they are
    applied in this order instead of a random one; hue is a rotation about the gray axis of RGB instead of a shift in
    HSV; values are clipped once, at the end. With `exact=True` each change is a step of its own as in torchvision, in
    random order, with values cut to whole levels after it.

    Contrast is relative to the mean gray of the whole image after the change of brightness, if the cache has it (see
    `Cache.means`), else to level 128. Of a cropped image torchvision takes the mean of the crop; of a slot of several
    images, such as a mosaic, the mean of the first is taken. Boxes do not change.

    Args:
        brightness: b; the factor is uniform in [max(0, 1 - b), 1 + b]. Default: 0, no change.
        contrast: c; the factor is uniform in [max(0, 1 - c), 1 + c]. Default: 0, no change.
        saturation: s; the factor is uniform in [max(0, 1 - s), 1 + s]. Default: 0, no change.
        hue: h, at most 0.5; the shift is uniform in [-h, h] full turns. Default: 0, no change.
        exact: apply the changes one by one, as torchvision does. Default: False.

    Raises:
        ArgumentError: an argument is negative, or `hue` is above 0.5.
    """

    spans_batches = True

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    exact: bool = False

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation, self.hue) < 0 or self.hue > 0.5:
            raise ArgumentError(f"{self} is out of range: all arguments must be at least 0, and hue at most 0.5")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        ranges = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (rng.uniform(max(0.0, 1 - x), 1 + x, count) for x in ranges)
        hue = rng.uniform(-self.hue, self.hue, count)
        if self.exact:
            order = rng.permuted(np.tile(np.arange(4), (count, 1)), axis=1)
            self.jitter(plan, images, brightness, contrast, saturation, hue, order)
            return
        pivot = mean_gray(plan, images) * (1.0 if images.means is None else brightness)
        color = np.empty((count, 3, 4), np.float32)
        gain = (brightness * contrast)[:, None, None]
        color[:, :, :3] = gain * (_hue(hue[:, None, None] * 2 * np.pi) @ _saturation(saturation[:, None, None]))
        color[:, :, 3] = (pivot * (1 - contrast))[:, None]  # hue and saturation do not change grays
        plan.recolor(color)

    def jitter(
        self,
        plan: BatchPlan,
        images: ImageIndex,
        brightness: NDArray[np.float64],
        contrast: NDArray[np.float64],
        saturation: NDArray[np.float64],
        hue: NDArray[np.float64],
        order: NDArray[np.int64],
    ) -> None:
        """Apply changes one by one.

        Args:
            plan: the plan.
            images: the images of the plan.
            brightness, contrast, saturation: (B) factors.
            hue: (B) shifts in turns.
            order: (B, 4) the order of the changes; 0 to 3 are brightness, contrast, saturation and hue.
        """
        gray = mean_gray(plan, images)
        slots = np.arange(len(gray))
        for step in order.T:
            bright, contrasts, saturates, shifts = (step == number for number in range(4))
            color = brightened(np.where(bright, brightness, 1))
            color = after(contrasted(np.where(contrasts, contrast, 1), gray), color)
            color = after(saturated(np.where(saturates, saturation, 1)), color)
            color[:, :, 3] -= np.where(shifts, 0, np.float32(0.5))[:, None]  # torchvision cuts fractions off
            hsv = np.tile(IDENTITY_HSV, (len(gray), 1))
            hsv[:, 0] = np.where(shifts, hue, 0)
            plan.adjust(slots, hsv=hsv, color=color)
            gray = np.where(bright, (gray * brightness).clip(0, 255), gray)


def _saturation(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices (B, 3, 3) that blend each pixel with its gray level."""
    matrix: NDArray[np.float64] = factor * np.eye(3) + (1 - factor) * LUMA
    return matrix


def _hue(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices (B, 3, 3) that rotate about the axis (1, 1, 1) by `angle` radians (Rodrigues' formula)."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    matrix: NDArray[np.float64] = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * cross
    return matrix


@dataclass
class RandomPhotometricDistort(Transform):
    """Distort the colors of each image as torchvision's `RandomPhotometricDistort` (Liu et al., "SSD", 2016).

    In this order, each with probability `p`: brightness; contrast, in half of the images; saturation; hue; contrast, in
    the other half; a permutation of the channels. Contrast is relative to the mean gray of the image, if the cache has
    it (see `ImageIndex.means`), else to level 128. Values are clipped before and after the change of hue and at the
    end, not after each step; the mean is that of the whole image, changed like the colors except by clips and hue.

    Args:
        brightness, contrast, saturation: the smallest and the largest factor. Default: 0.875 to 1.125, and 0.5 to 1.5.
        hue: the smallest and the largest shift in full turns. Default: -0.05 to 0.05.
        p: the probability of each step. Default: 0.5.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    brightness: tuple[float, float] = (0.875, 1.125)
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: tuple[float, float] = (-0.05, 0.05)
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.p, self)
        for name in ("brightness", "contrast", "saturation"):
            check_range(name, getattr(self, name), 0, self)
        check_range("hue", self.hue, -0.5, self)
        if self.hue[1] > 0.5:
            raise ArgumentError(f"RandomPhotometricDistort needs a hue of at most 0.5, not {self.hue}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        happens = rng.random((5, count)) < self.p
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        brightness, contrast, saturation, hue = (
            np.where(on, rng.uniform(*limits, count), neutral)
            for on, limits, neutral in zip(happens[:4], ranges, (1, 1, 1, 0), strict=True)
        )
        order = random_orders(happens[4], rng)
        self.distort(plan, images, brightness, contrast, rng.random(count) < 0.5, saturation, hue, order)

    def distort(
        self,
        plan: BatchPlan,
        images: ImageIndex,
        brightness: NDArray[np.float64],
        contrast: NDArray[np.float64],
        contrast_first: NDArray[np.bool_],
        saturation: NDArray[np.float64],
        hue: NDArray[np.float64],
        order: NDArray[np.int64],
    ) -> None:
        """Change colors by factors (B), shifts of hue (B) in turns, and the order (B, 3) of the channels."""
        gray = brightness * mean_gray(plan, images)
        first = brightened(brightness)
        first = after(contrasted(np.where(contrast_first, contrast, 1), gray), first)
        first = after(saturated(saturation), first)
        plan.recolor(first)
        shift_hue(plan, hue)
        last = contrasted(np.where(contrast_first, 1, contrast), gray)
        plan.recolor(np.take_along_axis(last, order[:, :, None], 1))


@dataclass
class RandomHSV(Transform):
    """Change hue, saturation and value of each image at random.

    By default as Ultralytics documents: hue is shifted by up to `hue` turns, saturation and value are multiplied
    by a factor that is uniform in [1 - x, 1 + x]. With `additive=True` as YOLOX does: saturation and value are shifted
    by up to `saturation` and `value`, each of the three with probability 0.5, and YOLOX's integers are kept: whole
    double degrees of hue, and whole levels of 0 to 255. Colors themselves are not rounded to OpenCV's 180 hues and 256
    saturations.

    Args:
        hue: the largest shift, in full turns. Default: 0.015.
        saturation: the largest relative change, or the largest shift of a saturation of 0 to 1. Default: 0.7.
        value: the largest relative change, or the largest shift of a value of 0 to 1. Default: 0.4.
        additive: shift saturation and value instead of multiplying them.

    Raises:
        ArgumentError: an argument is not from 0 to 1, or `hue` is above 0.5.
    """

    spans_batches = True

    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4
    additive: bool = False

    def __post_init__(self) -> None:
        changes = self.hue, self.saturation, self.value
        if min(changes) < 0 or max(changes) > 1 or self.hue > 0.5:
            raise ArgumentError(f"{self} is out of range: changes are from 0 to 1, and that of the hue at most 0.5")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        draws = rng.uniform(-1, 1, (len(plan.size), 3)) * (self.hue, self.saturation, self.value)
        hsv = np.tile(IDENTITY_HSV.astype(np.float64), (len(draws), 1))
        if self.additive:
            steps = np.array([180, 255, 255])
            draws = np.trunc(draws * steps) / steps * rng.integers(2, size=draws.shape)
            hsv[:, 2], hsv[:, 4] = draws[:, 1], draws[:, 2] * 255
        else:
            hsv[:, 1] += draws[:, 1]
            hsv[:, 3] += draws[:, 2]
        hsv[:, 0] = draws[:, 0]
        slots = np.flatnonzero(draws.any(1))
        if len(slots):
            plan.adjust(slots, hsv=hsv[slots])


@dataclass
class Grayscale(RandomTransform):
    """Make images gray at random, as torchvision's `RandomGrayscale`: .299 R + .587 G + .114 B in all channels.

    Args:
        p: the probability. Default: 0.1.

    Raises:
        ArgumentError: `p` is not within 0 to 1.
    """

    p: float = 0.1

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        plan.recolor(saturated(np.where(self._draw(plan, rng), 0.0, 1.0)))


@dataclass
class ChannelPermutation(RandomTransform):
    """Permute red, green and blue at random, as torchvision's `RandomChannelPermutation`.

    Args:
        p: the probability; all six orders are then equally likely. Default: 1.

    Raises:
        ArgumentError: `p` is not within 0 to 1.
    """

    p: float = 1.0

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        order = random_orders(self._draw(plan, rng), rng)
        plan.recolor(IDENTITY_COLOR[order])


def random_orders(drawn: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Orders (B, 3) of the channels: any of the six where `drawn` (B) is set."""
    return np.where(drawn[:, None], ORDERS[rng.integers(len(ORDERS), size=len(drawn))], ORDERS[0])


def brightened(factor: NDArray[np.float64]) -> NDArray[np.float32]:
    """Matrices (B, 3, 4) that multiply colors by `factor` (B)."""
    color = np.zeros((len(factor), 3, 4), np.float32)
    color[:, :, :3] = factor[:, None, None] * np.eye(3)
    return color


def contrasted(factor: NDArray[np.float64], pivot: NDArray[np.float64]) -> NDArray[np.float32]:
    """Matrices (B, 3, 4) that multiply the distance of colors from the gray level `pivot` (B) by `factor` (B)."""
    color = brightened(factor)
    color[:, :, 3] = ((1 - factor) * pivot)[:, None]
    return color


def saturated(factor: NDArray[np.float64]) -> NDArray[np.float32]:
    """Matrices (B, 3, 4) that multiply the distance of colors from their own gray level by `factor` (B)."""
    color = np.zeros((len(factor), 3, 4), np.float32)
    color[:, :, :3] = _saturation(factor[:, None, None])
    return color


def after(last: NDArray[np.float32], first: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrices (B, 3, 4) that apply `first` and then `last`."""
    color = last[:, :, :3] @ first
    color[:, :, 3] += last[:, :, 3]
    return color


def shift_hue(plan: BatchPlan, turns: NDArray[np.float64]) -> None:
    """Shift the hue of each slot by `turns` (B), where these are not 0."""
    slots = np.flatnonzero(turns)
    if len(slots):
        hsv = np.tile(IDENTITY_HSV, (len(slots), 1))
        hsv[:, 0] = turns[slots]
        plan.adjust(slots, hsv=hsv)


def mean_gray(plan: BatchPlan, images: ImageIndex) -> NDArray[np.float64]:
    """The mean gray level (B) of the first image of each slot, in the colors of its row; 128 if it is unknown."""
    gray = np.full(len(plan.size), GRAY)
    means = images.mean(plan)
    if means is not None:
        rows = np.flatnonzero(plan.index >= 0)[::-1]  # the first of a slot is assigned last
        colors = (plan.color[rows, :, :3] @ means[rows, :, None])[:, :, 0] + plan.color[rows, :, 3]
        gray[plan.slot[rows]] = colors.clip(0, 255) @ LUMA
    return gray
