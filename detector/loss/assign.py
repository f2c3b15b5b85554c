"""Which points learn which box: FCOS's target assignment, from the boxes' side.

A point is positive for a box when it lies strictly inside the box and within 1.5 strides of the box's centre, and the
box's farthest edge is within the level's reach. Only the 3 x 3 cells around the centre's own cell can be, on each
level. So instead of testing every point against every box (N x G), each box tests its 9 L candidates: static shapes,
no transfer to the host, and a thousand boxes in an image cost what their candidates cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.model.grid import Grid

CENTER_RADIUS = 1.5  # strides; the 3 x 3 neighbourhood below is exact up to this radius


@dataclass(frozen=True)
class Assignment:
    """C = 9 L G candidates an image, ordered level, box, cell; those that are not `positive` hold harmless values."""

    point: Tensor  # (B, L, 9 G) int64, index among the level's own points, row by row
    positive: Tensor  # (B, L, 9 G) bool, no point twice
    label: Tensor  # (B, L, 9 G) int64
    distances: Tensor  # (B, L, 9 G, 4) left, top, right, bottom in strides; ones where not positive
    box: Tensor  # (B, L, 9 G) int64, index of the box


def assign(boxes: Tensor, labels: Tensor, usable: Tensor, grid: Grid) -> Assignment:
    """Assign the boxes of a batch to points. Of several boxes that want a point the smallest wins, then the first.

    Args:
        boxes: (B, G, 4) float xyxy in canvas pixels.
        labels: (B, G) int64.
        usable: (B, G) bool, false for padding, crowds and whatever else must not become positive.
    """
    batch, count = labels.shape
    corners = boxes.view(batch, 1, count, 1, 2, 2)
    low, high = corners[..., 0, :], corners[..., 1, :]  # (B, 1, G, 1, 2)
    strides = grid.strides.view(-1, 1, 1, 1)
    shapes = grid.shapes.view(-1, 1, 1, 2)

    center = (low + high) / 2
    cells = (center / strides).floor() + _neighbors(boxes.device)  # (B, L, G, 9, 2)
    points = cells * strides + strides // 2
    near, far = points - low, high - points
    margin = CENTER_RADIUS * strides
    inside = (points > torch.maximum(center - margin, low)) & (points < torch.minimum(center + margin, high))
    on_grid = (cells >= 0) & (cells < shapes)
    farthest = torch.maximum(near, far).amax(-1)
    shortest, longest = grid.reach.view(-1, 1, 1, 2).unbind(-1)
    valid = (inside & on_grid).all(-1) & (farthest >= shortest) & (farthest <= longest) & usable.view(batch, 1, -1, 1)

    local = torch.where(valid, (cells[..., 1] * shapes[..., 0] + cells[..., 0]).long(), 0)
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


def _neighbors(device: torch.device) -> Tensor:
    """(9, 2) float: a cell and those around it."""
    step = torch.arange(-1.0, 2.0, device=device)
    return torch.stack(torch.meshgrid(step, step, indexing="ij"), -1).view(9, 2)


def _rank_by_area(boxes: Tensor, usable: Tensor) -> Tensor:
    """(B, G) int64: each box's place among its image's boxes, smallest first, earlier first among equals."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    order = torch.where(usable, width * height, torch.inf).argsort(dim=1, stable=True)
    places = torch.arange(boxes.shape[1], device=boxes.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _smallest_wins(valid: Tensor, point: Tensor, rank: Tensor, size: int) -> Tensor:
    """Of the `valid` candidates keep the lowest `rank` at each of `size` points; the rest share a slot past the end."""
    batch = len(valid)
    slot = torch.where(valid, point, size).view(batch, -1)
    rank = rank.reshape(batch, -1)
    best = torch.full((batch, size + 1), torch.iinfo(rank.dtype).max, dtype=rank.dtype, device=rank.device)
    best.scatter_reduce_(1, slot, rank, "amin")
    return valid & (best.gather(1, slot) == rank).view_as(valid)
