"""CenterNet*'s assignment (Zhou et al. 2021): which cells learn an object's class, and which its box.

An object belongs to each level whose range holds half its diagonal; the ranges overlap. There the cell that holds its
center is positive, and the candidates whose points lie inside the box learn the box. Where several objects meet, the
one with the smallest distance in units of its size wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from detector.loss.candidates import CENTER, center_candidates
from detector.loss.heatmap import squared_radius
from detector.model.grid import Grid

INF = float("inf")
# By number of levels: the half diagonals in pixels that a level predicts, both ends included.
RANGES = {
    3: ((0.0, 64.0), (48.0, 192.0), (128.0, INF)),
    4: ((0.0, 80.0), (64.0, 160.0), (128.0, 320.0), (256.0, INF)),
    5: ((0.0, 80.0), (64.0, 160.0), (128.0, 320.0), (256.0, 640.0), (512.0, INF)),
}
GOOD_LOSS = 0.2  # a candidate whose box loss is below this is a positive too
GOOD_RANK = 9  # ... if it is lower than the loss of the object's candidate of this rank


@dataclass(frozen=True)
class CenterAssignment:
    """9 L G candidates per image, ordered by level, box, cell. Values of those not `inside` are harmless."""

    point: Tensor  # (B, L, 9 G) int64, index among the level's points, row by row
    label: Tensor  # (B, L, 9 G) int64
    distances: Tensor  # (B, L, 9 G, 4) left, top, right, bottom in strides; 1 if not inside
    inside: Tensor  # (B, L, 9 G) bool: on the grid, and inside the box or on its edge
    center: Tensor  # (B, L, 9 G) bool: holds the center of a box that belongs to the level
    located: Tensor  # (B, L, 9 G) bool: learns the box; each point at most once


def assign_centers(boxes: Tensor, labels: Tensor, usable: Tensor, grid: Grid) -> CenterAssignment:
    """Assign the boxes of a batch to cells.

    Args:
        boxes: (B, G, 4) float xyxy in canvas pixels.
        labels: (B, G) int64.
        usable: (B, G) bool, false for padding, crowds and other boxes that must not become positive.
        grid: the points of the predictions, on 3 to 5 levels.
    """
    batch, count = labels.shape
    found = center_candidates(boxes, grid)
    half_diagonal = (found.high - found.low).square().sum(-1).sqrt() / 2  # (B, 1, G, 1)
    shortest, longest = _ranges(len(grid.counts), boxes.device).view(-1, 1, 1, 2).unbind(-1)
    in_range = (half_diagonal >= shortest) & (half_diagonal <= longest)
    usable = usable.view(batch, 1, -1, 1) & found.on_grid
    nearest_edge = torch.minimum(found.near, found.far).amin(-1)
    inside = usable & (nearest_edge >= 0)

    local = torch.where(usable, found.index, 0)
    x, y = (found.points - found.center).unbind(-1)
    distance = (x.square() + y.square()) / squared_radius(found.low, found.high)
    distance[..., CENTER] = 0
    valid = usable & (nearest_edge > 0) & in_range
    located = _nearest_wins(valid, local + grid.starts.view(-1, 1, 1), distance, grid.size)
    distances = torch.where(inside[..., None], torch.cat([found.near, found.far], -1) / found.strides, 1.0)
    is_center = torch.arange(9, device=boxes.device) == CENTER
    return CenterAssignment(
        point=local.flatten(2),
        label=labels.clamp(min=0).view(batch, 1, count, 1).expand_as(local).flatten(2),
        distances=distances.flatten(2, 3),
        inside=inside.flatten(2),
        center=(usable & in_range & is_center).flatten(2),
        located=located.flatten(2),
    )


@lru_cache
@torch.inference_mode(False)
def _ranges(levels: int, device: torch.device) -> Tensor:
    return torch.tensor(RANGES[levels], device=device)


def _nearest_wins(valid: Tensor, point: Tensor, distance: Tensor, size: int) -> Tensor:
    """Keep the `valid` candidate of the lowest `distance` (B, L, G, 9), of the first box if equal, at each point.

    A distance is not negative, so the bits of its float32 are in its order; the box's index in the lower half of the
    key decides between equal ones.
    """
    batch, _, count, _ = distance.shape
    box = torch.arange(count, device=distance.device).view(1, 1, -1, 1)
    key = ((distance.float().view(torch.int32).long() << 32) | box).view(batch, -1)
    slot = torch.where(valid, point, size).view(batch, -1)  # all others share a slot past the end
    best = torch.full((batch, size + 1), torch.iinfo(key.dtype).max, device=key.device)
    best.scatter_reduce_(1, slot, key, "amin")
    return valid & (best.gather(1, slot) == key).view_as(valid)


def more_positives(loss: Tensor, targets: CenterAssignment) -> Tensor:
    """Positives by what the network predicts: candidates whose box loss is low, on any level.

    Centers in their boxes count as a loss of 0. Others must be inside their box, and below `GOOD_LOSS` and the object's
    ninth smallest loss.

    Args:
        loss: (B, L, 9 G) box loss of each candidate, without gradient.
        targets: of `assign_centers`.

    Returns:
        (B, L, 9 G) bool.
    """
    batch, levels, _ = loss.shape
    loss = torch.where(targets.inside, loss.masked_fill(targets.center, 0.0), torch.inf)
    of_object = loss.view(batch, levels, -1, 9).transpose(1, 2).flatten(2)  # (B, G, 9 L)
    ninth = of_object.topk(GOOD_RANK, largest=False).values[..., -1].clamp(max=GOOD_LOSS)
    return (of_object < ninth[..., None]).unflatten(2, (levels, 9)).transpose(1, 2).flatten(2)
