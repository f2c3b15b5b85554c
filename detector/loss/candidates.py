"""The candidates of assignments: on each level, the 3 x 3 cells around a box's center.

Instead of testing every point against every box (N x G), each box tests its 9 L candidates. Shapes are static, nothing
is copied to the host, and the cost grows with the number of boxes only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.model.grid import Grid, flatten

CENTER = 4  # the candidate that holds the center, of the 9


@dataclass(frozen=True)
class Candidates:
    """The candidates of G boxes on L levels. Dimensions of size 1 stand for L or 9 where all values are the same."""

    low: Tensor  # (B, 1, G, 1, 2) x, y of the box's left top corner in canvas pixels
    high: Tensor  # (B, 1, G, 1, 2) x, y of its right bottom corner
    center: Tensor  # (B, 1, G, 1, 2)
    strides: Tensor  # (L, 1, 1, 1)
    points: Tensor  # (B, L, G, 9, 2) x, y
    near: Tensor  # (B, L, G, 9, 2) distances from the point to left and top, in pixels
    far: Tensor  # (B, L, G, 9, 2) to right and bottom
    on_grid: Tensor  # (B, L, G, 9) bool
    index: Tensor  # (B, L, G, 9) int64 among the level's points, row by row; meaningless if not on the grid


def center_candidates(boxes: Tensor, grid: Grid) -> Candidates:
    """The candidates of boxes (B, G, 4) float xyxy in canvas pixels."""
    corners = boxes.view(len(boxes), 1, boxes.shape[1], 1, 2, 2)
    low, high = corners[..., 0, :], corners[..., 1, :]
    strides = grid.strides.view(-1, 1, 1, 1)
    shapes = grid.shapes.view(-1, 1, 1, 2)
    center = (low + high) / 2
    cells = (center / strides).floor() + _neighbors(boxes.device)
    points = cells * strides + strides // 2
    return Candidates(
        low=low,
        high=high,
        center=center,
        strides=strides,
        points=points,
        near=points - low,
        far=high - points,
        on_grid=((cells >= 0) & (cells < shapes)).all(-1),
        index=(cells[..., 1] * shapes[..., 0] + cells[..., 0]).long(),
    )


def _neighbors(device: torch.device) -> Tensor:
    """(9, 2) float: the offsets of a cell and those around it."""
    step = torch.arange(-1.0, 2.0, device=device)
    return torch.stack(torch.meshgrid(step, step, indexing="ij"), -1).view(9, 2)


def at_candidates(levels: list[Tensor], point: Tensor) -> Tensor:
    """Per level (B, C, h, w), and point (B, L, n) int64 -> (B, L, n, C), the predictions at these points."""
    rows = torch.arange(len(point), device=point.device)[:, None]
    return torch.stack([flatten(level)[rows, point[:, i]] for i, level in enumerate(levels)], 1)


def iou_giou(a: Tensor, b: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """IoU and generalized IoU (Rezatofighi et al. 2019) of boxes given as distances (..., 4) from a shared point.

    Args:
        a: predictions.
        b: targets, with an area above 0.
        smoothing: added to intersection and union in the IoU.
    """
    inner, outer = torch.minimum(a, b), torch.maximum(a, b)
    overlap, hull = _area(inner), _area(outer)
    union = _area(a) + _area(b) - overlap
    iou = (overlap + smoothing) / (union + smoothing)
    return iou, iou - (hull - union) / hull


def _area(distances: Tensor) -> Tensor:
    return (distances[..., :2] + distances[..., 2:]).prod(-1)
