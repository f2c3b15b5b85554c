"""Rotated boxes: their corners, or center, sides and angle."""

from __future__ import annotations

import torch
from torch import Tensor


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
