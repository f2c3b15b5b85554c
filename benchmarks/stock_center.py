"""CenterNet*'s targets and losses as in common frameworks: per image and per class, with dense heatmaps.

Benchmarks compare with it, and tests check the detector's results against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.model.grid import Grid

Ranges = tuple[tuple[float, float], ...]  # half diagonals in pixels of each level


@dataclass
class ImageTargets:
    """The targets of one image."""

    heatmap: Tensor  # (N, K)
    distances: Tensor  # (N, 4) in strides; meaningful where `located`
    located: Tensor  # (N) bool
    positives: list[tuple[int, int]]  # (point, class)
    boxes: Tensor  # (n, 4) of the usable objects
    labels: Tensor  # (n)


def stock_targets(
    boxes: Tensor, labels: Tensor, usable: Tensor, grid: Grid, ranges: Ranges, classes: int
) -> list[ImageTargets]:
    """The targets of each image, with a positive at the center of each object."""
    return [_image_targets(boxes[i][usable[i]], labels[i][usable[i]], grid, ranges, classes) for i in range(len(boxes))]


def _image_targets(boxes: Tensor, labels: Tensor, grid: Grid, ranges: Ranges, classes: int) -> ImageTargets:
    count, points = len(boxes), len(grid.points)
    stride = grid.point_strides[:, None]
    heat = boxes.new_zeros(points, classes)
    if count == 0:
        none = torch.zeros(points, dtype=torch.bool, device=boxes.device)
        return ImageTargets(heat, boxes.new_zeros(points, 4), none, [], boxes, labels)
    x, y = grid.points[:, 0, None], grid.points[:, 1, None]
    left, top, right, bottom = boxes.T
    center_x, center_y = (left + right) / 2, (top + bottom) / 2
    area = (right - left) * (bottom - top)
    delta = (1 - 0.8) / (1 + 0.8)
    radius = (area * (2 * delta**2)).clamp(min=16)
    column, row = (center_x[None] / stride).floor(), (center_y[None] / stride).floor()
    to_column, to_row = (x / stride).floor() - column, (y / stride).floor() - row
    q = ((x - center_x) ** 2 + (y - center_y) ** 2) / radius
    peak = (to_column == 0) & (to_row == 0)
    q[peak] = 0
    for label in range(classes):
        chosen = labels == label
        if chosen.sum() == 0:
            continue
        heat[:, label] = torch.exp(-q[:, chosen]).max(1)[0]
    heat[heat < 1e-4] = 0

    distances = torch.stack([x - left, y - top, right - x, bottom - y], -1)  # (N, n, 4)
    diagonal = ((right - left) ** 2 + (bottom - top) ** 2).sqrt() / 2
    span = torch.cat([torch.tensor(r).expand(n, 2) for r, n in zip(ranges, grid.counts, strict=True)]).to(boxes.device)
    in_range = (diagonal >= span[:, :1]) & (diagonal <= span[:, 1:])
    around = (to_column.abs() <= 1) & (to_row.abs() <= 1)
    order = q.float()
    order[~((distances.min(-1)[0] > 0) & in_range & around)] = float("inf")
    best = order.min(1)[0]
    winner = torch.where(order == best[:, None], torch.arange(count, device=boxes.device), count).min(1)[0]
    target = distances[range(points), winner] / stride
    positives = [(int(point), int(labels[g])) for point, g in (peak & in_range).nonzero()]
    return ImageTargets(heat, target, best < float("inf"), positives, boxes, labels)


def stock_more_positives(predicted: Tensor, target: ImageTargets, grid: Grid, ranges: Ranges) -> list[tuple[int, int]]:
    """The positives of one image by what is predicted (N, 4): cells whose box loss is low."""
    found = []
    for box, label in zip(target.boxes, target.labels, strict=True):
        center = (box[:2] + box[2:]) / 2
        diagonal = float((box[2:] - box[:2]).norm()) / 2
        cells, losses = [], []
        for (stride, height, width), start, (low, high) in zip(grid.levels, grid.starts, ranges, strict=True):
            column, row = int(center[0] // stride), int(center[1] // stride)
            for j in (row - 1, row, row + 1):
                for i in (column - 1, column, column + 1):
                    point = torch.tensor([i * stride + stride / 2, j * stride + stride / 2]).to(box)
                    sides = torch.cat([point - box[:2], box[2:] - point])
                    if not (0 <= i < width and 0 <= j < height and sides.min() >= 0):
                        losses.append(float("inf"))
                        cells.append(-1)
                        continue
                    cells.append(int(start) + j * width + i)
                    is_center = (i, j) == (column, row) and low <= diagonal <= high
                    loss = box_loss(predicted[cells[-1]][None], sides[None] / stride)
                    losses.append(0.0 if is_center else float(loss))
        threshold = min(0.2, sorted(losses)[8])
        found += [(cell, int(label)) for cell, loss in zip(cells, losses, strict=True) if loss < threshold]
    return found


def box_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU of boxes given as distances (n, 4) in strides, with 1 added to intersection and union."""
    area = [(d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3]) for d in (predicted, target)]
    low, high = torch.min(predicted, target), torch.max(predicted, target)
    overlap = (low[:, 0] + low[:, 2]) * (low[:, 1] + low[:, 3])
    hull = (high[:, 0] + high[:, 2]) * (high[:, 1] + high[:, 3])
    union = area[0] + area[1] - overlap
    return 1 - ((overlap + 1) / (union + 1) - (hull - union) / hull)


def stock_losses(
    logits: list[Tensor],
    boxes: list[Tensor],
    targets: list[ImageTargets],
    grid: Grid,
    ranges: Ranges,
    more: bool,
    ignored: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Classification and box loss of one process."""
    scores, regression = (torch.cat([_flat(level) for level in part], 1) for part in (logits, boxes))
    p = scores.sigmoid().clamp(1e-4, 1 - 1e-4)
    heat = torch.stack([target.heatmap for target in targets])
    negative = -0.75 * p**2 * torch.log(1 - p) * (1 - heat) ** 4
    if ignored > 0:
        negative = negative * (p < ignored)
    positive, count, located, loss = p.new_zeros(()), 0, 0, p.new_zeros(())
    for i, target in enumerate(targets):
        positives = target.positives
        if more:
            positives = stock_more_positives(regression[i].detach(), target, grid, ranges)
        if positives:
            point, label = torch.tensor(positives, device=p.device).T
            chosen = p[i, point, label]
            positive = positive + (-0.25 * (1 - chosen) ** 2 * chosen.log()).sum()
            count += len(positives)
        where = target.located.nonzero()[:, 0]
        loss = loss + box_loss(regression[i, where], target.distances[where]).sum()
        located += int(target.located.sum().item())
    return (positive + negative.sum()) / max(count, 1), 2 * loss / max(located, 1)


def _flat(level: Tensor) -> Tensor:
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, level.shape[1])
