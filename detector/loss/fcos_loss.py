"""FCOS's three losses over a whole batch, in float32. Boxes and quality are read only at candidate points.

The losses are normalized by means over ranks, which take one all-reduce and are never copied to the host.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.distributed import sum_over_ranks, world_size
from detector.loss.assign import Assignment
from detector.loss.candidates import at_candidates, iou_giou
from detector.loss.focal import sigmoid_focal_loss
from detector.model.grid import flatten

QualityKind = Literal["centerness", "iou"]


def fcos_loss(
    logits: list[Tensor], boxes: list[Tensor], quality: list[Tensor], targets: Assignment, quality_kind: QualityKind
) -> dict[str, Tensor]:
    """The losses of FCOS (Tian et al. 2019, 2020).

    Args:
        logits: per level (B, K, h, w), before the sigmoid.
        boxes: per level (B, 4, h, w), distances left, top, right, bottom in strides, not negative.
        quality: per level (B, 1, h, w), before the sigmoid.
        targets: the result of `assign` for these levels.
        quality_kind: "centerness", which also weights the box loss, or "iou".
    """
    predicted = at_candidates(boxes, targets.point).to(targets.distances.dtype)
    score = at_candidates(quality, targets.point)[..., 0].to(targets.distances.dtype)
    overlap, giou = iou_giou(predicted, targets.distances)
    if quality_kind == "centerness":
        target = centerness(targets.distances)
        weight = target
    else:
        target = overlap.detach()
        weight = torch.ones_like(target)
    weight = torch.where(targets.positive, weight, 0.0)
    totals = sum_over_ranks(torch.stack([targets.positive.sum().to(weight.dtype), weight.sum()])) / world_size()
    positives, weights = totals[0].clamp(min=1), totals[1].clamp(min=1e-6)

    classification = sum(
        sigmoid_focal_loss(flatten(level), targets.point[:, i], targets.label[:, i], targets.positive[:, i])
        for i, level in enumerate(logits)
    )
    match = F.binary_cross_entropy_with_logits(score, target, reduction="none")
    return {
        "classification": classification / positives,
        "box": ((1 - giou) * weight).sum() / weights,
        "quality": torch.where(targets.positive, match, 0.0).sum() / positives,
    }


def centerness(distances: Tensor) -> Tensor:
    """(..., 4) left, top, right, bottom -> (...): 1 at a box's center, 0 at its edge (Tian et al. 2019, equation 3)."""
    low, high = distances[..., :2], distances[..., 2:]
    return (torch.minimum(low, high) / torch.maximum(low, high)).prod(-1).sqrt()
