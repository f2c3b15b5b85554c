"""From a mask to COCO segmentations: polygons of the 0.5 contour, and run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 2) x, y; the center of a pixel is at its column + 0.5, row + 0.5

# For each cell of four pixels (bits: 1 top left, 2 top right, 4 bottom right, 8 bottom left), the pieces of the contour
# as (side where it enters, side where it leaves), with the inside on its left. Sides: 0 top, 1 right, 2 bottom, 3 left.
_PIECES: tuple[tuple[tuple[int, int], ...], ...] = (
    (), ((3, 0),), ((0, 1),), ((3, 1),), ((1, 2),), ((3, 0), (1, 2)), ((0, 2),), ((3, 2),),
    ((2, 3),), ((2, 0),), ((0, 1), (2, 3)), ((2, 1),), ((1, 3),), ((1, 0),), ((0, 3),), (),
)  # fmt: skip


def polygons(cover: NDArray[np.floating[Any]], tolerance: float = 0.3, least: float = 4.0) -> list[Points]:
    """Return the outer contours of the region where `cover` exceeds 0.5.

    Holes are filled, because COCO polygons have no holes.

    Args:
        cover: (H, W), 0 to 1.
        tolerance: maximum distance of a simplified contour in pixels.
        least: minimum area of a contour in square pixels.
    """
    loops = (_simplify(loop, tolerance).round(2) for loop in _contours(np.pad(cover, 1)))
    return [loop for loop in loops if signed_area(loop) >= least]


def signed_area(points: Points) -> float:
    """Return the area by the shoelace formula; positive if the points run counterclockwise on the screen."""
    x, y = points.T
    return float(0.5 * np.sum(y * np.roll(x, -1) - x * np.roll(y, -1)))


def _contours(padded: NDArray[np.floating[Any]]) -> list[Points]:
    """Find all closed contours by marching squares, counterclockwise on the screen around the inside."""
    inside = padded > 0.5
    kind = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, 1:] + 8 * inside[1:, :-1]
    width = padded.shape[1]
    following: dict[int, int] = {}  # the next edge of the contour, by edge
    rows, cols = np.nonzero((kind > 0) & (kind < 15))
    for row, col, k in zip(rows.tolist(), cols.tolist(), kind[rows, cols].tolist(), strict=True):
        at = 2 * (row * width + col)  # even: an edge to the right of its pixel; odd: one below it
        side = (at, at + 3, at + 2 * width, at + 1)
        for enter, leave in _PIECES[k]:
            following[side[enter]] = side[leave]
    loops = []
    while following:
        start, edge = following.popitem()
        loop = [start]
        while edge != start:
            loop.append(edge)
            edge = following.pop(edge)
        loops.append(_crossings(np.array(loop), padded))
    return loops


def _crossings(edges: NDArray[np.int64], padded: NDArray[np.floating[Any]]) -> Points:
    """Return the points where the cover crosses 0.5 on each edge, in pixels of the image without padding."""
    width = padded.shape[1]
    row, col = np.divmod(edges // 2, width)
    down = edges % 2
    here, there = padded[row, col], padded[row + down, col + 1 - down]
    part = (0.5 - here) / (there - here)
    return np.stack([col + part * (1 - down), row + part * down], 1).astype(np.float64) - 0.5


def _simplify(points: Points, tolerance: float) -> Points:
    """Simplify a closed contour by the Ramer-Douglas-Peucker algorithm."""
    line = points[:, 0] + 1j * points[:, 1]
    line = np.append(line, line[0])
    keep = np.zeros(len(points), bool)
    keep[0] = True
    spans = [(0, len(points))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        chord, away = line[last] - line[first], line[first + 1 : last] - line[first]
        distance = np.abs((away * chord.conjugate()).imag) / abs(chord) if chord else np.abs(away)
        farthest = int(distance.argmax())
        if distance[farthest] > tolerance:
            middle = first + 1 + farthest
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return points[keep]


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return COCO's uncompressed RLE: lengths of alternating runs in column order, starting with zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return {"counts": np.diff(changes, prepend=0, append=len(flat)).tolist(), "size": list(mask.shape)}
