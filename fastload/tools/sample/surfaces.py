"""Background surfaces. Images here are planar: (3, H, W) float32 RGB, about 0 to 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.floating[Any]]  # (H, W)
Pixels = NDArray[np.floating[Any]]  # (3, H, W)
Rng = np.random.Generator


def color(text: str) -> Pixels:
    """Return a color such as "e8b04a" as an image of one pixel."""
    return (np.frombuffer(bytes.fromhex(text), np.uint8).astype(np.float32) / 255).reshape(3, 1, 1)


def mix(a: Pixels, b: Pixels, t: Plane | float) -> Pixels:
    """Interpolate from `a` where t is 0 to `b` where t is 1."""
    return a + (b - a) * t


def noise(rng: Rng, shape: tuple[int, ...]) -> Plane:
    """Return uniform white noise with mean 0 and standard deviation 1."""
    field = rng.random(shape, np.float32)
    field -= 0.5
    field *= np.float32(12**0.5)
    return field


def fractal(
    rng: Rng, height: int, width: int, roughness: float = 0.8, octaves: int = 7, stretch: tuple[float, float] = (1, 1)
) -> Plane:
    """Return fractal noise with a mean of about 0 and a standard deviation of about 1.

    Args:
        rng: the generator.
        height: rows.
        width: columns.
        roughness: amplitude of each octave relative to the coarser one; 1 is the spectrum of photographs (power falls
            as 1 / f squared).
        octaves: number of octaves.
        stretch: scale in y and x.
    """
    rows, cols = int(np.ceil(height / stretch[0])), int(np.ceil(width / stretch[1]))
    side = [-(-(n - 2) // 2**octaves) + 2 for n in (rows, cols)]
    field = noise(rng, (side[0], side[1]))
    amplitude, variance = 1.0, 1.0
    for _ in range(octaves):
        amplitude *= roughness
        variance += amplitude**2
        field = _double(_double(field).T).T
        field += np.float32(amplitude) * noise(rng, field.shape)
    field = field[:rows, :cols] * np.float32(1.3 / variance**0.5)
    if (rows, cols) != (height, width):
        field = np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC))
    return field


def _double(field: Plane) -> Plane:
    """Return 2 n - 2 rows for n rows, by quadratic B-spline subdivision."""
    near, far = field[:-1], field[1:]
    out = np.empty((2 * len(near), field.shape[1]), np.float32)
    step = 0.25 * (far - near)
    np.add(near, step, out=out[0::2])
    np.subtract(far, step, out=out[1::2])
    return out


def _rough(rng: Rng, height: int, width: int, dark: str, light: str, roughness: float, contrast: float) -> Pixels:
    """Draw a plain rough material between two colors, with large stains."""
    grain = fractal(rng, height, width, roughness)
    stain = fractal(rng, height, width, 0.5, octaves=5)
    return mix(color(dark), color(light), 0.5 + contrast * grain + 0.12 * stain)


def sand(rng: Rng, height: int, width: int) -> Pixels:
    dark, light = [("9c7b4f", "e2c795"), ("8d8274", "d3c8b5"), ("a8683f", "dda46f")][rng.integers(3)]
    return _rough(rng, height, width, dark, light, 0.95, 0.22)


def stone(rng: Rng, height: int, width: int) -> Pixels:
    dark, light = [("54585c", "b4b6b4"), ("6d6258", "c4b8aa"), ("3c4650", "8f9ba6")][rng.integers(3)]
    surface = _rough(rng, height, width, dark, light, 0.8, 0.25)
    crack = np.abs(fractal(rng, height, width, 0.6, octaves=6))
    return mix(surface, 0.5 * surface, np.clip(1 - 18 * crack, 0, 1))


def grass(rng: Rng, height: int, width: int) -> Pixels:
    dark, light = [("24401c", "86a844"), ("2c4a2a", "7fb069"), ("4a4a1e", "b8ab5a")][rng.integers(3)]
    blades = np.maximum(
        fractal(rng, height, width, 0.85, octaves=5, stretch=(5, 1)),
        fractal(rng, height, width, 0.85, octaves=5, stretch=(2, 1)),
    )
    patch = fractal(rng, height, width, 0.5, octaves=5)
    return mix(color(dark), color(light), 0.25 + 0.3 * blades + 0.15 * patch)


def wood(rng: Rng, height: int, width: int) -> Pixels:
    """Draw planks with long grain, different tones and dark gaps."""
    if rng.random() < 0.4:
        return wood(rng, width, height).transpose(0, 2, 1)
    dark, light = [("5a3a22", "b98a5a"), ("8a6a48", "dcc09a"), ("33251d", "7d5f4a")][rng.integers(3)]
    grain = fractal(rng, height, width, 0.9, octaves=6, stretch=(1, 14))
    plank = float(rng.uniform(60, 150))
    at = np.arange(height) / plank + rng.random()
    tone = rng.normal(0, 0.14, int(at[-1]) + 2)[at.astype(int)].astype(np.float32)
    gap = np.minimum(at % 1, 1 - at % 1) * plank
    shade = np.clip(gap / 2.5, 0.25, 1).astype(np.float32)
    pores = fractal(rng, height, width, 1.2, octaves=3, stretch=(1, 4))
    return mix(color(dark), color(light), 0.5 + 0.2 * grain + tone[:, None] + 0.07 * pores) * shade[:, None]


def linen(rng: Rng, height: int, width: int) -> Pixels:
    """Draw woven threads, sometimes with stripes."""
    base = [("c9beab", "8d8271"), ("7a90a8", "4a6078"), ("b5756a", "7d4540"), ("e4dfd3", "b0a893")][rng.integers(4)]
    pitch = float(rng.uniform(2.5, 4))
    warp = np.abs((np.arange(width) / pitch) % 1 - 0.5).astype(np.float32)
    weft = np.abs((np.arange(height) / pitch) % 1 - 0.5).astype(np.float32)
    fibre = fractal(rng, height, width, 0.9, octaves=5)
    fold = fractal(rng, height, width, 0.4, octaves=5)
    t = 0.15 + 0.7 * (warp[None] + weft[:, None]) + 0.13 * fibre + 0.16 * fold
    if rng.random() < 0.4:
        t = t + 0.35 * ((np.arange(width) // int(rng.integers(18, 40))) % 2)[None]
    return mix(color(base[0]), color(base[1]), t)


def tiles(rng: Rng, height: int, width: int) -> Pixels:
    """Draw glazed tiles with slightly different tones, and grout between them."""
    dark, light = [("3f6b72", "8fb9b5"), ("a35a3c", "d59a70"), ("b9b3a6", "ece7dc"), ("35507d", "7e9bc4")][
        rng.integers(4)
    ]
    side = float(rng.uniform(50, 130))
    y, x = np.arange(height) / side + rng.random(), np.arange(width) / side + rng.random()
    tone = rng.normal(0, 0.15, (int(y[-1]) + 2, int(x[-1]) + 2)).astype(np.float32)
    tone = tone[y.astype(int)[:, None], x.astype(int)[None]]
    gap = np.minimum(np.minimum(y % 1, 1 - y % 1)[:, None], np.minimum(x % 1, 1 - x % 1)[None]) * side
    grout = np.clip(2.5 - gap, 0, 1).astype(np.float32)
    glaze = fractal(rng, height, width, 0.8, octaves=7)
    tile = mix(color(dark), color(light), 0.5 + tone + 0.16 * glaze)
    return mix(tile, color("6f6a62") * (1 + 0.2 * glaze), grout)


def paper(rng: Rng, height: int, width: int) -> Pixels:
    dark, light = [("d9d2c2", "fffaf0"), ("c4ccd2", "f4f8fa"), ("c79a78", "ecc9a8"), ("55606e", "8592a0")][
        rng.integers(4)
    ]
    return _rough(rng, height, width, dark, light, 0.8, 0.12)


SURFACES: tuple[Callable[[Rng, int, int], Pixels], ...] = (sand, stone, grass, wood, linen, tiles, paper)
