"""CenterNet2 (Zhou et al. 2021, "Probabilistic two-stage detection"): CenterNet* proposes, a cascade classifies.

The first stage predicts how likely a cell holds any object at all. What a stage believes are probabilities, so the
score of a class is the geometric mean of what the second stage gives it and the root of the first stage's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detector.infer.postprocess import Detections, Settings, postprocess, postprocess_rois
from detector.loss.center_assign import assign_centers
from detector.loss.center_loss import center_loss
from detector.loss.heatmap import heatmap
from detector.loss.rois import Objects, match, roi_losses, sample
from detector.model.cascade import SIDE, BoxHead, clip, decode
from detector.model.centernet import CenterNetHead
from detector.model.grid import grid_of
from detector.model.head import RARE, Head, Losses, Predictions, run, start_small, tower
from detector.model.norm import Norm
from fastload import roi_align

PROPOSAL_THRESHOLD = 1e-4  # probability of an object
PROPOSAL_IOU = 0.9
CANDIDATES = {True: 4000, False: 1000}  # per level, in training and else, before suppression
IGNORED = 0.85  # negatives of the first stage that are likelier than this are dropped: they may lack a label
FIRST_WEIGHTS = (0.5, 1.0)  # of the first stage's losses
THRESHOLDS = (0.6, 0.7, 0.8)  # by stage: the lowest IoU with an object of a region that lies on it
SCALES = ((10.0, 5.0), (20.0, 10.0), (30.0, 15.0))  # by stage: of the predicted differences of boxes


@dataclass(frozen=True)
class CascadeSettings:
    """The size of the second stage."""

    stages: int = 3  # 1 to 3
    width: int = 1024  # of the hidden layers
    rois: int = 512  # regions of each image in training
    train_proposals: int = 2000  # of each image, from which those are drawn
    proposals: int = 256  # of each image, otherwise


class Proposed(NamedTuple):
    """The output in training: the first stage's, and what the second stage needs."""

    objects: Predictions  # K = 1
    pyramid: list[Tensor]  # per level (B, C, h, w)
    region: Tensor  # (B, 4) float xyxy


class Classified(NamedTuple):
    """The output otherwise."""

    boxes: Tensor  # (B, P, 4) float xyxy in canvas pixels
    scores: Tensor  # (B, P, K) float


