"""FCOS's three losses over a whole batch, in float32. Boxes and quality are read only at candidate points.

The losses are normalized by means over ranks, which take one all-reduce and are never copied to the host.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from detector.distributed import sum_over_ranks, world_size
from detector.loss.assign import Assignment
from detector.model.grid import flatten

QualityKind = Literal["centerness", "iou"]
ALPHA = 0.25  # focal loss (Lin et al. 2017): the weight of positives; its gamma is 2, written out below


class Losses(NamedTuple):
    """The three losses and the mean number of positives per rank, as scalars on the device."""

    classification: Tensor
    box: Tensor
    quality: Tensor
    positives: Tensor

    @property
    def total(self) -> Tensor:
        return self.classification + self.box + self.quality


def fcos_loss(
    logits: list[Tensor], boxes: list[Tensor], quality: list[Tensor], targets: Assignment, quality_kind: QualityKind
) -> Losses:
    """The losses of FCOS (Tian et al. 2019, 2020).

    Args:
        logits: per level (B, K, h, w), before the sigmoid.
        boxes: per level (B, 4, h, w), distances left, top, right, bottom in strides, not negative.
        quality: per level (B, 1, h, w), before the sigmoid.
        targets: the result of `assign` for these levels.
        quality_kind: "centerness", which also weights the box loss, or "iou".
    """
    predicted = _at_candidates(boxes, targets)
    score = _at_candidates(quality, targets)[..., 0]
    overlap, giou = _iou_giou(predicted, targets.distances)
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
    return Losses(
        classification=classification / positives,
        box=((1 - giou) * weight).sum() / weights,
        quality=torch.where(targets.positive, match, 0.0).sum() / positives,
        positives=positives,
    )


def _at_candidates(levels: list[Tensor], targets: Assignment) -> Tensor:
    """Per level (B, C, h, w) -> float (B, L, candidates, C), the predictions at the candidates' points."""
    rows = torch.arange(len(targets.point), device=targets.point.device)[:, None]
    picked = [flatten(level)[rows, targets.point[:, i]] for i, level in enumerate(levels)]
    return torch.stack(picked, 1).to(targets.distances.dtype)


def centerness(distances: Tensor) -> Tensor:
    """(..., 4) left, top, right, bottom -> (...): 1 at a box's center, 0 at its edge (Tian et al. 2019, equation 3)."""
    low, high = distances[..., :2], distances[..., 2:]
    return (torch.minimum(low, high) / torch.maximum(low, high)).prod(-1).sqrt()


def _iou_giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalized IoU (Rezatofighi et al. 2019) of boxes given as distances (..., 4) from a shared point."""
    inner, outer = torch.minimum(a, b), torch.maximum(a, b)
    overlap, hull = _area(inner), _area(outer)
    union = _area(a) + _area(b) - overlap  # `b` holds targets, so this is positive
    iou = overlap / union
    return iou, iou - (hull - union) / hull


def _area(distances: Tensor) -> Tensor:
    return (distances[..., :2] + distances[..., 2:]).prod(-1)


def sigmoid_focal_loss(logits: Tensor, point: Tensor, label: Tensor, positive: Tensor) -> Tensor:
    """The summed focal loss of one level, without one-hot targets: all logits as negatives, then positives corrected.

    Args:
        logits: (B, n, K).
        point, label: (B, C) int64, the position of each candidate in `logits`.
        positive: (B, C) bool; no (point, label) of an image may be positive twice.
    """
    return _FocalLoss.apply(logits.flatten(1), point * logits.shape[-1] + label, positive)


class _FocalLoss(Function):
    """Computes the gradient, which has a closed form, with the value, which saves two passes over the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, positive: Tensor) -> Tensor:
        x = logits if logits.dtype == torch.float64 else logits.float()
        loss, slope = _negatives(x)
        chosen = x.gather(1, index)
        rise, slope_rise = _positive_less_negative(chosen)
        loss = loss + torch.where(positive, rise, 0.0).sum()
        slope.scatter_add_(1, index, torch.where(positive, slope_rise, 0.0))
        ctx.save_for_backward(slope)
        ctx.dtype = logits.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return (slope * grad).to(ctx.dtype), None, None


def _negatives(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of (1 - alpha) s(x)^2 softplus(x), and its slope at each x: (1 - alpha) s^2 (s + 2 (1 - s) softplus)."""
    s = x.sigmoid()
    cost = F.softplus(x)
    square = s.square()
    slope = torch.addcmul(s, cost, 1 - s, value=2).mul_(square).mul_(1 - ALPHA)
    return (1 - ALPHA) * cost.mul_(square).sum(), slope


def _positive_less_negative(x: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each x as a positive minus its loss as a negative, and the slope of the difference."""
    s, r = x.sigmoid(), (-x).sigmoid()
    miss, alarm = F.softplus(-x), F.softplus(x)
    rise = ALPHA * r.square() * miss - (1 - ALPHA) * s.square() * alarm
    slope = -ALPHA * r.square() * (r + 2 * s * miss) - (1 - ALPHA) * s.square() * (s + 2 * r * alarm)
    return rise, slope
