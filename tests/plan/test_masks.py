"""Masks on canvases, against pycocotools, and against the maps that boxes and points go through."""

from __future__ import annotations

import numpy as np
import pytest

from fastload.plan.geometry import map_points
from fastload.plan.masks import fill_rings, warp_mask

coco = pytest.importorskip("pycocotools.mask")
SIZE = (90, 70)


def blob(seed: int, points: int = 12, center: tuple[float, float] = (45, 35), radius: float = 30) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    reach = rng.uniform(0.3, 1, points) * radius
    return np.stack([center[0] + reach * np.cos(angles), center[1] + reach * np.sin(angles)], 1).astype(np.float32)


def near(mask: np.ndarray) -> np.ndarray:
    """Where a pixel of the other kind is among the eight neighbors of a pixel."""
    padded = np.pad(mask, 1, mode="edge")
    height, width = mask.shape
    parts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.any(parts, 0) & ~np.all(parts, 0)


@pytest.mark.parametrize("seed", range(20))
def test_polygons_are_those_of_pycocotools(seed):
    """They differ by pixels at the edge only, and hardly in area, also where a ring leaves the canvas."""
    rings = [blob(seed), blob(seed + 100, 5, (70, 20), 40 if seed % 2 else 10)]
    encoded = coco.merge(coco.frPyObjects([ring.ravel().tolist() for ring in rings], SIZE[1], SIZE[0]))
    expected = coco.decode(encoded).astype(bool)
    mask = fill_rings(rings, SIZE)
    assert not ((mask != expected) & ~near(expected) & ~near(mask)).any()
    assert mask.sum() == pytest.approx(expected.sum(), rel=0.03)


def test_rings_of_whole_pixels_are_exact():
    """A rectangle covers its pixels; a self-crossing ring is even-odd; degenerate and empty rings cover none."""
    rectangle = np.array([[10, 5], [20, 5], [20, 8], [10, 8]], np.float32)
    expected = np.zeros(SIZE[::-1], bool)
    expected[5:8, 10:20] = True
    assert (fill_rings([rectangle, rectangle], SIZE) == expected).all()
    assert (fill_rings([rectangle[::-1]], SIZE) == expected).all()
    assert not fill_rings([np.concatenate([rectangle, rectangle])], SIZE).any()
    for ring in (rectangle[:0], rectangle[:1], rectangle[:2], rectangle + 500, rectangle - 500):
        assert not fill_rings([ring], SIZE).any()
    huge = np.array([[-1e6, -1e6], [1e6, -1e6], [1e6, 1e6], [-1e6, 1e6]], np.float32)
    assert fill_rings([huge], SIZE).all()


@pytest.mark.parametrize(
    "matrix", [[[1, 0, 0], [0, 1, 0]], [[-0.5, 0, 60], [0, 0.7, 3]], [[0.8, -0.4, 20], [0.4, 0.8, -10]]], ids=str
)
def test_masks_move_as_points_do(matrix):
    """The mask of a moved polygon is the moved mask of the polygon, but for pixels at the edge."""
    moved = np.array(matrix, np.float32)
    ring = blob(3, 20)
    warped = warp_mask(fill_rings([ring], (120, 100)), moved, SIZE)
    expected = fill_rings([map_points(moved[None], ring)], SIZE)
    assert not ((warped != expected) & ~near(expected) & ~near(warped)).any() and expected.sum() > 100
    if matrix[0][0] == 1:
        assert (warped == expected).all()


def test_masks_beyond_the_canvas_are_empty():
    """Nothing of them is seen; an empty mask stays empty."""
    mask = np.ones((10, 10), bool)
    assert not warp_mask(mask, np.array([[1, 0, 500], [0, 1, 0]], np.float32), SIZE).any()
    assert not warp_mask(mask & False, np.eye(2, 3, dtype=np.float32), SIZE).any()
