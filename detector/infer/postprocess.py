"""From a head's predictions to detections, for all images and levels of a batch together, with static shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.model.grid import Grid, flatten
from fastload import nms


@dataclass(frozen=True)
class Detections:
    """At most D detections an image, best first; a label of -1 is none."""

    boxes: Tensor  # (B, D, 4) float xyxy
    scores: Tensor  # (B, D) float, 0 where there is none
    labels: Tensor  # (B, D) int64
    image_ids: tuple[int, ...] = ()  # (B), where they are known

    def cpu(self) -> Detections:
        """The same in host memory, in one transfer."""
        packed = torch.cat([self.boxes, self.scores[..., None], self.labels[..., None].float()], -1).cpu()
        return Detections(packed[..., :4], packed[..., 4], packed[..., 5].long(), self.image_ids)


@dataclass(frozen=True)
class Settings:
    """FCOS's inference settings."""

    score_threshold: float = 0.05  # on the class score
    candidates: int = 1000  # of each level, before suppression
    iou_threshold: float = 0.6
    limit: int = 100  # detections an image


def postprocess(
    logits: list[Tensor], boxes: list[Tensor], quality: list[Tensor], grid: Grid, region: Tensor, settings: Settings
) -> Detections:
    """Detections in canvas pixels, scored sqrt(class * quality).

    Args:
        logits, boxes, quality: per level (B, K, h, w), (B, 4, h, w), (B, 1, h, w), as FCOS returns them.
        region: (B, 4) float xyxy, where each image lies on its canvas. Points beyond it predict nothing and boxes are
            cut to it, so the padding around an image is of no consequence here.
    """
    points = grid.points.split(grid.counts)
    strides = grid.strides.unbind()
    levels = [
        _candidates(*level, region, settings) for level in zip(logits, boxes, quality, points, strides, strict=True)
    ]
    found, scores, labels = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
    kept = nms(found, scores, labels, settings.iou_threshold, settings.limit)
    rows, some = kept.clamp(min=0), kept >= 0
    return Detections(
        boxes=torch.where(some[..., None], found.gather(1, rows[..., None].expand(-1, -1, 4)), 0.0),
        scores=torch.where(some, scores.gather(1, rows), 0.0),
        labels=torch.where(some, labels.gather(1, rows), -1),
    )


def _candidates(
    logits: Tensor, boxes: Tensor, quality: Tensor, points: Tensor, stride: Tensor, region: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """The best (point, class) pairs of one level: boxes (B, k, 4), scores (B, k), labels (B, k).

    Exact in two steps: the k best pairs are at the k points whose best class is best.
    """
    inside = _inside(points, region, logits.shape[-1])
    logits = flatten(logits)
    classes = logits.shape[-1]
    threshold = torch.tensor(settings.score_threshold, dtype=torch.float64).logit().item()
    peak = logits.amax(-1).masked_fill(~inside, -torch.inf)
    best, near = _largest(peak, threshold, settings.candidates)  # (B, p)
    rows = torch.arange(len(near), device=near.device)[:, None]
    pairs = logits[rows, near].masked_fill((best == -torch.inf)[..., None], -torch.inf).flatten(1)
    logit, pair = _largest(pairs, threshold, settings.candidates)
    point, label = near.gather(1, pair // classes), pair % classes

    distances = flatten(boxes)[rows, point].float() * stride
    origin = points[point]
    low = torch.maximum(origin - distances[..., :2], region[:, None, :2])
    high = torch.minimum(origin + distances[..., 2:], region[:, None, 2:])
    score = (logit.float().sigmoid() * flatten(quality)[rows, point, 0].float().sigmoid()).sqrt()
    some = (logit > threshold) & (high > low).all(-1)
    return torch.cat([low, high], -1), torch.where(some, score, -torch.inf), label


def _inside(points: Tensor, region: Tensor, width: int) -> Tensor:
    """(B, n) bool: which points, row by row of `width`, lie in an image's region. Rows and columns are few."""
    x, y = points[:width, 0], points[::width, 1]
    x0, y0, x1, y1 = region.T[..., None]
    column, row = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    return (row[:, :, None] & column[:, None]).flatten(1)


def _largest(logits: Tensor, threshold: float, most: int) -> tuple[Tensor, Tensor]:
    """The `most` largest of logits (B, n) in any order, values and indices. What is not above the threshold may be
    missing, or -inf with any index.

    Where reading a number costs nothing, few are above it and to pick them out is quicker than to order all.
    """
    if logits.device.type != "cpu":
        return logits.topk(min(most, logits.shape[1]), sorted=False)
    row, column = (logits > threshold).nonzero(as_tuple=True)
    counts = row.bincount(minlength=len(logits))
    place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]  # among those of its row
    values = logits.new_full((len(logits), int(counts.max())), -torch.inf)
    indices = torch.zeros_like(values, dtype=torch.int64)
    values[row, place], indices[row, place] = logits[row, column], column
    if values.shape[1] > most:
        values, order = values.topk(most, sorted=False)
        indices = indices.gather(1, order)
    return values, indices


def to_original(detections: Detections, scale: Tensor, offset: Tensor, size: Tensor) -> Detections:
    """Canvas pixels -> pixels of the original images, on the device. The inverse of resizing and padding.

    Args:
        scale: (B, 2) x, y factors from the original image to the canvas.
        offset: (B, 2) x, y of the image on the canvas.
        size: (B, 2) height, width of the original image.
    """
    corners = (detections.boxes.unflatten(-1, (2, 2)) - offset[:, None, None]) / scale[:, None, None]
    limit = size.flip(-1)[:, None, None].to(corners.dtype)
    corners = torch.minimum(corners.clamp(min=0), limit)
    real = (detections.labels >= 0)[..., None]
    return Detections(torch.where(real, corners.flatten(-2), 0.0), detections.scores, detections.labels)
