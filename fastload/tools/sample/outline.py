"""From a mask to COCO's segmentations: polygons of the 0.5 contour, and run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 2) x, y; a pixel's centre lies at its column + .5, row + .5

# For each cell of four pixels (bits: 1 top left, 2 top right, 4 bottom right, 8 bottom left), the contour's pieces as
# (side it enters, side it leaves), the inside on its left. Sides: 0 top, 1 right, 2 bottom, 3 left.
_PIECES: tuple[tuple[tuple[int, int], ...], ...] = (
    (), ((3, 0),), ((0, 1),), ((3, 1),), ((1, 2),), ((3, 0), (1, 2)), ((0, 2),), ((3, 2),),
    ((2, 3),), ((2, 0),), ((0, 1), (2, 3)), ((2, 1),), ((1, 3),), ((1, 0),), ((0, 3),), (),
)  # fmt: skip


def polygons(cover: NDArray[np.floating[Any]], tolerance: float = 0.3, least: float = 4.0) -> list[Points]:
    """Outer outlines of where `cover` (H, W; 0 to 1) exceeds 0.5, within `tolerance` pixels.

    Holes are filled, as COCO's polygons have none; pieces of less than `least` square pixels are left out.
    """
    loops = (_simplify(loop, tolerance).round(2) for loop in _contours(np.pad(cover, 1)))
    return [loop for loop in loops if signed_area(loop) >= least]


def signed_area(points: Points) -> float:
    """The shoelace formula; positive when the points run counter-clockwise on the screen."""
    x, y = points.T
    return float(0.5 * np.sum(y * np.roll(x, -1) - x * np.roll(y, -1)))


def _contours(padded: NDArray[np.floating[Any]]) -> list[Points]:
    """Marching squares: every closed contour, counter-clockwise on the screen around what is inside."""
    inside = padded > 0.5
    kind = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, 1:] + 8 * inside[1:, :-1]
    width = padded.shape[1]
    leads: dict[int, int] = {}  # from each crossed edge to the next one along the contour
    rows, cols = np.nonzero((kind > 0) & (kind < 15))
    for row, col, k in zip(rows.tolist(), cols.tolist(), kind[rows, cols].tolist(), strict=True):
        at = 2 * (row * width + col)  # even: an edge to the right of its pixel; odd: one below it
        side = (at, at + 3, at + 2 * width, at + 1)
        for enter, leave in _PIECES[k]:
            leads[side[enter]] = side[leave]
    loops = []
    while leads:
        start, edge = leads.popitem()
        loop = [start]
        while edge != start:
            loop.append(edge)
            edge = leads.pop(edge)
        loops.append(_crossings(np.array(loop), padded))
    return loops


def _crossings(edges: NDArray[np.int64], padded: NDArray[np.floating[Any]]) -> Points:
    """Where the cover passes 0.5 on each edge, in pixels of the image without the padding."""
    width = padded.shape[1]
    row, col = np.divmod(edges // 2, width)
    down = edges % 2
    here, there = padded[row, col], padded[row + down, col + 1 - down]
    part = (0.5 - here) / (there - here)
    return np.stack([col + part * (1 - down), row + part * down], 1).astype(np.float64) - 0.5


def _simplify(points: Points, tolerance: float) -> Points:
    """Ramer, Douglas and Peucker's polyline simplification of a closed contour."""
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
    """COCO's uncompressed RLE: lengths of alternating runs, column by column, the first of zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return {"counts": np.diff(changes, prepend=0, append=len(flat)).tolist(), "size": list(mask.shape)}
