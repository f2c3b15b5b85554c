"""Changes of the colors of pixels that are already drawn: the specification, in NumPy.

The core computes them in fixed point. It differs by at most one level, in fewer than one value of a hundred unless many
results are exactly half way between two levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (..., 3) RGB
LEVELS = 256


def recolored(pixels: NDArray[np.floating[Any]] | Pixels, color: NDArray[np.floating[Any]]) -> Pixels:
    """Apply a color matrix.

    Args:
        pixels: (..., 3) RGB, levels or numbers between them.
        color: (3, 4): RGB in 0..255 -> color[:, :3] @ rgb + color[:, 3].
    """
    matrix = np.asarray(color, np.float64)
    return to_levels(pixels @ matrix[:, :3].T + matrix[:, 3])


def hsv_changed(pixels: Pixels, hsv: NDArray[np.floating[Any]]) -> Pixels:
    """Change hue, saturation and value.

    With V and m the largest and the smallest channel, value is V, saturation S = (V - m) / V, and hue as usual; a gray
    pixel has saturation and hue 0. So it becomes red if `hsv` adds to saturation.

    YOLOX adds integers to OpenCV's HSV of bytes, which rounds hue to 2 degrees and saturation to 1/255. The same shift
    is (hue / 180, 1, saturation / 255, 1, value) here, where nothing is rounded in between. Half a step of hue is up to
    4.25 levels and half a step of saturation .5, so results differ by at most 6 levels, and by .6 on average.

    Args:
        pixels: (..., 3) RGB.
        hsv: (5) hue shift in turns; saturation gain and shift, of a saturation of 0 to 1; value gain and shift, of a
            value of 0 to 255. New saturation and value are clipped to these ranges.
    """
    hue_shift, saturation_gain, saturation_shift, value_gain, value_shift = np.asarray(hsv, np.float64)
    red, green, blue = rgb = np.moveaxis(pixels.astype(np.float64), -1, 0)
    value = rgb.max(0)
    chroma = value - rgb.min(0)
    divisor = np.where(chroma > 0, chroma, 1)
    sector = np.select(
        [value == red, value == green],
        [(green - blue) / divisor, 2 + (blue - red) / divisor],
        4 + (red - green) / divisor,
    )
    saturation = chroma / np.where(value > 0, value, 1)
    sector = (sector + 6 * hue_shift) % 6
    value = np.clip(value_gain * value + value_shift, 0, 255)
    chroma = value * np.clip(saturation_gain * saturation + saturation_shift, 0, 1)
    # by which share of the chroma a channel is below the value: 0 within one sector of its center, 1 beyond two
    distance = [np.minimum(sector, 6 - sector), np.abs(sector - 2), np.abs(sector - 4)]
    return to_levels(np.stack([value - chroma * np.clip(d - 1, 0, 1) for d in distance], -1))


def looked_up(pixels: Pixels, table: NDArray[np.uint8]) -> Pixels:
    """Replace levels by those of a table.

    Args:
        pixels: (..., 3) RGB.
        table: (3, 256) new levels of R, G and B.
    """
    return table[np.arange(3), pixels]


def autocontrast_table(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the table (3, 256) of Pillow's `ImageOps.autocontrast(cutoff=0)`.

    Args:
        pixels: (..., 3) RGB.
    """
    table = np.arange(LEVELS, dtype=np.uint8)[None].repeat(3, 0)
    for c, levels in enumerate(table):
        low, high = int(pixels[..., c].min(initial=255)), int(pixels[..., c].max(initial=0))
        if low < high:
            scale = 255.0 / (high - low)
            levels[:] = np.clip(np.trunc(np.arange(LEVELS) * scale + -low * scale), 0, 255)
    return table


def equalize_table(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the table (3, 256) of Pillow's `ImageOps.equalize`.

    Args:
        pixels: (..., 3) RGB.
    """
    table = np.arange(LEVELS, dtype=np.uint8)[None].repeat(3, 0)
    for c, levels in enumerate(table):
        count = np.bincount(pixels[..., c].ravel(), minlength=LEVELS)
        step = (count.sum() - count[count > 0][-1:].sum()) // 255
        if step:
            below = step // 2 + np.cumsum(count) - count
            levels[:] = np.minimum(below // step, 255)
    return table


def to_levels(pixels: NDArray[np.float64]) -> Pixels:
    """Clip to 0 to 255 and round to the nearest level, halves up."""
    return np.floor(np.clip(pixels, 0, 255) + 0.5).astype(np.uint8)
