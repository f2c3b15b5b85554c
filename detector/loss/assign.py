"""FCOS's assignment of boxes to points.

A point is positive for a box if it lies strictly inside the box, within 1.5 strides of the box's center, and the
distance to the box's farthest edge is in the level's range. On each level, only the 3 x 3 cells around the center can
be positive: the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.loss.candidates import center_candidates
from detector.model.grid import Grid

CENTER_RADIUS = 1.5  # strides; the 3 x 3 neighborhood below is exact up to this radius


@dataclass(frozen=True)
class Assignment:
    """9 L G candidates per image, ordered by level, box, cell. Values of those not `positive` are harmless."""

    point: Tensor  # (B, L, 9 G) int64, index among the level's points, row by row
    positive: Tensor  # (B, L, 9 G) bool; each point is positive at most once
    label: Tensor  # (B, L, 9 G) int64
    distances: Tensor  # (B, L, 9 G, 4) left, top, right, bottom in strides; 1 if not positive
    box: Tensor  # (B, L, 9 G) int64, index of the box


def assign(boxes: Tensor, labels: Tensor, usable: Tensor, grid: Grid) -> Assignment:
    """Assign the boxes of a batch to points. If several boxes match a point, the smallest wins, then the first.

    Args:
        boxes: (B, G, 4) float xyxy in canvas pixels.
        labels: (B, G) int64.
        usable: (B, G) bool, false for padding, crowds and other boxes that must not become positive.
        grid: the points of the predictions.
    """
    batch, count = labels.shape
    found = center_candidates(boxes, grid)
    low, high, strides = found.low, found.high, found.strides
    center, points, near, far = found.center, found.points, found.near, found.far
    margin = CENTER_RADIUS * strides
    inside = (points > torch.maximum(center - margin, low)) & (points < torch.minimum(center + margin, high))
    farthest = torch.maximum(near, far).amax(-1)
    shortest, longest = grid.reach.view(-1, 1, 1, 2).unbind(-1)
    in_range = (farthest >= shortest) & (farthest <= longest)
    valid = inside.all(-1) & found.on_grid & in_range & usable.view(batch, 1, -1, 1)

    local = torch.where(valid, found.index, 0)
    rank = _rank_by_area(boxes, usable).view(batch, 1, count, 1).expand_as(local)
    positive = _smallest_wins(valid, local + grid.starts.view(-1, 1, 1), rank, grid.size)
    distances = torch.where(positive[..., None], torch.cat([near, far], -1) / strides, 1.0)
    index = torch.arange(count, device=boxes.device).view(1, 1, count, 1).expand_as(local)
    return Assignment(
        point=local.flatten(2),
        positive=positive.flatten(2),
        label=labels.clamp(min=0).view(batch, 1, count, 1).expand_as(local).flatten(2),
        distances=distances.flatten(2, 3),
        box=index.flatten(2),
    )


def _rank_by_area(boxes: Tensor, usable: Tensor) -> Tensor:
    """(B, G) int64: each box's rank among the boxes of its image, smallest first; equal ones keep their order."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    order = torch.where(usable, width * height, torch.inf).argsort(dim=1, stable=True)
    ranks = torch.arange(boxes.shape[1], device=boxes.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks)


def _smallest_wins(valid: Tensor, point: Tensor, rank: Tensor, size: int) -> Tensor:
    """Keep the `valid` candidate of the lowest `rank` at each of `size` points."""
    batch = len(valid)
    slot = torch.where(valid, point, size).view(batch, -1)  # all others share a slot past the end
    rank = rank.reshape(batch, -1)
    best = torch.full((batch, size + 1), torch.iinfo(rank.dtype).max, dtype=rank.dtype, device=rank.device)
    best.scatter_reduce_(1, slot, rank, "amin")
    return valid & (best.gather(1, slot) == rank).view_as(valid)
