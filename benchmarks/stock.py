"""FCOS's head as in common frameworks: per image, points x boxes, one-hot targets, a loop for inference.

Benchmarks compare with it, and tests check the detector's results against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.model.grid import Grid
from fastload import nms

Predicted = tuple[list[Tensor], list[Tensor], list[Tensor]]  # logits, boxes, quality, per level


def stock_assign(boxes: Tensor, labels: Tensor, usable: Tensor, grid: Grid) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per image: class of every point (N; -1 is background), its distances in strides (N, 4) and its box (N)."""
    return [_assign_image(boxes[i], labels[i], usable[i], grid) for i in range(len(boxes))]


def _assign_image(boxes: Tensor, labels: Tensor, usable: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    index = usable.nonzero()[:, 0]
    boxes, labels = boxes[index], labels[index]
    points, count = len(grid.points), len(boxes)
    if count == 0:
        none = labels.new_full((points,), -1)
        return none, boxes.new_zeros((points, 4)), none
    areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[None].repeat(points, 1)
    reach = torch.cat([r.expand(n, 2) for r, n in zip(grid.reach, grid.counts, strict=True)])
    gt = boxes[None].expand(points, count, 4)
    x = grid.points[:, 0, None].expand(points, count)
    y = grid.points[:, 1, None].expand(points, count)
    distances = torch.stack((x - gt[..., 0], y - gt[..., 1], gt[..., 2] - x, gt[..., 3] - y), -1)

    center_x, center_y = (gt[..., 0] + gt[..., 2]) / 2, (gt[..., 1] + gt[..., 3]) / 2
    radius = (grid.point_strides * 1.5)[:, None].expand(points, count)
    left = torch.where(center_x - radius > gt[..., 0], center_x - radius, gt[..., 0])
    top = torch.where(center_y - radius > gt[..., 1], center_y - radius, gt[..., 1])
    right = torch.where(center_x + radius > gt[..., 2], gt[..., 2], center_x + radius)
    bottom = torch.where(center_y + radius > gt[..., 3], gt[..., 3], center_y + radius)
    inside = torch.stack((x - left, y - top, right - x, bottom - y), -1).min(-1)[0] > 0

    farthest = distances.max(-1)[0]
    in_reach = (farthest >= reach[:, None, 0]) & (farthest <= reach[:, None, 1])
    areas[inside == 0] = float("inf")
    areas[in_reach == 0] = float("inf")
    smallest, chosen = areas.min(dim=1)
    label = labels[chosen]
    label[smallest == float("inf")] = -1
    target = distances[range(points), chosen] / grid.point_strides[:, None]
    return label, target, index[chosen]


def stock_loss(predicted: Predicted, targets: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Classification, box and centerness loss of one process."""
    logits, boxes, quality = (torch.cat([_flat(level) for level in part], 1).flatten(0, 1) for part in predicted)
    logits, boxes, quality = logits.float(), boxes.float(), quality.float()
    label = torch.cat([target[0] for target in targets])
    distances = torch.cat([target[1] for target in targets])
    positive = (label >= 0).nonzero()[:, 0]
    count = max(float(len(positive)), 1.0)

    one_hot = torch.zeros_like(logits)
    one_hot[positive, label[positive]] = 1.0
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    p_t = p * one_hot + (1 - p) * (1 - one_hot)
    alpha_t = 0.25 * one_hot + 0.75 * (1 - one_hot)
    classification = (alpha_t * cross_entropy * (1 - p_t) ** 2).sum() / count

    distances, boxes, quality = distances[positive], boxes[positive], quality[positive, 0]
    if len(positive) == 0:
        return classification, boxes.sum(), quality.sum()
    horizontal, vertical = distances[:, [0, 2]], distances[:, [1, 3]]
    centerness = (horizontal.min(1)[0] / horizontal.max(1)[0]) * (vertical.min(1)[0] / vertical.max(1)[0])
    centerness = centerness.sqrt()
    giou = _giou(_corners(boxes), _corners(distances))
    weights = max(float(centerness.sum()), 1e-6)
    match = F.binary_cross_entropy_with_logits(quality, centerness, reduction="sum")
    return classification, ((1 - giou) * centerness).sum() / weights, match / count


def _flat(level: Tensor) -> Tensor:
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, level.shape[1])


def _corners(distances: Tensor) -> Tensor:
    return torch.cat([-distances[:, :2], distances[:, 2:]], 1)


def _giou(a: Tensor, b: Tensor) -> Tensor:
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    overlap = (torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    hull = (torch.max(a[:, 2:], b[:, 2:]) - torch.min(a[:, :2], b[:, :2])).prod(1)
    union = area_a + area_b - overlap
    return overlap / union - (hull - union) / hull


def stock_postprocess(predicted: Predicted, grid: Grid, region: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per image: boxes (D, 4), scores (D) and labels (D), best first."""
    points = grid.points.split(grid.counts)
    found = []
    for i in range(len(region)):
        parts = []
        for level, (logits, boxes, quality) in enumerate(zip(*predicted, strict=True)):
            parts.append(
                _image_candidates(
                    _flat(logits[i : i + 1])[0].float(),
                    _flat(boxes[i : i + 1])[0].float() * grid.strides[level],
                    _flat(quality[i : i + 1])[0].float(),
                    points[level],
                    region[i],
                )
            )
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        kept = nms_of_image(boxes, scores, labels)[:100]
        found.append((boxes[kept], scores[kept], labels[kept]))
    return found


def _image_candidates(
    logits: Tensor, distances: Tensor, quality: Tensor, points: Tensor, region: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scores = logits.sigmoid()
    inside = ((points >= region[:2]) & (points < region[2:])).all(1)
    pairs = ((scores > 0.05) & inside[:, None]).nonzero()
    chosen, order = scores[pairs[:, 0], pairs[:, 1]].sort(descending=True)
    pairs = pairs[order[:1000]]
    point, label = pairs.unbind(1)
    score = (chosen[:1000] * quality[point, 0].sigmoid()).sqrt()
    boxes = torch.cat([points[point] - distances[point, :2], points[point] + distances[point, 2:]], 1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(min=region[0], max=region[2])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(min=region[1], max=region[3])
    real = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return boxes[real], score[real], label[real]


def nms_of_image(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Like torchvision's `batched_nms`: one suppression over all classes, separated by an offset; no limit."""
    if len(boxes) == 0:
        return labels
    apart = boxes + labels[:, None].to(boxes) * (boxes.max() + 1)
    same = torch.zeros_like(labels)
    kept = nms(apart[None], scores[None], same[None], 0.6, len(boxes))[0]
    return kept[kept >= 0]
