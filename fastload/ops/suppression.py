"""Non-maximum suppression."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fastload import _core

FEW = 200  # kept boxes: one step for each is fastest up to about here


def nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, limit: int) -> Tensor:
    """Run exact greedy non-maximum suppression within each class, for a whole batch.

    A box suppresses the boxes of its class that have a lower score and an IoU with it above `threshold`. CPU tensors
    are processed by the native core, others by PyTorch without a device synchronization. Both return the same indices;
    above a limit of 200, PyTorch may keep too many boxes where very long chains of boxes overlap, see `nms_torch_many`.

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
        threads = torch.get_num_threads()
        arrays = _array(boxes.float()), _array(scores.float()), _array(labels)
        return torch.from_numpy(_core.nms(*arrays, threshold, limit, threads))
    if limit <= FEW:
        return nms_torch(boxes, scores, labels, threshold, limit)
    return nms_torch_many(boxes, scores, labels, threshold, limit)


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def nms_torch(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, limit: int) -> Tensor:
    """`nms` in PyTorch: one step per kept box, with static shapes and no transfer to the host."""
    corners = boxes.double()  # double, as in the native core, so that both make the same decisions
    alive = torch.where(scores > -torch.inf, scores, -torch.inf)
    kept = []
    for _ in range(min(limit, boxes.shape[1])):
        score, best = alive.max(1, keepdim=True)
        kept.append(torch.where(score > -torch.inf, best, -1))
        winner = corners.gather(1, best[..., None].expand(-1, -1, 4))
        suppressed = (_iou(winner, corners)[:, 0] > threshold) & (labels == labels.gather(1, best))
        alive = alive.masked_fill(suppressed, -torch.inf).scatter(1, best, -torch.inf)
    return torch.cat(kept, 1) if kept else scores.new_empty((len(scores), 0), dtype=torch.int64)


def nms_torch_many(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    threshold: float,
    limit: int,
    block: int = 512,
    rounds: int = 16,
) -> Tensor:
    """`nms` in PyTorch for many kept boxes, with static shapes and no transfer to the host.

    Boxes are taken in blocks, by descending score. A block is compared with the boxes kept before, then with itself:
    starting with all boxes of the block, each round keeps those that no kept box with a higher score suppresses
    (Cluster-NMS, Zheng et al. 2020). After r rounds, the decision on a box is that of greedy suppression, unless it
    hangs on a chain of more than r boxes of its block, each of which would suppress the next.

    Args:
        block: boxes compared at a time. The memory is that of a few (B, block, max(limit, block)) float64.
        rounds: an even number. If they are too few, too many boxes are kept.
    """
    batch, number = scores.shape
    limit = min(limit, number)
    order = scores.sort(dim=1, descending=True, stable=True).indices
    present = scores.gather(1, order) > -torch.inf
    corners = boxes.double().gather(1, order[..., None].expand(-1, -1, 4))
    classes = labels.gather(1, order)
    earlier = torch.ones((block, block), dtype=torch.bool, device=boxes.device).triu(1)

    # One place more than the limit takes what is not kept. A winner that is not there is empty: it suppresses nothing.
    kept = order.new_full((batch, limit + 1), -1)
    winners = corners.new_zeros((batch, limit + 1, 4))
    winner_classes = classes.new_zeros((batch, limit + 1))
    count = order.new_zeros((batch, 1))
    for start in range(0, number, block):
        some, index, class_, there = (part[:, start : start + block] for part in (corners, order, classes, present))
        beaten = _suppresses(winners[:, :limit], some, winner_classes[:, :limit], class_, threshold).any(1)
        there = there & ~beaten
        size = there.shape[1]
        suppresses = _suppresses(some, some, class_, class_, threshold) & earlier[:size, :size]
        keep = there
        for _ in range(rounds):
            keep = there & ~(suppresses & keep[..., None]).any(1)
        place = torch.where(keep, count + keep.cumsum(1) - 1, limit).clamp(max=limit)
        kept.scatter_(1, place, index)
        winners.scatter_(1, place[..., None].expand(-1, -1, 4), some)
        winner_classes.scatter_(1, place, class_)
        count = count + keep.sum(1, keepdim=True)
    best: Tensor = kept[:, :limit]
    return best


def _suppresses(a: Tensor, b: Tensor, class_of_a: Tensor, class_of_b: Tensor, threshold: float) -> Tensor:
    """Which of the boxes (B, N, 4) may suppress which of (B, M, 4): (B, N, M) bool."""
    return (_iou(a, b) > threshold) & (class_of_a[:, :, None] == class_of_b[:, None])


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (B, N, M) of boxes (B, N, 4) and (B, M, 4)."""
    x0, y0, x1, y1 = a[:, :, None].unbind(-1)
    u0, v0, u1, v1 = b[:, None].unbind(-1)
    width = torch.minimum(x1, u1) - torch.maximum(x0, u0)
    height = torch.minimum(y1, v1) - torch.maximum(y0, v0)
    overlap = width.clamp(min=0) * height.clamp(min=0)
    union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - overlap
    iou: Tensor = overlap / union
    return iou
