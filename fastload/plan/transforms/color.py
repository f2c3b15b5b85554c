"""Transforms that change the colors of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import Transform

GRAY = 128.0  # the level that ColorJitter's contrast leaves unchanged
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in JPEG


@dataclass
class ColorJitter(Transform):
    """Change the brightness, contrast, saturation and hue of each image at random, as torchvision's `ColorJitter`.

    The changes are applied in this order, as one matrix per image. They differ from torchvision's as follows: the order
    is fixed; contrast is relative to level 128 instead of the mean of the image, which is unknown before decoding; hue
    is a rotation about the gray axis of RGB instead of a shift in HSV; values are clipped once, at the end. Boxes do
    not change.

    Args:
        brightness: b; the factor is uniform in [max(0, 1 - b), 1 + b]. Default: 0, no change.
        contrast: c; the factor is uniform in [max(0, 1 - c), 1 + c]. Default: 0, no change.
        saturation: s; the factor is uniform in [max(0, 1 - s), 1 + s]. Default: 0, no change.
        hue: h, at most 0.5; the angle is uniform in [-h, h] full turns. Default: 0, no change.

    Raises:
        ArgumentError: an argument is negative, or `hue` is above 0.5.
    """

    spans_batches = True

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation, self.hue) < 0 or self.hue > 0.5:
            raise ArgumentError(f"{self} is out of range: all arguments must be at least 0, and hue at most 0.5")

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        ranges = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (rng.uniform(max(0.0, 1 - x), 1 + x, (count, 1, 1)) for x in ranges)
        turn = rng.uniform(-self.hue, self.hue, (count, 1, 1)) * 2 * np.pi
        color = np.empty((count, 3, 4), np.float32)
        color[:, :, :3] = brightness * contrast * (_hue(turn) @ _saturation(saturation))
        color[:, :, 3] = GRAY * (1 - contrast[:, 0])  # hue and saturation do not change grays
        plan.recolor(color)


def _saturation(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices (B, 3, 3) that blend each pixel with its gray level."""
    matrix: NDArray[np.float64] = factor * np.eye(3) + (1 - factor) * LUMA
    return matrix


def _hue(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices (B, 3, 3) that rotate about the axis (1, 1, 1) by `angle` radians (Rodrigues' formula)."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    matrix: NDArray[np.float64] = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * cross
    return matrix
