"""Tables of new levels, and the policies of classifiers that draw from many changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import AUTOCONTRAST, EQUALIZE, BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.affine import about_center
from fastload.plan.transforms.color import brightened, contrasted, mean_gray, saturated
from fastload.plan.transforms.transform import Fill, RandomTransform, Transform, check_fill, underlay

LEVELS = np.arange(256)


class _RandomTable(RandomTransform):
    """Change levels of R, G and B by one table in images drawn at random."""

    def _adjust(self, plan: BatchPlan, rng: np.random.Generator, table: NDArray[np.uint8] | int) -> None:
        slots = np.flatnonzero(self._draw(plan, rng))
        if len(slots):
            plan.adjust(slots, table=table if isinstance(table, int) else np.broadcast_to(table, (len(slots), 3, 256)))


@dataclass
class AutoContrast(_RandomTable):
    """Stretch each channel to the full range at random, as torchvision's `RandomAutocontrast`.

    The range is that of the image as it is shown at this point, as in Pillow's `autocontrast`.

    Args:
        p: the probability. Default: 0.5.

    Raises:
        ArgumentError: `p` is not within 0 to 1.
    """

    p: float = 0.5

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        self._adjust(plan, rng, AUTOCONTRAST)


@dataclass
class Equalize(_RandomTable):
    """Equalize the histogram of each channel at random, as torchvision's `RandomEqualize`.

    The histogram is that of the image as it is shown at this point, as in Pillow's `equalize`.

    Args:
        p: the probability. Default: 0.5.

    Raises:
        ArgumentError: `p` is not within 0 to 1.
    """

    p: float = 0.5

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        self._adjust(plan, rng, EQUALIZE)


@dataclass
class Posterize(_RandomTable):
    """Keep the upper bits of each level at random, as torchvision's `RandomPosterize`.

    Args:
        bits: 0 to 8.
        p: the probability. Default: 0.5.

    Raises:
        ArgumentError: an argument is out of range.
    """

    bits: int
    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in range(9):
            raise ArgumentError(f"Posterize keeps 0 to 8 bits, not {self.bits}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        self._adjust(plan, rng, posterizing(np.array([self.bits]))[0])


@dataclass
class Solarize(_RandomTable):
    """Invert levels from a threshold on at random, as torchvision's `RandomSolarize`.

    Args:
        threshold: the lowest level that is inverted, 0 to 256.
        p: the probability. Default: 0.5.

    Raises:
        ArgumentError: an argument is out of range.
    """

    threshold: float
    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 256:
            raise ArgumentError(f"Solarize needs a threshold from 0 to 256, not {self.threshold}")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        self._adjust(plan, rng, solarizing(np.array([self.threshold]))[0])


def posterizing(bits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Tables (S, 3, 256) that keep the upper `bits` (S)."""
    return _of_channels(LEVELS & (0xFF00 >> bits[:, None] & 0xFF))


