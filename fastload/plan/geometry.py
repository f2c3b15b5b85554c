"""The geometry of a plan's rows: maps from source pixels to canvas pixels, and their inverses.

A map is a matrix (2, 3): (x, y) is mapped to matrix[:, :2] @ (x, y) + matrix[:, 2]. Coordinates are continuous: a pixel
covers [x, x + 1), so its center is at x + 0.5. `map_points`, `unmap_points` and `corners_of` accept NumPy arrays and
torch tensors. `csrc/render/geometry.h` has the same formulas, with bit-identical results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = TypeVar("Array", NDArray[Any], Any)  # or a torch tensor
ROUNDING = 1e-3  # pixels by which the position of a point may be off
CORNERS = [0, 1, 2, 1, 0, 3, 2, 3]  # x, y of each corner, as positions in (x0, y0, x1, y1)


def aligned_matrix(crop: NDArray[np.float32], clip: NDArray[np.int32], flip: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the maps (N, 2, 3) from `crop` to `clip`, both (N, 4) x, y, w, h, mirrored where `flip` (N) is set."""
    matrix = np.zeros((len(crop), 2, 3), np.float32)
    for axis in (0, 1):
        scale, start = matrix[:, axis, axis], matrix[:, axis, 2]
        scale[:] = clip[:, axis + 2] / crop[:, axis + 2]
        if axis == 0:
            np.copyto(scale, -scale, where=flip)
        start[:] = clip[:, axis] - crop[:, axis] * scale
    matrix[:, 0, 2] += flip * clip[:, 2]
    return matrix


def map_points(matrix: Array, points: Array) -> Array:
    """Map points (..., 2) x, y by maps (..., 2, 3)."""
    x, y = points[..., :1], points[..., 1:]
    mapped: Array = matrix[..., 0] * x + matrix[..., 1] * y + matrix[..., 2]
    return mapped


def unmap_points(matrix: Array, points: Array) -> Array:
    """Map points by the inverses of maps: the inverse of `map_points`. Not finite where a map has no inverse."""
    determinant = matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    moved = points - matrix[..., 2]
    adjugate = moved * matrix[..., [1, 0], [1, 0]] - moved[..., [1, 0]] * matrix[..., [0, 1], [1, 0]]
    unmapped: Array = adjugate / determinant[..., None]
    return unmapped


def corners_of(boxes: Array) -> Array:
    """Return the four corners (..., 4, 2) of boxes (..., 4) x0, y0, x1, y1."""
    corners: Array = boxes[..., CORNERS].reshape(*boxes.shape[:-1], 4, 2)
    return corners


def bounds_of(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the smallest boxes (..., 4) around points (..., n, 2)."""
    return np.concatenate([points.min(-2), points.max(-2)], -1)


def map_boxes(matrix: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map boxes (M, 4) by maps (M, 2, 3) and return the smallest boxes (M, 4) around the results."""
    return bounds_of(map_points(matrix[:, None], corners_of(boxes)))


def unmap_boxes(matrix: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map boxes (M, 4) by the inverses of maps (M, 2, 3) and return the smallest boxes (M, 4) around the results."""
    return bounds_of(unmap_points(matrix[:, None], corners_of(boxes)))


def move(moves: str, matrix: NDArray[np.float32], values: NDArray[Any]) -> NDArray[Any]:
    """Map the values (M, ...) of a column by maps (M, 2, 3), without clipping.

    Args:
        moves: the `Column.moves` of the column, not "none".
        matrix: (M, 2, 3) maps.
        values: (M, ...) values. Points of visibility 0 stay (0, 0, 0).
    """
    matrix = matrix.reshape(len(matrix), *[1] * (values.ndim - 2), 2, 3)
    if moves == "box":
        return bounds_of(map_points(matrix[..., None, :, :], corners_of(values))).astype(values.dtype)
    if moves == "area":
        scale = np.abs(np.linalg.det(matrix[..., :2]))
        areas: NDArray[Any] = (values * scale.reshape(len(values), *[1] * (values.ndim - 1))).astype(values.dtype)
        return areas
    points: NDArray[Any] = np.concatenate([map_points(matrix, values[..., :2]), values[..., 2:]], -1).astype(
        values.dtype
    )
    return np.where(values[..., 2:] == 0, 0, points) if values.shape[-1] == 3 else points


def clear_hidden(
    points: NDArray[Any], source: NDArray[Any], crop: NDArray[np.float32], clip: NDArray[np.int32]
) -> NDArray[Any]:
    """Return points as they are seen: (0, 0, 0), unlabeled, where the rows that show their sources do not show them.

    A point on the very edge is shown, as in Detectron2.

    Args:
        points: (M, ..., 3) x, y, visibility on the canvas.
        source: (M, ..., 3) the same points in their sources.
        crop: (M, 4) x, y, w, h of the visible part of each source.
        clip: (M, 4) x, y, w, h of the part of the canvas that shows it.
    """
    shape = len(points), *[1] * (points.ndim - 2), 4
    shown = _within(crop.reshape(shape), source[..., :2]) & _within(clip.reshape(shape), points[..., :2])
    return np.where(shown[..., None], points, 0)


def _within(box: NDArray[Any], points: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether points (..., 2) lie in boxes (..., 4) x, y, w, h, but for rounding errors."""
    start, end = box[..., :2] - ROUNDING, box[..., :2] + box[..., 2:] + ROUNDING
    within: NDArray[np.bool_] = ((points >= start) & (points <= end)).all(-1)
    return within


def exchange(points: NDArray[Any], matrix: NDArray[np.float32], order: Sequence[int]) -> NDArray[Any]:
    """Return points (M, ..., K, 2 or 3) in the order of `Column.flip_order` where their maps (M, 2, 3) mirror them.

    A map mirrors if its determinant is negative: a flip in x or in y does, a turn by 180 degrees does not.
    """
    mirrored = np.linalg.det(matrix[..., :2]) < 0
    return np.where(mirrored.reshape(-1, *[1] * (points.ndim - 1)), points[..., order, :], points)


def compose(after: NDArray[np.floating[Any]], before: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the maps (N, 2, 3) that apply `before` (N, 2, 3) and then `after` (N, 2, 3)."""
    last, first = after.astype(np.float64), before.astype(np.float64)
    matrix = last[:, :, :2] @ first
    matrix[:, :, 2] += last[:, :, 2]
    return matrix.astype(np.float32)
