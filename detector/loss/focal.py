"""The focal loss (Lin et al. 2017) with gamma = 2, and its gradient, in closed form."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

ALPHA = 0.25  # the weight of positives


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