def solarizing(threshold: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Tables (S, 3, 256) that invert levels from `threshold` (S) on."""
    return _of_channels(np.where(threshold[:, None] <= LEVELS, 255 - LEVELS, LEVELS))


def _of_channels(levels: NDArray[np.int64]) -> NDArray[np.uint8]:
    return levels.astype(np.uint8)[:, None].repeat(3, 1)


@dataclass
class RandAugment(Transform):
    """Apply several changes of a common strength, drawn with replacement, to each image (Cubuk et al., 2020).

    Changes and their strengths are those of torchvision's `RandAugment`: shear, translation and rotation, each in a
    random direction; brightness, saturation, contrast, posterization, solarization, automatic contrast, equalization,
    or none. Sharpening is not among them: where torchvision draws it, the image stays as it is. Contrast is relative
    to the mean gray of the image in the cache, or to 128 if the cache has none. Several turns of one image are one
    resampling, bilinear instead of to the nearest pixel. Boxes move with the image.

    Args:
        num_ops: changes of each image. Default: 2.
        magnitude: the strength, 0 to `num_magnitude_bins` - 1. Default: 9.
        num_magnitude_bins: the number of strengths. Default: 31.
        fill: the color of parts that the image does not cover. Default: 0. None: that of the collator.

    Raises:
        ArgumentError: an argument is out of range.
    """

    spans_batches = True

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    fill: Fill = 0

    def __post_init__(self) -> None:
        if self.num_ops < 0 or self.num_magnitude_bins < 2 or self.magnitude not in range(self.num_magnitude_bins):
            raise ArgumentError(f"{self} is out of range: use a magnitude below num_magnitude_bins")
        check_fill(self.fill, self)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        strength = self.magnitude / (self.num_magnitude_bins - 1)
        for _ in range(self.num_ops):
            change = rng.integers(len(CHANGES), size=len(plan.size))
            sign = np.where(rng.random(len(change)) < 0.5, 1.0, -1.0)
            for k, apply in enumerate(CHANGES):
                slots = np.flatnonzero(change == k)
                if apply is not None and len(slots):
                    part = plan.take(slots)
                    apply(part, images, strength, sign[slots])
                    underlay(part, np.arange(len(slots)), self.fill if k < GEOMETRIC else None, self)
                    plan.put(slots, part)


Change = Callable[[BatchPlan, ImageIndex, float, NDArray[np.float64]], None]  # plan, images, strength 0 to 1, sign (B)


def _turned(plan: BatchPlan, linear: list[list[NDArray[np.float64] | float]], shift: NDArray[np.float64]) -> None:
    count = len(plan.size)
    matrix = np.stack([np.stack([np.broadcast_to(each, count) for each in row], 1) for row in linear], 1)
    about_center(plan, matrix.astype(np.float64), np.broadcast_to(shift, (count, 2)), plan.size)


def _shear(axis: int) -> Change:
    def shear(plan: BatchPlan, images: ImageIndex, strength: float, sign: NDArray[np.float64]) -> None:
        # torchvision shears about the upper left corner, by an angle whose tangent is the magnitude
        slant = 0.3 * strength * sign
        other = plan.size[:, 1 - axis] / 2
        shift = np.zeros((len(sign), 2))
        shift[:, axis] = slant * other
        _turned(plan, [[1, slant], [0, 1]] if axis == 0 else [[1, 0], [slant, 1]], shift)

    return shear


def _translate(axis: int) -> Change:
    def translate(plan: BatchPlan, images: ImageIndex, strength: float, sign: NDArray[np.float64]) -> None:
        shift = np.zeros((len(sign), 2))
        shift[:, axis] = np.trunc(150 / 331 * plan.size[:, axis] * strength * sign)
        _turned(plan, [[1, 0], [0, 1]], shift)

    return translate


def _rotate(plan: BatchPlan, images: ImageIndex, strength: float, sign: NDArray[np.float64]) -> None:
    angle = np.radians(30 * strength * sign)  # counterclockwise
    _turned(plan, [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.zeros(2))


def _brightness(plan: BatchPlan, images: ImageIndex, strength: float, sign: NDArray[np.float64]) -> None:
    plan.recolor(brightened(1 + 0.9 * strength * sign))


def _color(plan: BatchPlan, images: ImageIndex, strength: float, sign: NDArray[np.float64]) -> None:
    plan.recolor(saturated(1 + 0.9 * strength * sign))


def _contrast(plan: BatchPlan, images: ImageIndex, strength: float, sign: NDArray[np.float64]) -> None:
    plan.recolor(contrasted(1 + 0.9 * strength * sign, mean_gray(plan, images)))


def _posterize(plan: BatchPlan, images: ImageIndex, strength: float, sign: NDArray[np.float64]) -> None:
    bits = 8 - int(np.rint(4 * strength))
    plan.adjust(np.arange(len(sign)), table=posterizing(np.full(len(sign), bits)))


def _solarize(plan: BatchPlan, images: ImageIndex, strength: float, sign: NDArray[np.float64]) -> None:
    plan.adjust(np.arange(len(sign)), table=solarizing(np.full(len(sign), 255 * (1 - strength))))


def _autocontrast(plan: BatchPlan, images: ImageIndex, strength: float, sign: NDArray[np.float64]) -> None:
    plan.adjust(np.arange(len(sign)), table=AUTOCONTRAST)


def _equalize(plan: BatchPlan, images: ImageIndex, strength: float, sign: NDArray[np.float64]) -> None:
    plan.adjust(np.arange(len(sign)), table=EQUALIZE)


GEOMETRIC = 5  # changes that move parts of the image out of sight
CHANGES: tuple[Change | None, ...] = (
    _shear(0), _shear(1), _translate(0), _translate(1), _rotate, _brightness, _color, _contrast, None, _posterize,
    _solarize, _autocontrast, _equalize, None,
)  # fmt: skip  # None: sharpening, and no change
