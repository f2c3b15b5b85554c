"""The appearance of the categories: an outline and a coloring in object coordinates.

Object coordinates u (right) and v (down) are in units of the object's radius. Outlines are (N, 2) points u, v.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.tools.sample.surfaces import Pixels, Plane, Rng, color, mix

Points = NDArray[np.float64]  # (N, 2)


@dataclass(frozen=True)
class Shape:
    """A category. `relief` is the width of the rounded rim in radii."""

    name: str
    supercategory: str
    outline: Callable[[], Points]
    paint: Callable[[Rng, Plane, Plane], Pixels]
    relief: float = 0.2


def _circle(n: int = 48) -> Points:
    return _polar(lambda t: 1.0, n)


def _polar(radius: Callable[[Plane], Any], n: int = 96) -> Points:
    t = np.arange(n) * (2 * np.pi / n)
    return np.asarray((np.stack([np.cos(t), np.sin(t)]) * radius(t)).T)


def _mirrored(upper: list[tuple[float, float]]) -> Points:
    """Return a closed outline from its upper half, given from left to right."""
    half = np.array(upper)
    return np.concatenate([half, half[::-1] * (1, -1)])


def _soft(corners: Points, rounds: int = 2) -> Points:
    """Round corners by Chaikin's corner cutting."""
    for _ in range(rounds):
        after = np.roll(corners, -1, 0)
        corners = np.stack([0.75 * corners + 0.25 * after, 0.25 * corners + 0.75 * after], 1).reshape(-1, 2)
    return corners


def _pick(rng: Rng, *pairs: tuple[str, str]) -> tuple[Pixels, Pixels]:
    """Choose a pair of colors, varied slightly so that no two objects look the same."""
    first, second = pairs[rng.integers(len(pairs))]
    tint = rng.uniform(0.85, 1.12, (2, 3, 1, 1)).astype(np.float32)
    return color(first) * tint[0], color(second) * tint[1]


def _smooth(x: Plane, edge: float, width: float) -> Plane:
    """Return a ramp from 0 below `edge` to 1 above, over `width`."""
    return np.asarray(np.clip((x - edge) / width + 0.5, 0, 1))


def _ball(rng: Rng, u: Plane, v: Plane) -> Pixels:
    """A beach ball: a sphere with six segments around a tilted pole."""
    first, second = _pick(rng, ("e0352b", "f5f2e8"), ("2468c8", "f8d038"), ("1f9d6b", "f5f2e8"), ("f28a1e", "2f4fa8"))
    depth = np.sqrt(np.maximum(1 - u * u - v * v, 0))
    x, y = u + 0.35 * depth, v - 0.45 * depth
    sector = np.sin(3 * np.arctan2(y, x))
    skin = mix(first, second, _smooth(sector, 0, 0.12))
    skin = mix(skin, color("f7f4ec"), _smooth(-(x * x + y * y), -0.02, 0.015))
    return skin * (0.35 + 0.7 * depth)


def _star(rng: Rng, u: Plane, v: Plane) -> Pixels:
    """Ten facets, alternately light and dark."""
    base, shade = _pick(rng, ("f6c21a", "c07a08"), ("e8542c", "962410"), ("f2e6c0", "b49a60"))
    facet = np.sin(5 * np.arctan2(u, -v))
    return mix(shade, base, 0.35 + 0.55 * _smooth(facet, 0, 0.2))


def _leaf(rng: Rng, u: Plane, v: Plane) -> Pixels:
    """A midrib along u and slanted side veins."""
    base, vein = _pick(rng, ("4f8f2e", "c3d98a"), ("2f6b3a", "9fc98f"), ("c8641e", "f0c070"), ("b03a24", "eaa860"))
    side = np.abs((4.5 * (u - 0.9 * np.abs(v))) % 1 - 0.5)
    lines = np.maximum(_smooth(-side, -0.06, 0.08) * 0.55, _smooth(-np.abs(v), -0.025, 0.03))
    return mix(base * (1 + 0.25 * v), vein, lines)


def _flower(rng: Rng, u: Plane, v: Plane) -> Pixels:
    """Six petals that get paler outward, around a yellow center."""
    base, tip = _pick(rng, ("c22a78", "f7a8cc"), ("7a3fb8", "d8b8f4"), ("e8e4f0", "ffffff"), ("d8402c", "ffb090"))
    radius = np.hypot(u, v)
    between = np.cos(6 * np.arctan2(v, u))
    petals = mix(base, tip, np.clip(radius, 0, 1)) * (1 - 0.35 * _smooth(-between, 0.55, 0.5))
    heart = mix(color("f4c81e"), color("a86a10"), 0.5 + 0.5 * np.sin(40 * u) * np.sin(40 * v))
    return mix(petals, heart, _smooth(-radius, -0.27, 0.04))


def _fish(rng: Rng, u: Plane, v: Plane) -> Pixels:
    """Vertical bands, a pale belly and an eye."""
    base, band = _pick(rng, ("f07818", "fff4e4"), ("3878b8", "d8ecf4"), ("7c8c98", "2c3c4c"), ("e8c82c", "28343c"))
    wave = np.sin(7.5 * u + 1.2 * np.abs(v))
    skin = mix(base, band, _smooth(wave, 0.45, 0.35)) * (1 - 0.35 * v)
    eye = np.hypot(u + 0.66, v + 0.08)
    return mix(mix(skin, color("ffffff"), _smooth(-eye, -0.1, 0.02)), color("101418"), _smooth(-eye, -0.055, 0.02))


