"""Which regions of interest a second stage learns from, what they should be, and its losses.

Shapes are static and the host does not wait for the device: regions that do not count are marked, not removed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.model.cascade import encode

OBJECTS = 0.25  # the largest share of regions that lie on objects
PART = 64  # objects that are compared with all boxes at once, which bounds the memory of crowded images


class Objects(NamedTuple):
    """The annotated objects of a batch."""

    boxes: Tensor  # (B, G, 4) float xyxy in canvas pixels
    labels: Tensor  # (B, G) int64
    usable: Tensor  # (B, G) bool


class Rois(NamedTuple):
    """Regions of interest and what they should become."""

    boxes: Tensor  # (B, R, 4) float xyxy in canvas pixels
    valid: Tensor  # (B, R) bool
    labels: Tensor  # (B, R) int64: the class, or K for no object
    targets: Tensor  # (B, R, 4) float xyxy; the box itself if it is not on an object


def match(boxes: Tensor, valid: Tensor, objects: Objects, threshold: float, classes: int) -> Rois:
    """Assign each box to the object with which it has the highest IoU, if that is at least `threshold`."""
    best = boxes.new_zeros(boxes.shape[:2])
    index = torch.zeros_like(best, dtype=torch.int64)
    for start in range(0, objects.boxes.shape[1], PART):
        part = slice(start, start + PART)
        iou = _iou(boxes, objects.boxes[:, part]).masked_fill(~objects.usable[:, None, part], 0.0)
        most, place = iou.max(-1)
        index = torch.where(most > best, place + start, index)
        best = torch.maximum(best, most)
    on_object = valid & (best >= threshold)
    if not objects.boxes.shape[1]:
        return Rois(boxes, valid, torch.full_like(index, classes), boxes)
    labels = torch.where(on_object, objects.labels.gather(1, index), classes)
    targets = objects.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return Rois(boxes, valid, labels, torch.where(on_object[..., None], targets, boxes))


def sample(proposals: Tensor, valid: Tensor, objects: Objects, count: int, threshold: float, classes: int) -> Rois:
    """Choose at most `count` regions of each image at random from proposals and objects.

    At most a quarter of them lie on objects. The draws are those of detectron2's sampler: of both kinds each region is
    as likely as any other.

    Args:
        proposals: (B, P, 4) float xyxy in canvas pixels.
        valid: (B, P) bool.
        objects: the annotated objects.
        count: R, the number of regions of each image; those beyond P + G are left out.
        threshold: the lowest IoU with an object of a region that lies on it.
        classes: number of classes K.
    """
    found = match(
        torch.cat([proposals, objects.boxes], 1), torch.cat([valid, objects.usable], 1), objects, threshold, classes
    )
    draw = torch.rand(found.valid.shape, device=proposals.device)
    on_object = found.valid & (found.labels < classes)
    # The place of each region among those on objects, in order of their draws.
    place = torch.where(on_object, draw, 2.0).argsort(1).argsort(1)
    kept = found.valid & (~on_object | (place < int(OBJECTS * count)))
    order = torch.where(kept, torch.where(on_object, draw, 1 + draw), 3.0)
    key, chosen = order.topk(min(count, order.shape[1]), largest=False)
    rows = chosen[..., None].expand(-1, -1, 4)
    return Rois(
        boxes=found.boxes.gather(1, rows),
        valid=key < 3.0,
        labels=found.labels.gather(1, chosen),
        targets=found.targets.gather(1, rows),
    )


def roi_losses(logits: Tensor, differences: Tensor, rois: Rois, scale: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """The losses of one stage: cross-entropy, and the L1 distance of differences of those on objects.

    Both are divided by the number of regions that count, as in Fast R-CNN (Girshick 2015).

    Args:
        logits: (B, R, K + 1), the last for no object.
        differences: (B, R, 4) predicted.
        rois: what they should be.
        scale: of the differences: see `encode`.
    """
    count = rois.valid.sum().clamp(min=1)
    cost = F.cross_entropy(logits.float().flatten(0, 1), rois.labels.flatten(), reduction="none")
    on_object = (rois.valid & (rois.labels < logits.shape[-1] - 1))[..., None]
    target = torch.where(on_object, encode(rois.boxes, rois.targets, scale), 0.0)  # other boxes may be empty
    distance = torch.where(on_object, (differences.float() - target).abs(), 0.0)
    return torch.where(rois.valid.flatten(), cost, 0.0).sum() / count, distance.sum() / count


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """(B, P, G): the IoU of boxes (B, P, 4) and (B, G, 4) xyxy; 0 where either is empty."""
    a, b = a[:, :, None], b[:, None]
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    overlap = sides.clamp(min=0).prod(-1)
    area = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b)]
    return torch.where(overlap > 0, overlap / (area[0] + area[1] - overlap), 0.0)
