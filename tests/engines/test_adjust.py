"""The specification of color changes agrees with colorsys, OpenCV and Pillow."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fastload.engines.adjust import (
    autocontrast_table,
    equalize_table,
    hsv_changed,
    looked_up,
    recolored,
)


def random_pixels(height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def changed_by_colorsys(rgb: NDArray[np.uint8], change: NDArray[np.float64]) -> list[float]:
    hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
    hue = (hue + change[0]) % 1
    saturation = min(max(change[1] * saturation + change[2], 0), 1)
    value = min(max(change[3] * value + change[4] / 255, 0), 1)
    return [255 * channel for channel in colorsys.hsv_to_rgb(hue, saturation, value)]


@pytest.mark.parametrize(
    "change",
    [(0, 1, 0, 1, 0), (0.1, 1, 0, 1, 0), (-0.4, 0.5, 0.1, 1.5, -20), (3.25, 2, -0.3, 0.7, 9), (0, 1, 0.2, 1, 0)],
)
def test_hsv_agrees_with_colorsys(change: tuple[float, ...]) -> None:
    """Hue, saturation and value change as in colorsys, and are rounded to nearest; gray has hue 0."""
    colors = np.concatenate([random_pixels(1, 500)[0], np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(-1, 3)])
    expected = np.array([changed_by_colorsys(rgb, np.array(change)) for rgb in colors])
    assert np.abs(hsv_changed(colors, np.array(change)) - expected).max() <= 0.5 + 1e-6


def test_no_change_of_hsv_is_exact() -> None:
    """The identity returns the same pixels, for all colors."""
    pixels = random_pixels(512, 512)
    assert (hsv_changed(pixels, np.array([0, 1, 0, 1, 0])) == pixels).all()


@pytest.mark.parametrize("shift", [(0, 0, 0), (5, 30, 30), (-5, -30, -30), (3, 0, 0), (-2, 12, -20), (0, 30, 0)])
def test_hsv_agrees_with_yolox(shift: tuple[int, int, int]) -> None:
    """Integers added to OpenCV's HSV of bytes, as YOLOX does, differ by the documented bounds."""
    cv2 = pytest.importorskip("cv2")
    hue, saturation, value = shift
    pixels = random_pixels(512, 512)
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV).astype(np.int16)
    hsv[..., 0] = (hsv[..., 0] + hue) % 180
    hsv[..., 1:] = np.clip(hsv[..., 1:] + (saturation, value), 0, 255)
    expected = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(int)
    difference = np.abs(hsv_changed(pixels, np.array([hue / 180, 1, saturation / 255, 1, value])) - expected)
    assert difference.max() <= 6
    assert difference.mean() <= 0.7


def test_recolored_rounds_to_nearest_and_clips() -> None:
    """A color matrix is exact up to rounding."""
    pixels = random_pixels()
    color = np.array([[1.5, 0, 0, -20], [0, 0.25, 0.25, 10], [-1, 0, 2, 0]])
    expected = np.stack(
        [
            1.5 * pixels[..., 0] - 20,
            0.25 * pixels[..., 1] + 0.25 * pixels[..., 2] + 10,
            2.0 * pixels[..., 2] - pixels[..., 0],
        ],
        -1,
    )
    assert np.abs(recolored(pixels, color) - np.clip(expected, 0, 255)).max() <= 0.5


def images() -> list[NDArray[np.uint8]]:
    """Images whose channels have many levels, few, one, only both ends, and fewer pixels than levels."""
    pixels = random_pixels()
    one_level = pixels.copy()
    one_level[..., 1] = 77
    return [
        pixels,
        pixels // 3 + 60,
        pixels // 100 * 100,
        one_level,
        pixels // 128 * 255,
        pixels[:5, :7],
        pixels[:20, :20],
        pixels[:1, :1],
        np.minimum(pixels, 30),
        np.maximum(pixels, 250),
    ]


@pytest.mark.parametrize("number", range(len(images())))
def test_tables_are_those_of_pillow(number: int) -> None:
    """Autocontrast and equalize give the bytes of Pillow."""
    pixels = images()[number]
    image = Image.fromarray(pixels)
    assert (looked_up(pixels, autocontrast_table(pixels)) == np.asarray(ImageOps.autocontrast(image))).all()
    assert (looked_up(pixels, equalize_table(pixels)) == np.asarray(ImageOps.equalize(image))).all()
