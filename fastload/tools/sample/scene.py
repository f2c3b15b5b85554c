"""One generated image: objects on a surface seen from above, with the visible part of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from fastload.tools.sample.shapes import SHAPES, Points
from fastload.tools.sample.surfaces import SURFACES, Pixels, Plane, Rng, fractal, noise

# The most common image sizes in COCO, with their approximate shares.
SIZES = ((640, 480), (640, 427), (480, 640), (500, 375), (427, 640), (612, 612), (640, 360), (375, 500), (640, 640))
SIZE_SHARES = (0.32, 0.24, 0.12, 0.12, 0.08, 0.03, 0.04, 0.03, 0.02)
CLASS_SHARES = np.array([0.2, 0.15, 0.15, 0.13, 0.12, 0.1, 0.08, 0.07])  # of SHAPES: uneven, like those of COCO
SUPERSAMPLE = 4
Window = tuple[int, int, int, int]  # of pixels: x0, y0, x1, y1
Light = tuple[float, float]  # unit vector in x and y toward the lamp


class Kind(Enum):
    """The content of an image. USUAL has numbers of objects like those of COCO images."""

    USUAL = "usual"
    EMPTY = "empty"
    CROWDED = "crowded"
    HEAP = "heap"  # usual, and many overlapping objects of one class, annotated as a crowd


@dataclass
class Thing:
    """An object in a scene."""

    label: int  # of SHAPES
    points: Points  # the outline, in pixels of the image
    inverse: NDArray[np.float64]  # (2, 3) from pixels x, y, 1 to the object's u, v
    radius: float
    heap: bool
    window: Window = (0, 0, 0, 0)  # the pixels of `cover` and `visible`
    cover: Plane | None = None  # the covered fraction of each pixel
    visible: Plane | None = None  # the covered fraction without objects on top


@dataclass
class Scene:
    """An image and its objects from bottom to top, with `cover` and `visible` set."""

    pixels: NDArray[np.uint8]  # (H, W, 3) RGB
    things: list[Thing]


def make_scene(rng: Rng, kind: Kind) -> Scene:
    """Draw an image of a kind. The same generator state gives the same image."""
    width, height = SIZES[rng.choice(len(SIZES), p=SIZE_SHARES)]
    things = _arrange(rng, kind, width, height)
    angle = rng.uniform(0, 2 * np.pi)
    light = float(np.cos(angle)), float(np.sin(angle))
    canvas = SURFACES[rng.integers(len(SURFACES))](rng, height, width)
    for _ in range(rng.choice(4, p=(0.45, 0.3, 0.15, 0.1))):
        _lay_sheet(rng, canvas, light)
    for thing in things:
        _lay(rng, canvas, thing, light)
    _find_visible(things, height, width)
    _light(rng, canvas, light)
    return Scene(_photograph(rng, canvas), [thing for thing in things if thing.visible is not None])


def _arrange(rng: Rng, kind: Kind, width: int, height: int) -> list[Thing]:
    """Choose classes, sizes and positions, with the largest objects mostly at the bottom."""
    count = int(np.clip(np.rint(rng.lognormal(np.log(5), 0.85)), 1, 40))
    if kind is Kind.EMPTY:
        return []
    if kind is Kind.CROWDED:
        count = int(rng.integers(25, 46))
    present = rng.choice(len(SHAPES), min(count, int(rng.integers(1, 5))), replace=False, p=CLASS_SHARES)
    shares = CLASS_SHARES[present] / CLASS_SHARES[present].sum()
    middle = np.log(72) - 0.42 * np.log(count / 5)
    sides = np.exp(rng.normal(middle, 1.15, count)).clip(5, 0.75 * min(width, height))
    sides = sides[np.argsort(-sides * rng.lognormal(0, 0.3, count), kind="stable")]
    things = []
    for side in sides:
        center = rng.uniform((0, 0), (width, height))
        things.append(_thing(rng, int(rng.choice(present, p=shares)), side, center))
    return things + (_heap(rng, width, height) if kind is Kind.HEAP else [])


def _heap(rng: Rng, width: int, height: int) -> list[Thing]:
    label = int(rng.choice(len(SHAPES), p=CLASS_SHARES))
    center = rng.uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height))
    side = rng.uniform(12, 36)
    spread = side * rng.uniform(1, 2.5, 2)
    return [
        _thing(rng, label, side * rng.lognormal(0, 0.15), rng.normal(center, spread), heap=True)
        for _ in range(rng.integers(20, 50))
    ]


def _thing(rng: Rng, label: int, side: float, center: NDArray[np.float64], heap: bool = False) -> Thing:
    """Return an object with an area of about side ** 2, rotated at random and slightly stretched."""
    outline = SHAPES[label].outline()
    x, y = outline.T
    unit_area = abs(0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
    radius = side / unit_area**0.5
    turn, squeeze = rng.uniform(0, 2 * np.pi), rng.lognormal(0, 0.06)
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    forward = rotate @ np.diag([radius * squeeze, radius / squeeze])
    inverse = np.linalg.inv(forward)
    inverse = np.concatenate([inverse, -(inverse @ center)[:, None]], 1)
    return Thing(label, outline @ forward.T + center, inverse, float(radius), heap)


def _lay(rng: Rng, canvas: Pixels, thing: Thing, light: Light) -> None:
    """Paint an object with its shadow and a rim shaded by the light."""
    lift = 1.5 + 0.1 * thing.radius
    window = _window(thing.points, 3 * lift, canvas)
    if window is None:
        return
    shape = SHAPES[thing.label]
    cover = _coverage(thing.points, window)
    x, y = _pixel_centers(window)
    u, v = ((row[0] * x + row[1] * y + row[2]).astype(np.float32) for row in thing.inverse)
    paint = shape.paint(rng, u, v) * _rim(cover, shape.relief * thing.radius, light)
    paint *= 1 + rng.uniform(0.02, 0.07) * fractal(rng, len(cover), len(cover[0]), roughness=1.0, octaves=3)
    _compose(canvas, window, cover, paint, light, lift)
    thing.window, thing.cover = window, cover


def _lay_sheet(rng: Rng, canvas: Pixels, light: Light) -> None:
    """Paint a sheet of another material: background edges that belong to no category."""
    height, width = canvas.shape[1:]
    half = rng.uniform(0.12, 0.45, 2) * min(height, width)
    turn = rng.uniform(0, np.pi)
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = (np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half) @ rotate.T + rng.uniform((0, 0), (width, height))
    window = _window(corners, 12, canvas)
    if window is None:
        return
    cover = _coverage(corners, window)
    material = SURFACES[rng.integers(len(SURFACES))](rng, *cover.shape)
    _compose(canvas, window, cover, material, light, rng.uniform(1, 5))


def _window(points: Points, margin: float, canvas: Pixels) -> Window | None:
    """Return the pixels around an outline, clipped to the image; None if nothing is left."""
    low = np.maximum(np.floor(points.min(0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(points.max(0) + margin), canvas.shape[:0:-1]).astype(int)
    return (int(low[0]), int(low[1]), int(high[0]), int(high[1])) if (high - low > 1).all() else None


def _coverage(points: Points, window: Window) -> Plane:
    """Return the fraction of each pixel in the window that the outline covers, 0 to 1."""
    x0, y0, x1, y1 = window
    image = Image.new("L", ((x1 - x0) * SUPERSAMPLE, (y1 - y0) * SUPERSAMPLE))
    inner = (points - (x0, y0)) * SUPERSAMPLE - 0.5
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in inner], fill=255)
    return np.asarray(image.reduce(SUPERSAMPLE), np.float32) / 255


def _pixel_centers(window: Window) -> tuple[Plane, Plane]:
    x0, y0, x1, y1 = window
    return np.arange(x0, x1)[None] + 0.5, np.arange(y0, y1)[:, None] + 0.5


def _blur(plane: Plane, radius: float) -> Plane:
    image = Image.fromarray((plane * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _rim(cover: Plane, reach: float, light: Light) -> Plane:
    """Return the brightness of a rounded rim: the slope of the blurred cover toward the light."""
    reach = max(reach, 0.7)
    height = _blur(cover, reach)
    slope = np.zeros_like(height)
    slope[:, 1:-1] -= light[0] * (height[:, 2:] - height[:, :-2])
    slope[1:-1] -= light[1] * (height[2:] - height[:-2])
    return np.asarray(1 + np.clip(0.7 * reach * slope, -0.5, 0.6))


def _compose(canvas: Pixels, window: Window, cover: Plane, paint: Pixels, light: Light, lift: float) -> None:
    """Paint on the canvas with the opacity `cover`, over a shadow as of an object `lift` pixels high."""
    x0, y0, x1, y1 = window
    under = canvas[:, y0:y1, x0:x1]
    shadow = _blur(_shifted(cover, round(-light[0] * lift), round(-light[1] * lift)), 0.6 * lift)
    under *= 1 - 0.55 * shadow
    under += cover * (paint - under)


def _shifted(plane: Plane, right: int, down: int) -> Plane:
    """Return the plane shifted, with its edge repeated."""
    rows = np.clip(np.arange(plane.shape[0]) - down, 0, plane.shape[0] - 1)
    cols = np.clip(np.arange(plane.shape[1]) - right, 0, plane.shape[1] - 1)
    return plane[rows[:, None], cols[None]]


def _find_visible(things: list[Thing], height: int, width: int) -> None:
    """Set the visible part of each object, from top to bottom."""
    free = np.ones((height, width), np.float32)
    for thing in reversed(things):
        if thing.cover is None:
            continue
        x0, y0, x1, y1 = thing.window
        thing.visible = thing.cover * free[y0:y1, x0:x1]
        free[y0:y1, x0:x1] -= thing.visible


def _light(rng: Rng, canvas: Pixels, light: Light) -> None:
    """Apply the falloff and color of the light, dappled shade and vignetting."""
    height, width = canvas.shape[1:]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    falloff = rng.uniform(0.05, 0.4) * (light[0] * x + light[1] * y)
    brightness = 1 + falloff - rng.uniform(0.02, 0.14) * (x * x + y * y)
    if rng.random() < 0.25:
        leaves = fractal(rng, height, width, 0.5, octaves=int(rng.integers(5, 8)))
        brightness *= 1 - rng.uniform(0.2, 0.45) * np.clip(0.2 + 0.9 * leaves, 0, 1)
    warmth = rng.normal(0, 0.06)
    tint = np.array([1 + warmth, 1, 1 - warmth], np.float32).reshape(3, 1, 1)
    canvas *= brightness * (tint * rng.uniform(0.9, 1.2))


def _photograph(rng: Rng, canvas: Pixels) -> NDArray[np.uint8]:
    """Add sensor noise that grows with the light, and round to 8 bits."""
    iso = rng.lognormal(np.log(0.005), 0.9)
    grain = noise(rng, canvas.shape)
    grain *= np.sqrt(np.maximum(canvas, 0.05))
    canvas += iso * grain
    canvas *= 255
    canvas += 0.5
    return np.ascontiguousarray(np.clip(canvas, 0, 255, out=canvas).astype(np.uint8).transpose(1, 2, 0))
