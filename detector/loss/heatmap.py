"""CenterNet's heatmap: a soft Gaussian of each object, whose maximum over the objects of a class teaches that class.

The heatmap h = exp(-q) is 0 almost everywhere, so that it is never made for all N cells and K classes. q is the squared
distance from a cell's point to the object's center in units of the squared radius, and 0 at the cell that holds the
center, on every level. With an overlap of o = 0.8 the radius squared is 2 ((1 - o) / (1 + o))^2 times the box's area,
but at least (4 pixels)^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.model.grid import Grid

RADIUS_SHARE = 2 * (0.2 / 1.8) ** 2  # of a box's area: the squared radius
LEAST_RADIUS = 4.0  # pixels
FARTHEST = -math.log(1e-4)  # the q beyond which h counts as 0
CHUNK = 8  # objects per pass over all cells, on a device
MOST_CELLS = 2**20  # worked on together on the host, which bounds the memory for many large objects


@dataclass(frozen=True)
class Spots:
    """The heatmap of one level where it is not 0."""

    index: Tensor  # int64: (T) in the flattened (B, n, K), each at most once; or (B, 1, U), a class for each height
    height: Tensor  # float: (T) or (B, n, U)


def squared_radius(low: Tensor, high: Tensor) -> Tensor:
    """The squared radius in pixels (...) of boxes with corners (..., 2)."""
    return ((high - low).prod(-1) * RADIUS_SHARE).clamp(min=LEAST_RADIUS**2)


def heatmap(boxes: Tensor, labels: Tensor, usable: Tensor, grid: Grid, classes: int) -> list[Spots]:
    """The heatmap of a batch, per level, without waiting for the device.

    Args:
        boxes: (B, G, 4) float xyxy in canvas pixels.
        labels: (B, G) int64.
        usable: (B, G) bool.
        grid: the points of the L levels.
        classes: number of classes K.
    """
    # A host knows which cells there are to visit; on a device shapes must not depend on data.
    if boxes.device.type == "cpu":
        return cells_around(boxes, labels, usable, grid, classes)
    return maps_of_classes(boxes, labels, usable, grid, classes)


def cells_around(boxes: Tensor, labels: Tensor, usable: Tensor, grid: Grid, classes: int) -> list[Spots]:
    """`heatmap` on the host: visits the cells around each object, about .015 of its area in cells on all levels."""
    image, chosen = usable.numpy().nonzero()
    corners, label = boxes.numpy()[image, chosen].astype(np.float32), labels.numpy()[image, chosen]
    center = (corners[:, :2] + corners[:, 2:]) / np.float32(2)
    square = squared_radius(*torch.from_numpy(corners).view(-1, 2, 2).unbind(1)).numpy()
    reach = np.sqrt(np.float32(FARTHEST) * square)[:, None]
    spots = []
    for stride, height, width in grid.levels:
        shape = np.array([width, height], np.int32)
        middle = np.floor(center / stride).astype(np.int32)
        first = np.ceil((center - reach) / stride - 0.5).astype(np.int32)
        last = np.floor((center + reach) / stride - 0.5).astype(np.int32)
        first, last = np.minimum(first, middle).clip(min=0), np.minimum(np.maximum(last, middle), shape - 1)
        sides = (last - first + 1).clip(min=0)
        counts = sides.prod(1, dtype=np.int64)
        keys = np.empty(0, np.int64)
        for part in _parts(counts):
            count = counts[part]
            box = np.repeat(np.arange(part.start, part.stop), count)  # of each cell
            index = np.arange(len(box), dtype=np.int32) - (count.cumsum() - count).astype(np.int32)[box - part.start]
            down, across = np.divmod(index, sides[box, 0])
            x, y = first[box, 0] + across, first[box, 1] + down
            q = _squared(x, stride, center[box, 0]) + _squared(y, stride, center[box, 1])
            q /= square[box]
            q[(x == middle[box, 0]) & (y == middle[box, 1])] = 0
            near = q < FARTHEST
            cell = (image[box] * height + y) * width + x
            # q is not negative, so its bits are in its order, and one sort of integers orders by index and q.
            found = (cell * classes + label[box])[near] << 32 | q[near].view(np.int32)
            keys = _lowest(np.concatenate([keys, found]))
        heights = np.exp(-(keys & 0xFFFFFFFF).astype(np.int32).view(np.float32))
        spots.append(Spots(torch.from_numpy(keys >> 32), torch.from_numpy(heights)))
    return spots


def _parts(counts: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of objects with at most `MOST_CELLS` cells together, or one object."""
    ends, start = counts.cumsum(), 0
    while start < len(counts):
        done = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, done + MOST_CELLS, "right")))
        yield slice(start, stop)
        start = stop


def _squared(cell: NDArray[np.int32], stride: int, center: NDArray[np.float32]) -> NDArray[np.float32]:
    """The squared distances in pixels between cells and centers along an axis."""
    return ((cell * stride + stride // 2).astype(np.float32) - center) ** 2


def _lowest(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lowest key, sorted, for each value of the upper half."""
    keys = np.sort(keys)
    lowest = np.ones(len(keys), bool)
    lowest[1:] = (keys[1:] >> 32) != (keys[:-1] >> 32)
    return keys[lowest]


def maps_of_classes(boxes: Tensor, labels: Tensor, usable: Tensor, grid: Grid, classes: int) -> list[Spots]:
    """`heatmap` with static shapes: a map for each class of an image, of at most U = min(G, K) classes."""
    (batch, count), device = labels.shape, boxes.device
    most = min(count, classes)
    labels = torch.where(usable, labels, classes)
    present = torch.zeros(batch, classes + 1, dtype=torch.int64, device=device).scatter_(1, labels, 1)[:, :-1]
    slot = torch.where(present > 0, present.cumsum(1) - 1, most)  # (B, K), where unused classes share a last slot
    class_of_slot = torch.zeros(batch, most + 1, dtype=torch.int64, device=device)
    class_of_slot.scatter_(1, slot, torch.arange(classes, device=device).expand(batch, -1))
    slot_of_box = torch.where(usable, slot.gather(1, labels.clamp(max=classes - 1)), most)

    low, high = boxes.float().unflatten(2, (2, 2)).unbind(2)
    center, square = (low + high) / 2, squared_radius(low, high)
    nearest = torch.full((batch, most + 1, grid.size), torch.inf, device=device)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        x, y = (grid.points[:, axis] - center[:, part, axis, None] for axis in (0, 1))
        q = (x.square() + y.square()) / square[:, part, None]
        nearest.scatter_reduce_(1, slot_of_box[:, part, None].expand_as(q), q, "amin")

    cells = (center[:, None] / grid.strides.view(-1, 1, 1)).floor()  # (B, L, G, 2)
    shapes = grid.shapes.view(-1, 1, 2)
    held = ((cells >= 0) & (cells < shapes)).all(-1)
    point = (cells[..., 1] * shapes[..., 0] + cells[..., 0]).long() + grid.starts.view(-1, 1)
    point = torch.where(held, slot_of_box[:, None] * grid.size + point, most * grid.size)  # else in the last slot
    nearest.view(batch, -1).scatter_(1, point.flatten(1), 0.0)

    nearest = nearest[:, :-1]
    height = torch.where(nearest < FARTHEST, (-nearest).exp(), 0.0).transpose(1, 2)
    return [Spots(class_of_slot[:, None, :-1], level) for level in height.split(grid.counts, 1)]
