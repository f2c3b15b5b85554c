"""Non-maximum suppression."""

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