class CenterNet2Head(Head):
    """CenterNet2's two stages. `classes` to `norm` are those of `DenseHead`; `cascade` describes the second stage."""

    def __init__(
        self,
        classes: int,
        strides: tuple[int, ...],
        channels: int,
        width: int,
        depth: int,
        norm: Norm,
        cascade: CascadeSettings,
    ) -> None:
        super().__init__()
        self.classes, self.strides, self.settings = classes, strides, cascade
        self.proposer = Proposer(strides, channels, width, depth, norm)
        self.scales = SCALES[: cascade.stages]
        self.stages = nn.ModuleList(BoxHead(channels, cascade.width, classes) for _ in range(cascade.stages))

    def towers(self) -> list[nn.Module]:
        return [self.proposer.box_tower, *(stage.get_submodule("hidden") for stage in self.stages)]

    def forward(
        self, pyramid: list[Tensor], masks: list[Tensor] | None = None, region: Tensor | None = None
    ) -> Proposed | Classified:
        objects = self.proposer(pyramid, masks)
        if region is None:
            region = _everywhere(pyramid[0], self.strides[0])
        if self.training:
            return Proposed(objects, pyramid, region)
        proposals = self.propose(objects, region)
        boxes, valid, scores = proposals.boxes, proposals.labels >= 0, []
        for stage, scale in zip(self.stages, self.scales, strict=True):
            logits, differences = stage(self._features(pyramid, boxes, valid))
            scores.append(logits.float().softmax(-1)[..., :-1])
            boxes = clip(decode(boxes, differences, scale), region)
        score = (torch.stack(scores).mean(0) * proposals.scores[..., None].sqrt()).sqrt()
        return Classified(boxes, torch.where(valid[..., None], score, 0.0))

    @torch.no_grad()
    def propose(self, objects: Predictions, region: Tensor) -> Detections:
        """The regions that may hold objects, in canvas pixels, cut to the region of their image."""
        limit = self.settings.train_proposals if self.training else self.settings.proposals
        settings = Settings(PROPOSAL_THRESHOLD, CANDIDATES[self.training], PROPOSAL_IOU, limit)
        return postprocess(*objects, grid_of(self.strides, objects.logits), region, settings)

    def loss(self, output: Proposed, boxes: Tensor, labels: Tensor, usable: Tensor) -> Losses:
        usable = usable & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        losses = self._first_losses(output.objects, boxes, usable)
        proposals = self.propose(output.objects, output.region)
        objects = Objects(boxes, labels.clamp(min=0), usable)
        found, count = proposals.labels >= 0, self.settings.rois
        rois = sample(proposals.boxes, found, objects, count, THRESHOLDS[0], self.classes)
        pyramid = [_scale_gradient(level, 1 / len(self.stages)) for level in output.pyramid]
        for number, (stage, scale) in enumerate(zip(self.stages, self.scales, strict=True), 1):
            logits, differences = stage(self._features(pyramid, rois.boxes, rois.valid))
            classification, box = roi_losses(logits, differences, rois, scale)
            losses |= {f"classification_{number}": classification, f"box_{number}": box}
            if number < len(self.stages):
                moved = clip(decode(rois.boxes, differences.detach(), scale), output.region)
                valid = rois.valid & (moved[..., 2:] > moved[..., :2]).all(-1)
                rois = match(moved, valid, objects, THRESHOLDS[number], self.classes)
        return losses

    def _first_losses(self, objects: Predictions, boxes: Tensor, usable: Tensor) -> Losses:
        grid, labels = grid_of(self.strides, objects.logits), torch.zeros_like(usable, dtype=torch.int64)
        targets, spots = assign_centers(boxes, labels, usable, grid), heatmap(boxes, labels, usable, grid, 1)
        losses = center_loss(objects.logits, objects.boxes, targets, spots, False, IGNORED, FIRST_WEIGHTS)
        return {"objectness": losses["classification"], "proposal": losses["box"]}

    def decode(self, output: Classified, region: Tensor, settings: Settings) -> Detections:
        return postprocess_rois(output.boxes, output.scores, settings)

    def _features(self, pyramid: list[Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        return roi_align(pyramid, boxes, valid, self.strides, SIDE)


class Proposer(nn.Module):
    """CenterNet*'s head without classes: one tower, from which boxes and objectness are predicted."""

    def __init__(self, strides: tuple[int, ...], channels: int, width: int, depth: int, norm: Norm) -> None:
        super().__init__()
        widths = [channels] + [width] * depth
        self.box_tower = tower(widths, norm, len(strides))
        self.locate = nn.Conv2d(widths[-1], 5, 3, padding=1)  # distances and objectness in one convolution
        self.scale = nn.Parameter(torch.ones(len(strides)))
        start_small(self)
        bias = self.locate.get_parameter("bias")
        nn.init.constant_(bias[:4], CenterNetHead.box_start)
        nn.init.constant_(bias[4:], RARE)

    def forward(self, pyramid: list[Tensor], masks: list[Tensor] | None = None) -> Predictions:
        """Predictions of the one class "object"."""
        located = [self.locate(feature) for feature in run(self.box_tower, pyramid, masks)]
        return Predictions(
            logits=[x[:, 4:] for x in located],
            boxes=[(x[:, :4] * self.scale[level]).relu() for level, x in enumerate(located)],
            quality=[x[:, :0] for x in located],
        )


def _everywhere(level: Tensor, stride: int) -> Tensor:
    """(B, 4) xyxy: the whole canvas of a level (B, C, h, w)."""
    region = torch.zeros(len(level), 4, device=level.device)
    region[:, 2], region[:, 3] = level.shape[3] * stride, level.shape[2] * stride
    return region


def _scale_gradient(x: Tensor, share: float) -> Tensor:
    """The same tensor, of whose gradient only this share flows back."""
    alias = x.view_as(x)
    if alias.requires_grad:
        alias.register_hook(lambda gradient: gradient * share)
    return alias
