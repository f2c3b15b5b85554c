"""Box operations for detectors."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fastload import _core


def nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, limit: int) -> Tensor:
    """Run exact greedy non-maximum suppression within each class, for a whole batch.

    A box suppresses the boxes of its class that have a lower score and an IoU with it above `threshold`. CPU tensors
    are processed by the native core, others by PyTorch without a device synchronization. Both return the same indices.

        kept = nms(boxes, scores, labels, threshold=0.6, limit=100)
        best = boxes.gather(1, kept.clamp(min=0)[..., None].expand(-1, -1, 4))  # (B, K, 4); ignore where kept is -1

    Args:
        boxes: (B, N, 4) float, x0, y0, x1, y1.
        scores: (B, N) float; -inf marks padding.
        labels: (B, N) int64 class of each box.
        threshold: IoU, 0 to 1.
        limit: maximum number of boxes to keep per image.

    Returns:
        (B, min(limit, N)) int64 indices of the kept boxes, by descending score (equal scores by ascending index),
        padded with -1.

    Raises:
        ValueError: the shapes of CPU tensors do not agree.
    """
    if boxes.device.type == "cpu":
        return torch.from_numpy(
            _core.nms(_array(boxes.float()), _array(scores.float()), _array(labels), threshold, limit)
        )
    return nms_torch(boxes, scores, labels, threshold, limit)


def corners_to_xywha(corners: Tensor) -> Tensor:
    """Convert the corners of rotated boxes to center, sides and angle.

    The result is the smallest rectangle around the corners: an image scaled unevenly turns rectangles into
    parallelograms. Nothing is clipped: the rectangle of a box that an image's edge cuts reaches beyond the edge.

        rotated = corners_to_xywha(targets.columns["rotated"])  # (B, G, 5), zeros in the padding

    Args:
        corners: (..., 4, 2) float, x, y in pixels, in any order.

    Returns:
        (..., 5) center x, center y, w, h, angle. w is the longer side. The angle is in radians, in [-pi/2, pi/2), from
        the x axis to this side, and positive if clockwise on the screen, where y points down. MMRotate calls this
        convention le90. A square has the angle of one of its sides.
    """
    first, second = [0, 1, 2, 3, 0, 1], [1, 2, 3, 0, 2, 3]  # a side of the smallest rectangle joins two of the corners
    precise = corners.double()
    center = precise.mean(-2, keepdim=True)  # rounding errors are those of small numbers
    points = precise - center
    along = points[..., second, :] - points[..., first, :]  # (..., 6, 2) directions that a side may have
    length = along.norm(dim=-1, keepdim=True)
    along = torch.where(length > 0, along / length.clamp(min=1e-300), along.new_tensor([1.0, 0.0]))
    across = torch.stack([-along[..., 1], along[..., 0]], -1)
    axes = torch.stack([along, across], -2)  # (..., 6, 2, 2)
    reach = axes @ points.transpose(-1, -2)[..., None, :, :]  # (..., 6, 2, 4)
    low, high = reach.amin(-1), reach.amax(-1)
    best = (high - low).prod(-1).argmin(-1)[..., None, None]
    sides, middle = (
        value.gather(-2, best.expand(*best.shape[:-1], 2))[..., 0, :] for value in (high - low, low + high)
    )
    axes = axes.gather(-3, best[..., None].expand(*best.shape[:-2], 1, 2, 2))[..., 0, :, :]
    center = center[..., 0, :] + (middle[..., None, :] / 2 @ axes)[..., 0, :]
    wide = sides[..., :1] >= sides[..., 1:]
    side = torch.where(wide, axes[..., 0, :], axes[..., 1, :])
    angle = torch.atan2(side[..., 1], side[..., 0])
    angle = torch.remainder(angle + torch.pi / 2, torch.pi) - torch.pi / 2
    sizes = torch.where(wide, sides, sides.flip(-1))
    angle = torch.where(angle > torch.pi / 2 - 1e-7, -torch.pi / 2, angle)  # float32 would round it to pi / 2
    return torch.cat([center, sizes, angle[..., None]], -1).to(corners.dtype)


def xywha_to_corners(boxes: Tensor) -> Tensor:
    """Convert rotated boxes to their corners. The inverse of `corners_to_xywha`, up to the order of the corners.

    Args:
        boxes: (..., 5) float, center x, center y, w, h, angle in radians, as `corners_to_xywha` returns them. w may be
            the shorter side, and the angle any.

    Returns:
        (..., 4, 2) x, y: clockwise on the screen, beginning with the corner that is the upper left if the angle is 0.
    """
    center, sides, angle = boxes[..., :2], boxes[..., 2:4], boxes[..., 4:]
    along = torch.cat([angle.cos(), angle.sin()], -1) * sides[..., :1] / 2
    across = torch.cat([-angle.sin(), angle.cos()], -1) * sides[..., 1:] / 2
    corners = (-along - across, along - across, along + across, across - along)
    return center[..., None, :] + torch.stack(corners, -2)


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def nms_torch(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, limit: int) -> Tensor:
    """`nms` in PyTorch: one step per kept box, with static shapes and no transfer to the host."""
    x0, y0, x1, y1 = boxes.double().unbind(-1)  # double, as in the native core, so that both make the same decisions
    area = (x1 - x0) * (y1 - y0)
    alive = torch.where(scores > -torch.inf, scores, -torch.inf)
    kept = []
    for _ in range(min(limit, boxes.shape[1])):
        score, best = alive.max(1, keepdim=True)
        kept.append(torch.where(score > -torch.inf, best, -1))
        width = torch.minimum(x1, x1.gather(1, best)) - torch.maximum(x0, x0.gather(1, best))
        height = torch.minimum(y1, y1.gather(1, best)) - torch.maximum(y0, y0.gather(1, best))
        overlap = width.clamp(min=0) * height.clamp(min=0)
        iou = overlap / (area + area.gather(1, best) - overlap)
        suppressed = (iou > threshold) & (labels == labels.gather(1, best))
        alive = alive.masked_fill(suppressed, -torch.inf).scatter(1, best, -torch.inf)
    return torch.cat(kept, 1) if kept else scores.new_empty((len(scores), 0), dtype=torch.int64)
