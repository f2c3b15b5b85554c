"""The focal loss (Lin et al. 2017) with gamma = 2, and its gradient, in closed form."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from detector.loss.heatmap import Spots

ALPHA = 0.25  # the weight of positives
PART = 2**16  # logits of a thread that are worked on together on a CPU


def sigmoid_focal_loss(logits: Tensor, point: Tensor, label: Tensor, positive: Tensor) -> Tensor:
    """The summed focal loss of one level, without one-hot targets: all logits as negatives, then positives corrected.

    Args:
        logits: (B, n, K).
        point, label: (B, C) int64, the position of each candidate in `logits`.
        positive: (B, C) bool; no (point, label) of an image may be positive twice.
    """
    return _FocalLoss.apply(logits.flatten(1), point * logits.shape[-1] + label, positive)


class _LossWithSlope(Function):
    """A sum over logits, its first argument, whose `forward` calls `keep`."""

    @staticmethod
    def keep(ctx: Any, slope: Tensor, dtype: torch.dtype) -> None:
        """Save the slope of the sum at each logit, and the type of the logits."""
        ctx.save_for_backward(slope)
        ctx.dtype = dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return (slope * grad).to(ctx.dtype), *[None] * (len(ctx.needs_input_grad) - 1)


class _FocalLoss(_LossWithSlope):
    """Computes the gradient, which has a closed form, with the value, which saves two passes over the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, positive: Tensor) -> Tensor:
        x = logits if logits.dtype == torch.float64 else logits.float()
        loss, slope = _negatives(x)
        chosen = x.gather(1, index)
        (gain, gain_slope), (loss_as_negative, slope_as_negative) = _positive(chosen), _negative(chosen)
        loss = loss + torch.where(positive, gain - loss_as_negative, 0.0).sum()
        slope.scatter_add_(1, index, torch.where(positive, gain_slope - slope_as_negative, 0.0))
        _LossWithSlope.keep(ctx, slope, logits.dtype)
        return loss


def heatmap_focal_loss(
    logits: Tensor, point: Tensor, label: Tensor, positive: Tensor, spots: Spots, ignored: float = 0.0
) -> Tensor:
    """The summed focal loss of CornerNet and CenterNet on one level, in which cells near an object count less.

    Positives cost alpha (1 - p)^2 * -log p, in addition to what all cells cost as negatives: (1 - alpha) p^2 *
    -log(1 - p) * (1 - h)^4, where h is the heatmap.

    Args:
        logits: (B, n, K).
        point, label: (B, C) int64, the position of each candidate in `logits`.
        positive: (B, C) bool; a (point, label) that is positive twice counts twice.
        spots: the heatmap where it is not 0.
        ignored: drop negatives whose probability is at least this. Default: 0, which drops none.
    """
    index = point * logits.shape[-1] + label
    return _HeatmapFocalLoss.apply(logits.contiguous(), index, positive, spots, ignored)


class _HeatmapFocalLoss(_LossWithSlope):
    """As `_FocalLoss`: everything as a negative with h = 0 at first, then corrected where it is not."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, positive: Tensor, spots: Spots, ignored: float) -> Tensor:
        x = logits if logits.dtype == torch.float64 else logits.float()
        loss, slope = _all_negatives(x, ignored)
        shape = (1, 1, -1) if spots.index.ndim == 1 else x.shape
        where = spots.index.expand(*shape[:-1], -1)
        cost, cost_slope = _negative(x.view(shape).gather(2, where), ignored)
        less = (1 - (1 - spots.height.to(x.dtype)) ** 4).view_as(cost)
        loss = loss - (less * cost).sum()
        slope.view(shape).scatter_add_(2, where, -less * cost_slope)
        gain, gain_slope = _positive(x.flatten(1).gather(1, index))
        loss = loss + torch.where(positive, gain, 0.0).sum()
        slope.flatten(1).scatter_add_(1, index, torch.where(positive, gain_slope, 0.0))
        _LossWithSlope.keep(ctx, slope, logits.dtype)
        return loss


def _negatives(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of (1 - alpha) s(x)^2 softplus(x), and its slope at each x: (1 - alpha) s^2 (s + 2 (1 - s) softplus)."""
    s = x.sigmoid()
    cost = F.softplus(x)
    square = s.square()
    slope = torch.addcmul(s, cost, 1 - s, value=2).mul_(square).mul_(1 - ALPHA)
    return (1 - ALPHA) * cost.mul_(square).sum(), slope


def _all_negatives(x: Tensor, ignored: float) -> tuple[Tensor, Tensor]:
    """The summed loss of a contiguous tensor as negatives, and its slope, in parts that stay in a CPU's caches."""
    size = PART * torch.get_num_threads() if x.device.type == "cpu" else x.numel()
    slope, losses = torch.empty_like(x), []
    highest = 1 - torch.finfo(x.dtype).eps / 2  # beyond it the logarithm would be infinite
    for part, out in zip(x.view(-1).split(size), slope.view(-1).split(size), strict=True):
        s = torch.sigmoid(part, out=out).clamp_(max=highest)
        gain = torch.log1p(-s)  # -softplus(x), in less time
        square = s.square()
        if ignored:
            square.masked_fill_(s >= ignored, 0.0)
        losses.append(torch.dot(gain, square))
        s.sub_((1 - s).mul_(gain), alpha=2).mul_(square).mul_(1 - ALPHA)
    return -(1 - ALPHA) * torch.stack(losses).sum(), slope


def _negative(x: Tensor, ignored: float = 0.0) -> tuple[Tensor, Tensor]:
    """The loss of each x as a negative, and its slope."""
    s, r, cost = x.sigmoid(), (-x).sigmoid(), F.softplus(x)
    square = s.square()
    if ignored:
        square = square.masked_fill(s >= ignored, 0.0)
    return (1 - ALPHA) * square * cost, (1 - ALPHA) * square * (s + 2 * r * cost)


def _positive(x: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each x as a positive, and its slope."""
    s, r, cost = x.sigmoid(), (-x).sigmoid(), F.softplus(-x)
    return ALPHA * r.square() * cost, -ALPHA * r.square() * (r + 2 * s * cost)
