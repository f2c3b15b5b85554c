"""Turns predictions into detections, for all images and levels of a batch together, with static shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.model.grid import Grid, flatten
from fastload import nms

FEW = 0.1  # of all values


@dataclass(frozen=True)
class Detections:
    """At most D detections per image, best first; a label of -1 marks an empty place."""

    boxes: Tensor  # (B, D, 4) float xyxy
    scores: Tensor  # (B, D) float, 0 in empty places
    labels: Tensor  # (B, D) int64
    image_ids: tuple[int, ...] = ()  # (B), if known

    def cpu(self) -> Detections:
        """A copy in host memory, made in one transfer."""
        packed = torch.cat([self.boxes, self.scores[..., None], self.labels[..., None].float()], -1).cpu()
        return Detections(packed[..., :4], packed[..., 4], packed[..., 5].long(), self.image_ids)


@dataclass(frozen=True)
class Settings:
    """The settings of inference."""

    score_threshold: float = 0.05  # on the class score
    candidates: int = 1000  # per level, before suppression
    iou_threshold: float = 0.6
    limit: int = 100  # detections per image


def postprocess(
    logits: list[Tensor], boxes: list[Tensor], quality: list[Tensor], grid: Grid, region: Tensor, settings: Settings
) -> Detections:
    """Detections in canvas pixels, scored sqrt(class * quality), or by class alone if there is no quality.

    Args:
        logits, boxes, quality: per level (B, K, h, w), (B, 4, h, w), (B, 1 or 0, h, w): the fields of `Predictions`.
        grid: the points of the predictions.
        region: (B, 4) float xyxy, where each image lies on its canvas. Points outside are ignored and boxes are clipped
            to it, so the padding of an image has no effect.
        settings: thresholds and limits.
    """
    points = grid.points.split(grid.counts)
    strides = grid.strides.unbind()
    levels = [
        _candidates(*level, region, settings) for level in zip(logits, boxes, quality, points, strides, strict=True)
    ]
    candidates, scores, labels = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
    return suppress(candidates, scores, labels, settings)


def postprocess_rois(boxes: Tensor, scores: Tensor, settings: Settings) -> Detections:
    """Detections in canvas pixels from a second stage.

    Args:
        boxes: (B, P, 4) float xyxy, one box for all classes.
        scores: (B, P, K) float.
        settings: `candidates` limits the (box, class) pairs of an image.
    """
    classes = scores.shape[-1]
    score, pair = _largest(scores.flatten(1), settings.score_threshold, settings.candidates)
    candidates = boxes.gather(1, (pair // classes)[..., None].expand(-1, -1, 4))
    valid = (score > settings.score_threshold) & (candidates[..., 2:] > candidates[..., :2]).all(-1)
    return suppress(candidates, torch.where(valid, score, -torch.inf), pair % classes, settings)


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, settings: Settings) -> Detections:
    """The best of candidates (B, n, 4), (B, n), (B, n), without those that overlap better ones of their class."""
    kept = nms(boxes, scores, labels, settings.iou_threshold, settings.limit)
    rows, valid = kept.clamp(min=0), kept >= 0
    return Detections(
        boxes=torch.where(valid[..., None], boxes.gather(1, rows[..., None].expand(-1, -1, 4)), 0.0),
        scores=torch.where(valid, scores.gather(1, rows), 0.0),
        labels=torch.where(valid, labels.gather(1, rows), -1),
    )


def _candidates(
    logits: Tensor, boxes: Tensor, quality: Tensor, points: Tensor, stride: Tensor, region: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """The best (point, class) pairs of one level: boxes (B, k, 4), scores (B, k), labels (B, k).

    Exact in two steps: the k best pairs lie at the k points with the highest best class.
    """
    inside = _inside(points, region, logits.shape[-1])
    logits = flatten(logits)
    classes = logits.shape[-1]
    threshold = _logit(settings.score_threshold)
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
    score = logit.float().sigmoid()
    if quality.shape[1]:
        score = (score * flatten(quality)[rows, point, 0].float().sigmoid()).sqrt()
    valid = (logit > threshold) & (high > low).all(-1)
    return torch.cat([low, high], -1), torch.where(valid, score, -torch.inf), label


def _logit(p: float) -> float:
    return math.log(p / (1 - p)) if 0 < p < 1 else math.copysign(math.inf, p - 0.5)


def _inside(points: Tensor, region: Tensor, width: int) -> Tensor:
    """(B, n) bool: which points, in rows of `width`, lie in an image's region."""
    # Rows and columns are tested separately, because they are few.
    x, y = points[:width, 0], points[::width, 1]
    x0, y0, x1, y1 = region.T[..., None]
    column, row = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    return (row[:, :, None] & column[:, None]).flatten(1)


def _largest(logits: Tensor, threshold: float, most: int) -> tuple[Tensor, Tensor]:
    """The values and indices of the `most` largest of logits (B, n), in any order.

    Values that are not above the threshold may be missing, or be -inf with any index.
    """
    # On a CPU, where shapes may depend on data, selecting the values above the threshold first is faster if few are.
    if logits.device.type != "cpu" or (above := logits > threshold).count_nonzero() > FEW * logits.numel():
        return logits.topk(min(most, logits.shape[1]), sorted=False)
    row, column = above.nonzero(as_tuple=True)
    counts = row.bincount(minlength=len(logits))
    place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]  # within its row
    values = logits.new_full((len(logits), int(counts.max())), -torch.inf)
    indices = torch.zeros_like(values, dtype=torch.int64)
    values[row, place], indices[row, place] = logits[row, column], column
    if values.shape[1] > most:
        values, order = values.topk(most, sorted=False)
        indices = indices.gather(1, order)
    return values, indices


def to_original(detections: Detections, scale: Tensor, offset: Tensor, size: Tensor) -> Detections:
    """Map detections from canvas pixels to pixels of the original images: the inverse of resizing and padding.

    Args:
        detections: boxes in canvas pixels.
        scale: (B, 2) x, y canvas pixels per pixel of the original image.
        offset: (B, 2) x, y of the image on the canvas.
        size: (B, 2) height, width of the original image.
    """
    corners = (detections.boxes.unflatten(-1, (2, 2)) - offset[:, None, None]) / scale[:, None, None]
    limit = size.flip(-1)[:, None, None].to(corners.dtype)
    corners = torch.minimum(corners.clamp(min=0), limit)
    valid = (detections.labels >= 0)[..., None]
    return Detections(torch.where(valid, corners.flatten(-2), 0.0), detections.scores, detections.labels)