def _butterfly(rng: Rng, u: Plane, v: Plane) -> Pixels:
    """Dark margins with pale spots, and a dark body along v."""
    wing, margin = _pick(rng, ("f08c1c", "2a1810"), ("3c90e0", "0c1c3c"), ("f4e8a0", "504020"), ("c83c50", "281020"))
    radius = np.hypot(np.abs(u) - 0.42, np.abs(v) - 0.2)
    skin = mix(wing * (1 - 0.25 * radius), margin, _smooth(radius, 0.36, 0.1))
    spots = np.sin(11 * np.abs(u) + 2) * np.sin(11 * v + 1)
    skin = mix(skin, color("fdf6e8"), _smooth(spots, 0.8, 0.15) * _smooth(radius, 0.4, 0.05))
    return mix(skin, color("181210"), _smooth(-np.abs(u), -0.06, 0.03) * _smooth(-np.abs(v), -0.62, 0.05))


def _gear(rng: Rng, u: Plane, v: Plane) -> Pixels:
    """Lathed metal with a dark bore and a groove."""
    metal, sheen = _pick(rng, ("6e747a", "d4dade"), ("8a6a34", "e8c888"), ("7a5648", "dca890"))
    radius = np.hypot(u, v)
    turning = 0.5 + 0.28 * np.sin(2 * np.arctan2(v, u) + 0.6)
    face = mix(metal, sheen, turning + 0.12 * np.sin(60 * radius))
    groove = _smooth(-np.abs(radius - 0.52), -0.05, 0.03)
    bore = _smooth(-radius, -0.24, 0.03)
    return mix(face * (1 - 0.55 * groove), color("1a1c20"), bore)


def _bottle(rng: Rng, u: Plane, v: Plane) -> Pixels:
    """A glass bottle along u with a highlight, a label and a cap."""
    glass, label = _pick(rng, ("1e5a34", "f0e8d0"), ("6a3a14", "f4f0e4"), ("24507c", "e4ecf0"), ("7c1c28", "ecdcc0"))
    across = v / 0.29
    body: Pixels = glass * (1.25 - 0.7 * across * across)
    body = mix(body, color("ffffff"), 0.7 * _smooth(-np.abs(across + 0.45), -0.1, 0.1))
    text = _smooth(-np.abs(np.abs(u + 0.42) - 0.2), -0.03, 0.02)
    paper = mix(label, glass, text) * (1.1 - 0.35 * np.abs(across))
    body = mix(body, paper, _smooth(-np.abs(u + 0.42), -0.3, 0.02))
    return mix(body, color("c8a040") * (1 - 0.4 * across), _smooth(u, 0.84, 0.02))


def _gear_outline() -> Points:
    return _polar(lambda t: 0.9 + 0.14 * np.clip(3 * np.sin(10 * t), -1, 1), 160)


def _star_outline() -> Points:
    return _polar(lambda t: np.where(np.arange(10) % 2, 0.45, 1.0), 10)[:, ::-1] * (1, -1)


def _leaf_outline() -> Points:
    u = np.linspace(-1, 1, 40)
    edge = 0.46 * (1 - u**2) ** 0.8 * (1 - 0.25 * u) + 0.018 * (np.arange(40) % 2)
    upper = [(-1.3, -0.025), *zip(u, -edge - 0.025, strict=True)]
    return _mirrored(upper)


def _fish_outline() -> Points:
    body = [(-0.9, 0.0), (-0.84, 0.12), (-0.7, 0.24), (-0.45, 0.36), (-0.15, 0.4), (0.15, 0.34), (0.42, 0.2)]
    fin = [(0.6, 0.1), (0.78, 0.26), (1.0, 0.42), (0.93, 0.2), (0.9, 0.0)]
    return _soft(_mirrored([(x, -y) for x, y in body + fin]))


def _bottle_outline() -> Points:
    body = [(-1.0, 0.0), (-0.99, 0.25), (-0.95, 0.29), (0.2, 0.29), (0.32, 0.27), (0.42, 0.21), (0.5, 0.14)]
    neck = [(0.58, 0.1), (0.86, 0.09), (0.87, 0.12), (1.0, 0.12), (1.0, 0.0)]
    return _mirrored([(x, -y) for x, y in body + neck])


def _butterfly_outline() -> Points:
    right = [(0.0, -0.3), (0.06, -0.5), (0.3, -0.74), (0.62, -0.84), (0.94, -0.76), (1.0, -0.6), (0.9, -0.3)]
    right += [(0.7, -0.06), (0.58, 0.02), (0.76, 0.14), (0.84, 0.38), (0.74, 0.64), (0.52, 0.76), (0.28, 0.62)]
    right += [(0.1, 0.3), (0.04, 0.6), (0.0, 0.64)]
    half = np.array(right)
    return _soft(np.concatenate([half, half[::-1] * (-1, 1)]))


SHAPES = (
    Shape("ball", "toy", _circle, _ball, relief=0.05),
    Shape("star", "toy", _star_outline, _star, relief=0.12),
    Shape("leaf", "plant", _leaf_outline, _leaf, relief=0.1),
    Shape("flower", "plant", lambda: _polar(lambda t: 0.74 + 0.26 * np.cos(6 * t)), _flower, relief=0.12),
    Shape("fish", "animal", _fish_outline, _fish, relief=0.3),
    Shape("butterfly", "animal", _butterfly_outline, _butterfly, relief=0.06),
    Shape("gear", "hardware", _gear_outline, _gear, relief=0.06),
    Shape("bottle", "hardware", _bottle_outline, _bottle, relief=0.12),
)
