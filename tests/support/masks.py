"""Masks in NumPy and by pycocotools: the oracles of the core's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from fastload import _core
from fastload.engines.reference import covered
from fastload.masks import DrawnMasks, Masks, draw_masks
from fastload.plan.batch_plan import ADJUST, BatchPlan
from fastload.plan.masks import MaskPlan, MaskSettings


def fill_rings(rings: Sequence[NDArray[Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The union (H, W) of polygons on a canvas `size` (width, height), by pycocotools."""
    width, height = size
    lists = [np.asarray(ring, np.float64).ravel().tolist() for ring in rings if len(ring) > 2]
    if not lists:
        return np.zeros((height, width), np.bool_)
    return coco.decode(coco.merge(coco.frPyObjects(lists, height, width))).astype(np.bool_)


def warp_mask(mask: NDArray[np.bool_], matrix: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (h, w) on a canvas `size` (width, height): each pixel's center samples the nearest source pixel.

    Args:
        mask: (h, w).
        matrix: (2, 3) source to canvas.
        size: width and height of the canvas.
    """
    (a, b, c), (d, e, f) = matrix.astype(np.float64)
    across, down = np.arange(size[0])[None] + 0.5, np.arange(size[1])[:, None] + 0.5
    determinant = a * e - b * d
    u = e / determinant * across + (b * f - e * c) / determinant + -b / determinant * down
    v = a / determinant * down + (d * c - a * f) / determinant + -d / determinant * across
    x, y = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    height, width = mask.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    warped: NDArray[np.bool_] = inside & mask[y.clip(0, height - 1), x.clip(0, width - 1)]
    return warped


def visible(plan: BatchPlan, row: int) -> NDArray[np.bool_]:
    """The pixels (H, W) of its canvas where a row of a plan without layers is not under a later one."""
    assert plan.layer is None
    seen = covered(plan, row)
    for later in range(row + 1, len(plan.index)):
        is_opaque = plan.alpha is None or plan.alpha[later] == 1
        if plan.slot[later] == plan.slot[row] and is_opaque and plan.index[later] != ADJUST:
            seen &= ~covered(plan, later)
    return seen


def shapes_of(
    polygons: Sequence[Sequence[Any]], run_lengths: Sequence[bytes] = (), size: tuple[int, int] = (1, 1)
) -> _core.MaskShapes:
    """The shapes of the objects of one image of `size` (width, height). Objects without polygons have run lengths."""
    rings = [np.asarray(ring, np.float32).reshape(-1, 2) for each in polygons for ring in each]
    data = [*run_lengths, *[b""] * (len(polygons) - len(run_lengths))]
    return _core.MaskShapes(
        np.array([0, len(polygons)]),
        np.array([size], np.int32),
        (np.concatenate([np.zeros((0, 2), np.float32), *rings]), _offsets(polygons), _offsets(rings)),
        (np.frombuffer(b"".join(data), np.uint8), _offsets(data)),
    )


def draw(
    shapes: _core.MaskShapes,
    count: int,
    plan: BatchPlan,
    stride: int = 1,
    rows: Sequence[int] | None = None,
) -> tuple[NDArray[np.uint8], DrawnMasks, dict[int, str]]:
    """Masks (count, H, W) of a placed plan of one batch, as they are drawn, and failures. `rows` default to 0."""
    settings = MaskSettings(stride, measured=True)
    objects = np.arange(count)
    masks = MaskPlan(shapes, objects, np.array(rows if rows is not None else [0] * count, np.int64), settings)
    drawn, failures = draw_masks(plan, masks)
    return Masks(drawn.bits, (0, count), settings.size(plan.canvas))[0].numpy(), drawn, failures


def plan_of(size: tuple[int, int], canvas: tuple[int, int] | None = None) -> BatchPlan:
    """A placed plan that shows an image of `size` (width, height) in the corner of a canvas."""
    plan = BatchPlan.of(np.array([0]), np.array([size], np.int32))
    plan.place(canvas or size, np.zeros((1, 2), np.int32), np.zeros(3, np.uint8))
    return plan


def _offsets(lists: Sequence[Any]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, lists)])
