"""Masks on a canvas: from polygons, and from masks of the source image. Slow and simple."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.plan import geometry


def fill_rings(rings: Sequence[NDArray[Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the union (H, W) of rings, each the pixels whose centers are inside by the even-odd rule.

    Args:
        rings: (k, 2) x, y in pixels; they may lie outside.
        size: width and height.
    """
    width, height = size
    mask = np.zeros((height, width), np.bool_)
    for ring in rings:
        (xa, ya), (xb, yb) = ring.T.astype(np.float64), np.roll(ring, -1, 0).T.astype(np.float64)
        # An edge crosses the centers of the rows `first` to `last` - 1.
        first, last = (np.ceil(end(ya, yb) - 0.5).clip(0, height).astype(np.int64) for end in (np.minimum, np.maximum))
        edge = np.repeat(np.arange(len(ring)), last - first)
        if not len(edge):
            continue
        rows = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
        slope = (xb[edge] - xa[edge]) / (yb[edge] - ya[edge])
        x = xa[edge] + (rows + 0.5 - ya[edge]) * slope
        columns = np.ceil(x - 0.5).clip(0, width).astype(np.int64)  # the first column to the right of the crossing
        top, left = rows.min(), columns.min()
        inside = np.zeros((rows.max() + 1 - top, columns.max() + 1 - left), np.bool_)
        np.logical_xor.at(inside, (rows - top, columns - left), True)
        np.logical_xor.accumulate(inside, axis=1, out=inside)
        mask[top : top + inside.shape[0], left : left + inside.shape[1]] |= inside[:, : width - left]
    return mask


def warp_mask(mask: NDArray[np.bool_], matrix: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask (h, w) of the source on a canvas (H, W): each pixel's center samples the nearest source pixel.

    Args:
        mask: (h, w).
        matrix: (2, 3) source to canvas.
        size: width and height of the canvas.
    """
    warped = np.zeros(size[::-1], np.bool_)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return warped
    box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
    reach = geometry.map_boxes(matrix[None], box)[0].clip(0, np.tile(size, 2))
    (x0, y0), (x1, y1) = np.floor(reach[:2]).astype(int), np.ceil(reach[2:]).astype(int)
    across, down = np.arange(x0, x1)[None] + 0.5, np.arange(y0, y1)[:, None] + 0.5
    (xx, xy, x_start), (yx, yy, y_start), _ = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]).astype(np.float64))
    u, v = xx * across + x_start, yy * down + y_start
    if xy or yx:  # else a row and a column of positions are enough
        u, v = u + xy * down, v + yx * across
    x, y = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    height, width = mask.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    warped[y0:y1, x0:x1] = inside & mask[y.clip(0, height - 1), x.clip(0, width - 1)]
    return warped
