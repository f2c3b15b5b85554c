"""CenterNet2's proposals, sampling and cascade as in common frameworks: image by image, in shapes that follow the data.

Benchmarks compare with it, and tests check the detector's results against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from stock_center import stock_losses as stock_dense_losses
from stock_center import stock_targets
from torch import Tensor

from detector.loss.center_assign import RANGES
from detector.model.cascade import SIDE, BoxHead
from detector.model.centernet2 import (
    CANDIDATES,
    FIRST_WEIGHTS,
    IGNORED,
    PROPOSAL_IOU,
    PROPOSAL_THRESHOLD,
    SCALES,
    THRESHOLDS,
    CenterNet2Head,
    Proposed,
)
from detector.model.grid import Grid, grid_of

Pool = Callable[[list[Tensor], list[Tensor]], Tensor]  # the pyramid and each image's boxes -> (all boxes, C, 7, 7)
Sample = tuple[Tensor, Tensor, Tensor]  # of one image: boxes (n, 4), classes (n), what they should become (n, 4)


def stock_proposals(output: Proposed, grid: Grid, limit: int, training: bool = True) -> list[tuple[Tensor, Tensor]]:
    """The boxes and probabilities of each image's proposals, best first."""
    found = []
    for image, region in enumerate(output.region):
        boxes, scores = [], []
        for level, (stride, height, width) in enumerate(grid.levels):
            x = (torch.arange(width, device=region.device) * stride + stride // 2).repeat(height)
            y = (torch.arange(height, device=region.device) * stride + stride // 2).repeat_interleave(width)
            p = output.objects.logits[level][image, 0].flatten().float().sigmoid()
            inside = (x >= region[0]) & (x < region[2]) & (y >= region[1]) & (y < region[3])
            chosen = ((p > PROPOSAL_THRESHOLD) & inside).nonzero()[:, 0]
            if len(chosen) > CANDIDATES[training]:
                chosen = chosen[p[chosen].topk(CANDIDATES[training])[1]]
            sides = output.objects.boxes[level][image].flatten(1).T[chosen].float() * stride
            point = torch.stack([x[chosen], y[chosen]], 1)
            low = torch.maximum(point - sides[:, :2], region[:2])
            high = torch.minimum(point + sides[:, 2:], region[2:])
            full = (high > low).all(1)
            boxes.append(torch.cat([low, high], 1)[full])
            scores.append(p[chosen][full])
        box, score = torch.cat(boxes), torch.cat(scores)
        kept = stock_nms(box, score, PROPOSAL_IOU)[:limit]
        found.append((box[kept], score[kept]))
    return found


def stock_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that greedy suppression keeps, best first: by torchvision, where it is installed."""
    try:
        from torchvision.ops import nms
    except (ImportError, RuntimeError):
        order = scores.argsort(descending=True, stable=True)
        kept = []
        while len(order):
            kept.append(order[0])
            order = order[1:][stock_iou(boxes[order[:1]], boxes[order[1:]])[0] <= threshold]
        return torch.stack(kept) if kept else order
    return nms(boxes, scores, threshold)


def stock_iou(a: Tensor, b: Tensor) -> Tensor:
    """(n, m): the IoU of boxes (n, 4) and (m, 4)."""
    sides = torch.min(a[:, None, 2:], b[None, :, 2:]) - torch.max(a[:, None, :2], b[None, :, :2])
    overlap = sides.clamp(min=0).prod(2)
    area = [(box[:, 2:] - box[:, :2]).prod(1) for box in (a, b)]
    return overlap / (area[0][:, None] + area[1][None] - overlap)


def stock_match(boxes: Tensor, objects: Tensor, labels: Tensor, threshold: float, classes: int) -> Sample:
    """The boxes of an image with the class and the object that each belongs to."""
    if len(objects) == 0 or len(boxes) == 0:
        return boxes, torch.full((len(boxes),), classes, device=boxes.device), boxes
    best, index = stock_iou(boxes, objects).max(1)
    on_object = best >= threshold
    return boxes, torch.where(on_object, labels[index], classes), objects[index]


def stock_sample(
    proposals: Tensor, objects: Tensor, labels: Tensor, count: int, classes: int, draws: Tensor | None = None
) -> Sample:
    """At most `count` regions of an image. Those with the lowest of `draws` (P + G) are chosen, or random ones."""
    boxes, found, targets = stock_match(torch.cat([proposals, objects]), objects, labels, THRESHOLDS[0], classes)
    on_object, other = (found < classes).nonzero()[:, 0], (found == classes).nonzero()[:, 0]
    first = min(on_object.numel(), count // 4)
    parts = []
    for part, most in ((on_object, first), (other, min(other.numel(), count - first))):
        order = torch.randperm(part.numel(), device=part.device) if draws is None else draws[part].argsort()
        parts.append(part[order[:most]])
    chosen = torch.cat(parts)
    return boxes[chosen], found[chosen], targets[chosen]


def stock_losses(
    head: CenterNet2Head,
    output: Proposed,
    objects: list[tuple[Tensor, Tensor]],
    pool: Pool,
    draws: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of the second stage; `objects` are the boxes and classes of each image."""
    grid = grid_of(head.strides, output.objects.logits)
    with torch.no_grad():
        proposals = stock_proposals(output, grid, head.settings.train_proposals)
        samples = [
            stock_sample(box, *gt, head.settings.rois, head.classes, None if draws is None else draws[image])
            for image, ((box, _), gt) in enumerate(zip(proposals, objects, strict=True))
        ]
    losses = {}
    for number, stage in enumerate(head.stages, 1):
        boxes = [sample[0] for sample in samples]
        pooled = pool(output.pyramid, boxes)
        pooled = pooled / len(head.stages) + pooled.detach() * (1 - 1 / len(head.stages))
        scale = SCALES[number - 1]
        classification, box_loss, differences = stock_stage(stage, pooled, samples, scale, head.classes)
        losses |= {f"classification_{number}": classification, f"box_{number}": box_loss}
        if number < len(head.stages):
            moved = stock_decode(torch.cat(boxes), differences.detach(), scale).split([len(box) for box in boxes])
            samples = [
                stock_match(_not_empty(_clip(box, region)), *gt, THRESHOLDS[number], head.classes)
                for box, region, gt in zip(moved, output.region, objects, strict=True)
            ]
    return losses


def stock_pool(levels: list[Tensor], boxes: list[Tensor], strides: tuple[int, ...]) -> Tensor:
    """The features of all images' boxes, level by level: by torchvision's RoIAlign, which must be installed."""
    from torchvision.ops import roi_align

    everything = torch.cat([F.pad(box, (1, 0), value=float(image)) for image, box in enumerate(boxes)])
    area = (everything[:, 3] - everything[:, 1]) * (everything[:, 4] - everything[:, 2])
    level = (4 + (area.sqrt() / 224 + 1e-8).log2()).floor() - math.log2(strides[0])
    level = level.clamp(0, len(levels) - 1)
    pooled = levels[0].new_zeros(len(everything), levels[0].shape[1], SIDE, SIDE)
    for number, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        here = (level == number).nonzero()[:, 0]
        pooled[here] = roi_align(features, everything[here], SIDE, 1 / stride, 2, aligned=True)
    return pooled


def stock_first_losses(output: Proposed, objects: list[tuple[Tensor, Tensor]], grid: Grid) -> tuple[Tensor, Tensor]:
    """The losses of the first stage; `objects` are the boxes and classes of each image."""
    ranges = RANGES[len(grid.counts)]
    count = max(len(labels) for _, labels in objects)
    boxes = torch.stack([F.pad(box, (0, 0, 0, count - len(box))) for box, _ in objects])
    usable = torch.stack([torch.arange(count, device=boxes.device) < len(labels) for _, labels in objects])
    targets = stock_targets(boxes, torch.zeros_like(usable, dtype=torch.int64), usable, grid, ranges, 1)
    logits, distances, _ = output.objects
    objectness, box = stock_dense_losses(logits, distances, targets, grid, ranges, more=False, ignored=IGNORED)
    return objectness * FIRST_WEIGHTS[0], box / 2 * FIRST_WEIGHTS[1]  # CenterNet*'s own weight is 2


def stock_stage(
    stage: BoxHead, pooled: Tensor, samples: list[Sample], scale: tuple[float, float], classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of one stage, and the differences that it predicts (all boxes, 4)."""
    boxes, labels, targets = (torch.cat(part) for part in zip(*samples, strict=True))
    logits, differences = (out[0] for out in stage(pooled[None]))
    on_object = (labels < classes).nonzero()[:, 0]
    wanted = stock_encode(boxes[on_object], targets[on_object], scale)
    box_loss = (differences[on_object] - wanted).abs().sum() / max(labels.numel(), 1)
    return F.cross_entropy(logits, labels), box_loss, differences


def stock_encode(boxes: Tensor, targets: Tensor, scale: tuple[float, float]) -> Tensor:
    width, height, x, y = _sides(boxes)
    target_width, target_height, target_x, target_y = _sides(targets)
    dx, dy = scale[0] * (target_x - x) / width, scale[0] * (target_y - y) / height
    dw, dh = scale[1] * torch.log(target_width / width), scale[1] * torch.log(target_height / height)
    return torch.stack([dx, dy, dw, dh], 1)


def stock_decode(boxes: Tensor, differences: Tensor, scale: tuple[float, float]) -> Tensor:
    width, height, x, y = _sides(boxes)
    dx, dy, dw, dh = differences.T
    x, y = dx / scale[0] * width + x, dy / scale[0] * height + y
    most = math.log(1000 / 16)
    width, height = (dw / scale[1]).clamp(max=most).exp() * width, (dh / scale[1]).clamp(max=most).exp() * height
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return width, height, boxes[:, 0] + width / 2, boxes[:, 1] + height / 2


def _clip(boxes: Tensor, region: Tensor) -> Tensor:
    x0, y0, x1, y1 = region
    x, y = boxes[:, 0::2].clamp(x0, x1), boxes[:, 1::2].clamp(y0, y1)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)


def _not_empty(boxes: Tensor) -> Tensor:
    return boxes[((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]]
