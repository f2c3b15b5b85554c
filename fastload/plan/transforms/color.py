"""Transforms of color: a matrix for each image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import Transform

GREY = 128.0  # what ColorJitter's contrast leaves unchanged
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in JPEG


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

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        ranges = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (rng.uniform(max(0.0, 1 - x), 1 + x, (count, 1, 1)) for x in ranges)
        turn = rng.uniform(-self.hue, self.hue, (count, 1, 1)) * 2 * np.pi
        color = np.empty((count, 3, 4), np.float32)
        color[:, :, :3] = brightness * contrast * (_hue(turn) @ _saturation(saturation))
        color[:, :, 3] = GREY * (1 - contrast[:, 0])  # hue and saturation leave greys as they are
        plan.recolor(color)


def _saturation(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 3, 3): blend with the pixel's own grey."""
    matrix: NDArray[np.float64] = factor * np.eye(3) + (1 - factor) * LUMA
    return matrix


def _hue(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 3, 3): rotation about the axis (1, 1, 1) by `angle` radians (Rodrigues' formula)."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    matrix: NDArray[np.float64] = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * cross
    return matrix
