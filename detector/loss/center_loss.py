"""CenterNet*'s two losses over a whole batch, in float32, normalized as FCOS's are."""

from __future__ import annotations

import torch
from torch import Tensor

from detector.distributed import sum_over_ranks, world_size
from detector.loss.candidates import at_candidates, iou_giou
from detector.loss.center_assign import CenterAssignment, more_positives
from detector.loss.focal import heatmap_focal_loss
from detector.loss.heatmap import Spots
from detector.model.grid import flatten

SMOOTHING = 1.0  # square strides, added to intersection and union of the box loss


def center_loss(
    logits: list[Tensor],
    boxes: list[Tensor],
    targets: CenterAssignment,
    spots: list[Spots],
    more: bool = True,
    ignored: float = 0.0,
    weights: tuple[float, float] = (1.0, 2.0),
) -> dict[str, Tensor]:
    """The losses of CenterNet* (Zhou et al. 2021), "classification" and "box".

    Probabilities are not clamped, so that a positive far below 0.0001 still has a gradient.

    Args:
        logits: per level (B, K, h, w), before the sigmoid.
        boxes: per level (B, 4, h, w), distances left, top, right, bottom in strides, not negative.
        targets: the result of `assign_centers` for these levels.
        spots: the result of `heatmap` for these levels.
        more: also use the positives of `more_positives`.
        ignored: drop negatives whose probability is at least this; 0 drops none.
        weights: of the two losses.
    """
    predicted = at_candidates(boxes, targets.point).to(targets.distances.dtype)
    _, giou = iou_giou(predicted, targets.distances, SMOOTHING)
    cost = 1 - giou
    positive = more_positives(cost.detach(), targets) if more else targets.center
    counts = torch.stack([positive.sum(), targets.located.sum()]).to(cost.dtype)
    positives, located = (sum_over_ranks(counts) / world_size()).clamp(min=1).unbind()
    classification = sum(
        heatmap_focal_loss(flatten(level), targets.point[:, i], targets.label[:, i], positive[:, i], spots[i], ignored)
        for i, level in enumerate(logits)
    )
    return {
        "classification": weights[0] * classification / positives,
        "box": weights[1] * torch.where(targets.located, cost, 0.0).sum() / located,
    }
