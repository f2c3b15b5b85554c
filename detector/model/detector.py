"""A detector: a backbone, a neck that makes a feature pyramid, and a head. The configuration chooses each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.infer.postprocess import Detections, Settings
from detector.model.backbone import Backbone, freeze, keep_frozen, make_backbone
from detector.model.bifpn import BiFPN
from detector.model.centernet import CenterNetHead
from detector.model.centernet2 import CascadeSettings, CenterNet2Head
from detector.model.fcos import FCOSHead
from detector.model.fpn import FPN
from detector.model.grid import SIZE_DIVISOR
from detector.model.head import Head, Losses, Output
from fastload import Normalize, PixelFormat

if TYPE_CHECKING:
    from detector.config import Config

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (8, 16, 32, 64, 128))
Decode = Callable[[Output, Tensor], Detections]


class Detector(nn.Module):
    """Images (B, 3, H, W), H and W multiples of 32 -> the output of the head.

    uint8 images are normalized on the device. Floating-point images must be normalized with the backbone's `mean` and
    `std` already, as by FastLoader with `device`.

        detector = Detector.from_config(PRESETS["fcos_r50"], classes=80)
        output = detector(images)
        losses = detector.loss(output, boxes, labels, usable)

    Args:
        backbone: makes the features at strides 8, 16 and 32.
        neck: makes a pyramid from them: a level for each of `strides`.
        head: makes the predictions from the pyramid.
        strides: of the levels: (8, 16, 32), optionally followed by 64, or 64 and 128.
        masked_norm: leave padding out of the statistics of norms in the neck and the head.
        frozen_stages: how many of the backbone's stem and four stages are not trained.
        frozen_norm: whether the backbone's batch norms keep their statistics and scales.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        head: Head,
        strides: tuple[int, ...],
        masked_norm: bool = False,
        frozen_stages: int = 0,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        self.strides = strides
        self.masked_norm = masked_norm
        self.backbone = backbone
        self.fpn = neck
        self.head = head
        self.normalize = Normalize(PixelFormat(mean=backbone.mean, std=backbone.std))
        freeze(backbone, frozen_stages, frozen_norm)

    @classmethod
    def from_config(cls, config: Config, classes: int) -> Detector:
        """The detector that `config` describes, with random weights."""
        if config.strides not in STRIDES:
            raise ConfigError(
                f"Levels of strides {config.strides} cannot be built: use 8 16 32, and 64 and 128 after them."
            )
        backbone = make_backbone(config.backbone)
        neck = make_neck(config, backbone.out_channels)
        head = make_head(config, classes)
        return cls(backbone, neck, head, config.strides, config.masked_norm, config.frozen_stages, config.frozen_norm)

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        keep_frozen(self)
        return self

    def forward(self, images: Tensor, region: Tensor | None = None) -> Output:
        """The head's output on images.

        Args:
            images: (B, 3, H, W).
            region: (B, 4) float xyxy, where each image lies on its canvas. Default: everywhere.
        """
        height, width = images.shape[-2:]
        if height % SIZE_DIVISOR or width % SIZE_DIVISOR:
            raise ConfigError(
                f"Images of {width} x {height} pixels: sides must be multiples of {SIZE_DIVISOR}. "
                f"Give the collator divisor={SIZE_DIVISOR}."
            )
        masks = None if region is None or not self.masked_norm else _masks(self.strides, height, width, region)
        return self.head(self.fpn(self.backbone(self.normalize(images)), masks), masks, region)

    def loss(self, output: Output, boxes: Tensor, labels: Tensor, usable: Tensor) -> Losses:
        """The losses of a batch: see `Head.loss`."""
        return self.head.loss(output, boxes, labels, usable)

    def decoder(self, settings: Settings) -> Decode:
        """The function that turns outputs and regions (B, 4) into detections in canvas pixels."""
        return partial(self.head.decode, settings=settings)


def make_neck(config: Config, in_channels: tuple[int, ...]) -> nn.Module:
    """The neck that `config` describes, for features of these channels."""
    if config.neck == "fpn":
        return FPN(in_channels, config.channels, len(config.strides))
    settings = (config.bifpn_repeats, config.norm, config.bifpn_separable)
    return BiFPN(in_channels, config.channels, len(config.strides), *settings)


def make_head(config: Config, classes: int) -> Head:
    """The head that `config` describes."""
    settings = (classes, config.strides, config.channels, config.width, config.depth, config.norm)
    if config.head == "fcos":
        return FCOSHead(*settings, quality=config.quality)
    if config.head == "centernet":
        return CenterNetHead(*settings, more_positives=config.more_positives, ignore_high=config.ignore_high)
    sizes = (config.cascade_stages, config.cascade_width, config.rois, config.train_proposals, config.proposals)
    return CenterNet2Head(*settings, cascade=CascadeSettings(*sizes))


def _masks(strides: tuple[int, ...], height: int, width: int, region: Tensor) -> list[Tensor]:
    """Per level (B, 1, h, w) float: 1 for the cells that lie at least in part in the region of their image."""
    x0, y0, x1, y1 = region.T[..., None]
    masks = []
    for stride in strides:
        x, y = (torch.arange(0, edge, stride, device=region.device) for edge in (width, height))
        column, row = (x < x1) & (x + stride > x0), (y < y1) & (y + stride > y0)
        masks.append((row[:, None, :, None] & column[:, None, None]).float())
    return masks
