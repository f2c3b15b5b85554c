"""Transforms that mirror, turn, shear and move images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import (
    Fill,
    RandomTransform,
    Transform,
    check_fill,
    check_range,
    check_share,
    underlay,
    width_height,
)


@dataclass
class RandomFlip(RandomTransform):
    """Mirror each image left to right at random, as torchvision's `RandomHorizontalFlip`. No box is clipped.

    Args:
        p: the probability. Default: 0.5.

    Raises:
        ArgumentError: `p` is not within 0 to 1.
    """

    p: float = 0.5

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        plan.flip_horizontally(self._draw(plan, rng))


@dataclass
class RandomVerticalFlip(RandomTransform):
    """Mirror each image top to bottom at random, as torchvision's `RandomVerticalFlip`. No box is clipped.

    Args:
        p: the probability. Default: 0.5.

    Raises:
        ArgumentError: `p` is not within 0 to 1.
    """

    p: float = 0.5

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        matrix = np.tile(np.eye(2, 3), (len(plan.size), 1, 1))
        flipped = self._draw(plan, rng)
        matrix[flipped, 1, 1], matrix[flipped, 1, 2] = -1, plan.size[flipped, 1]
        plan.transform(matrix, plan.size)


@dataclass
class RandomRotate90(RandomTransform):
    """Turn each image by a random number of quarter turns, as Albumentations' `RandomRotate90`. No box is clipped.

    Args:
        p: the probability; the number of turns is then 0, 1, 2 or 3. Default: 0.5.

    Raises:
        ArgumentError: `p` is not within 0 to 1.
    """

    p: float = 0.5

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        turns = np.where(self._draw(plan, rng), rng.integers(4, size=len(plan.size)), 0)
        self.turn(plan, turns)

    def turn(self, plan: BatchPlan, turns: NDArray[np.int64]) -> None:
        """Turn images by `turns` (B) quarter turns counterclockwise."""
        quarter = np.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]]])
        matrix = np.zeros((len(turns), 2, 3))
        matrix[:, :, :2] = quarter[turns]
        corners = (matrix[:, :, :2] @ plan.size[:, :, None])[:, :, 0]
        matrix[:, :, 2] = np.maximum(-corners, 0)
        plan.transform(matrix, np.abs(corners).astype(np.int32))


@dataclass
class RandomAffine(Transform):
    """Rotate, move, scale and shear each image about its center at random, as torchvision's `RandomAffine`.

    The size of the image stays. A box becomes the smallest upright box around its four turned corners, clipped.

    Args:
        degrees: the angle is uniform in [-degrees, degrees].
        translate: (x, y) the shifts are whole pixels, uniform in [-x * width, x * width] and [-y * height, y * height].
            Default: none.
        scale: the smallest and the largest factor. Default: none.
        shear: the angle of shear in x is uniform in [-shear, shear] degrees; (x, y) for both axes, where torchvision
            takes two numbers as a range in x. Default: none.
        fill: the color of parts that the image does not cover. Default: that of the collator.
        min_visible: drop a clipped box with less than this share of its area left, 0 to 1. Default: 0.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    degrees: float
    translate: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float | tuple[float, float] = 0.0
    fill: Fill = None
    min_visible: float = 0.0

    def __post_init__(self) -> None:
        check_range("scale", self.scale, 1e-3, self)
        check_angles(self, self.degrees, *np.atleast_1d(self.shear))
        if len(np.atleast_1d(self.translate)) != 2 or np.size(self.shear) > 2:
            raise ArgumentError(f"{self} is out of range: translate is (x, y), and shear a number or (x, y)")
        for share in self.translate:
            check_share("shares to translate by", share, self)
        check_share("min_visible", self.min_visible, self)
        check_fill(self.fill, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        most = np.radians(np.broadcast_to(np.array([*np.atleast_1d(self.shear), 0])[:2], 2))
        self.transform(
            plan,
            angle=np.radians(rng.uniform(-self.degrees, self.degrees, count)),
            shift=np.rint(rng.uniform(-1, 1, (count, 2)) * self.translate * plan.size),
            scale=rng.uniform(*self.scale, count),
            shear=rng.uniform(-most, most, (count, 2)),
        )

    def transform(
        self,
        plan: BatchPlan,
        angle: NDArray[np.float64],
        shift: NDArray[np.float64],
        scale: NDArray[np.float64],
        shear: NDArray[np.float64],
    ) -> None:
        """Transform images by an `angle` (B), a `shift` (B, 2), a `scale` (B) and a `shear` (B, 2), in radians."""
        turn, across = angle - shear[:, 1], np.tan(shear[:, 0])
        upright = np.cos(shear[:, 1])
        linear = np.empty((len(angle), 2, 2))
        linear[:, 0, 0] = np.cos(turn) / upright
        linear[:, 0, 1] = -np.cos(turn) * across / upright - np.sin(angle)
        linear[:, 1, 0] = np.sin(turn) / upright
        linear[:, 1, 1] = -np.sin(turn) * across / upright + np.cos(angle)
        about_center(plan, linear * scale[:, None, None], shift, plan.size)
        underlay(plan, np.arange(len(angle)), self.fill, self)
        plan.drop_boxes(self.min_visible)


@dataclass
class RandomScaleTranslate(Transform):
    """Scale each image about its center and move it at random: `RandomAffine` without rotation and shear.

    It needs no interpolation along slanted lines, so it is faster.

    Args:
        scale: the smallest and the largest factor. Default: 0.5 to 1.5.
        translate: the shifts are uniform in [-translate, translate] times the image's sides. Default: 0.1.
        fill: the color of parts that the image does not cover. Default: that of the collator.
        min_visible: drop a clipped box with less than this share of its area left, 0 to 1. Default: 0.1.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    scale: tuple[float, float] = (0.5, 1.5)
    translate: float = 0.1
    fill: Fill = None
    min_visible: float = 0.1

    def __post_init__(self) -> None:
        check_range("scale", self.scale, 1e-3, self)
        check_share("translate", self.translate, self)
        check_share("min_visible", self.min_visible, self)
        check_fill(self.fill, self)
        self._affine = RandomAffine(0, (self.translate,) * 2, self.scale, 0, self.fill, self.min_visible)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        self._affine(plan, rng, images)


@dataclass
class MosaicAffine(Transform):
    """Rotate, scale, shear and move each image about its upper left corner, and cut it to a size: YOLOX's affine step.

    YOLOX (Ge et al., 2021) applies it to mosaics: see `Mosaic`. The matrix is the rotation by an angle, times the
    scale, plus the shears times the rows of this product; the shift is a share of `size`. Boxes move as in YOLOX.
    Pixels move with them, where YOLOX applies the matrix to the centers of pixels, up to half a pixel apart.

    Args:
        size: (height, width) of the result in pixels, or the edge of a square.
        degrees: the angle is uniform in [-degrees, degrees]. Default: 10.
        translate: the shifts are uniform in [-translate, translate] times `size`. Default: 0.1.
        scale: the smallest and the largest factor. Default: 0.1 to 2.
        shear: the angles of both shears are uniform in [-shear, shear] degrees. Default: 2.
        fill: the color of parts that the image does not cover. Default: 114. None: that of the collator.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    size: int | tuple[int, int]
    degrees: float = 10.0
    translate: float = 0.1
    scale: tuple[float, float] = (0.1, 2.0)
    shear: float = 2.0
    fill: Fill = 114

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)
        check_range("scale", self.scale, 1e-3, self)
        check_angles(self, self.degrees, self.shear)
        check_share("translate", self.translate, self)
        check_fill(self.fill, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        self.transform(
            plan,
            angle=np.radians(rng.uniform(-self.degrees, self.degrees, count)),
            shift=rng.uniform(-self.translate, self.translate, (count, 2)) * self._extent,
            scale=rng.uniform(*self.scale, count),
            shear=np.radians(rng.uniform(-self.shear, self.shear, (count, 2))),
        )

    def transform(
        self,
        plan: BatchPlan,
        angle: NDArray[np.float64],
        shift: NDArray[np.float64],
        scale: NDArray[np.float64],
        shear: NDArray[np.float64],
    ) -> None:
        """Transform images by an `angle` (B), a `shift` (B, 2), a `scale` (B) and a `shear` (B, 2), in radians."""
        linear = sheared_rotation(angle, scale, np.tan(shear)[:, ::-1])
        plan.transform(np.concatenate([linear, shift[:, :, None]], 2), np.broadcast_to(self._extent, plan.size.shape))
        underlay(plan, np.arange(len(angle)), self.fill, self)


@dataclass
class RandomPerspective(Transform):
    """Rotate, scale, shear and move each image about its center, and cut it to a size, as YOLOv5 and its successors do.

    Only the affine part of the published transform is there, which is all of it by default (perspective 0). The center
    of the image goes to a point that is uniform around the center of the result.

    Args:
        size: (height, width) of the result in pixels, or the edge of a square.
        degrees: the angle is uniform in [-degrees, degrees]. Default: 0.
        translate: the shift is uniform in [-translate, translate] times `size`. Default: 0.1.
        scale: the factor is uniform in [1 - scale, 1 + scale]. Default: 0.5.
        shear: the angles of both shears are uniform in [-shear, shear] degrees. Default: 0.
        fill: the color of parts that the image does not cover. Default: 114. None: that of the collator.
        min_visible, min_size, max_aspect: drop a box with less than this share of its area left, with a side of less
            than this many pixels, or whose longer side is more than `max_aspect` times the shorter one. Default: 0.1,
            2 and 100.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    size: int | tuple[int, int]
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    fill: Fill = 114
    min_visible: float = 0.1
    min_size: float = 2.0
    max_aspect: float = 100.0

    def __post_init__(self) -> None:
        self._extent = width_height(self.size, self)
        check_angles(self, self.degrees, self.shear)
        check_share("translate", self.translate, self)
        check_share("min_visible", self.min_visible, self)
        if not (0 <= self.scale < 1 and 0 <= self.min_size < np.inf and self.max_aspect >= 1):
            raise ArgumentError(
                f"{self} is out of range: use 0 <= scale < 1, a min_size of at least 0 and a max_aspect of at least 1"
            )
        check_fill(self.fill, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        angle = np.radians(rng.uniform(-self.degrees, self.degrees, count))
        scale = rng.uniform(1 - self.scale, 1 + self.scale, count)
        shear = np.tan(np.radians(rng.uniform(-self.shear, self.shear, (count, 2))))
        shift = rng.uniform(-self.translate, self.translate, (count, 2)) * self._extent
        about_center(plan, sheared_rotation(angle, scale, shear), shift, np.broadcast_to(self._extent, plan.size.shape))
        underlay(plan, np.arange(count), self.fill, self)
        plan.drop_boxes(self.min_visible, self.min_size, self.max_aspect)


def sheared_rotation(
    angle: NDArray[np.float64], scale: NDArray[np.float64], slant: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return matrices (B, 2, 2): a rotation by `angle` (B) counterclockwise, times `scale` (B), plus sheared rows.

    Args:
        angle: radians.
        scale: factors.
        slant: (B, 2) by how much of the other row each of the two rows grows.
    """
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    rotation = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)
    sheared: NDArray[np.float64] = rotation + slant[:, :, None] * rotation[:, ::-1]
    return sheared


def about_center(
    plan: BatchPlan, linear: NDArray[np.float64], shift: NDArray[np.float64], size: NDArray[np.int32]
) -> None:
    """Map images by `linear` (B, 2, 2) about their centers, which go to the center of `size` (B, 2) plus `shift`."""
    center = plan.size / 2
    matrix = np.concatenate([linear, (size / 2 + shift)[:, :, None]], 2)
    matrix[:, :, 2] -= (linear @ center[:, :, None])[:, :, 0]
    plan.transform(matrix, size)


def check_angles(user: Transform, degrees: float, *shears: float) -> None:
    """Raise ArgumentError if an angle is negative or not finite, or a shear is not below 90 degrees."""
    if not np.isfinite([degrees, *shears]).all() or min(degrees, *shears) < 0 or max(shears) >= 90:
        raise ArgumentError(
            f"{type(user).__name__} needs angles of at least 0 degrees, and shears below 90, not {degrees}, {shears}"
        )
