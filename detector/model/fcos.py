"""FCOS (Tian et al. 2019, 2020): a fully convolutional, anchor-free detector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.model.backbone import Backbone, freeze, keep_frozen, make_backbone
from detector.model.fpn import FPN
from detector.model.grid import Grid, make_grid
from fastload import Normalize, PixelFormat

if TYPE_CHECKING:
    from detector.config import Config

Norm = Literal["gn", "bn", "none"]
BOX_START = 4.0  # strides: the middle of a level's range, and far from 0, where the ReLU has no gradient
SIZE_DIVISOR = 32  # the backbone's coarsest stride; canvases must be multiples of it


class Predictions(NamedTuple):
    """The output of the head, per level, finest first."""

    logits: list[Tensor]  # (B, K, h, w) class scores before the sigmoid
    boxes: list[Tensor]  # (B, 4, h, w) distances left, top, right, bottom from the point, in strides, not negative
    quality: list[Tensor]  # (B, 1, h, w) centerness or IoU before the sigmoid


class ConvNorm(nn.Module):
    """3 x 3 convolution, norm, ReLU.

    All levels share the convolution and the group norm. Each level has its own batch norm, because its running
    statistics differ.
    """

    def __init__(self, channels: int, width: int, norm: Norm, levels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        if norm == "gn":
            self.norms = nn.ModuleList([nn.GroupNorm(width // 8, width)])  # 32 groups of 256 channels
        elif norm == "bn":
            self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(levels))
        else:
            self.norms = nn.ModuleList([nn.Identity()])

    def forward(self, x: Tensor, level: int) -> Tensor:
        norm = self.norms[level % len(self.norms)]  # one per level, or one for all
        return norm(self.conv(x)).relu_()


class Head(nn.Module):
    """Two towers over every level: one for the class, one for the box and its quality."""

    def __init__(self, classes: int, channels: int, width: int, depth: int, norm: Norm, levels: int) -> None:
        super().__init__()
        widths = [channels] + [width] * depth
        self.class_tower = nn.ModuleList(ConvNorm(c, width, norm, levels) for c in widths[:-1])
        self.box_tower = nn.ModuleList(ConvNorm(c, width, norm, levels) for c in widths[:-1])
        self.classify = nn.Conv2d(widths[-1], classes, 3, padding=1)
        self.locate = nn.Conv2d(widths[-1], 5, 3, padding=1)  # four distances and the quality, in one convolution
        self.scale = nn.Parameter(torch.ones(levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.get_parameter("bias"))
        nn.init.constant_(self.classify.get_parameter("bias"), -math.log(99))  # every class starts at a score of 0.01
        nn.init.constant_(self.locate.get_parameter("bias")[:4], BOX_START)

    def forward(self, pyramid: list[Tensor]) -> Predictions:
        out = Predictions([], [], [])
        for level, feature in enumerate(pyramid):
            class_feature = box_feature = feature
            for block in self.class_tower:
                class_feature = block(class_feature, level)
            for block in self.box_tower:
                box_feature = block(box_feature, level)
            located = self.locate(box_feature)
            out.logits.append(self.classify(class_feature))
            out.boxes.append((located[:, :4] * self.scale[level]).relu())
            out.quality.append(located[:, 4:])
        return out


class FCOS(nn.Module):
    """Images (B, 3, H, W), H and W multiples of 32 -> Predictions.

    uint8 images are normalized on the device. Floating-point images must be normalized with the backbone's `mean` and
    `std` already, as by FastLoader with `device`.

    Args:
        backbone: makes the features at strides 8, 16 and 32.
        classes: number of classes K.
        strides: of the levels: (8, 16, 32), optionally followed by 64, or 64 and 128.
        channels: of the feature pyramid.
        width: channels of the head's towers.
        depth: convolutions of each tower.
        norm: of the towers: "gn", "bn" or "none".
        frozen_stages: how many of the backbone's stem and four stages are not trained.
        frozen_norm: whether the backbone's batch norms keep their statistics and scales.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        strides: tuple[int, ...] = (8, 16, 32, 64, 128),
        channels: int = 256,
        width: int = 256,
        depth: int = 4,
        norm: Norm = "gn",
        frozen_stages: int = 0,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        if strides not in ((8, 16, 32), (8, 16, 32, 64), (8, 16, 32, 64, 128)):
            raise ConfigError(f"Levels of strides {strides} cannot be built: use 8 16 32, and 64 and 128 after them.")
        self.strides = strides
        self.backbone = backbone
        self.fpn = FPN(backbone.out_channels, channels, len(strides))
        self.head = Head(classes, channels, width, depth, norm, len(strides))
        self.normalize = Normalize(PixelFormat(mean=backbone.mean, std=backbone.std))
        freeze(backbone, frozen_stages, frozen_norm)

    @classmethod
    def from_config(cls, config: Config, classes: int) -> FCOS:
        """The network that `config` describes, with random weights."""
        return cls(
            make_backbone(config.backbone),
            classes,
            strides=config.strides,
            channels=config.channels,
            width=config.width,
            depth=config.depth,
            norm=config.norm,
            frozen_stages=config.frozen_stages,
            frozen_norm=config.frozen_norm,
        )

    def train(self, mode: bool = True) -> FCOS:
        super().train(mode)
        keep_frozen(self.backbone)
        return self

    def forward(self, images: Tensor) -> Predictions:
        height, width = images.shape[-2:]
        if height % SIZE_DIVISOR or width % SIZE_DIVISOR:
            raise ConfigError(
                f"Images of {width} x {height} pixels: sides must be multiples of {SIZE_DIVISOR}. "
                f"Give the collator divisor={SIZE_DIVISOR}."
            )
        return self.head(self.fpn(self.backbone(self.normalize(images))))


def grid_of(strides: tuple[int, ...], predictions: Predictions) -> Grid:
    """The points of predictions."""
    shapes = tuple((level.shape[2], level.shape[3]) for level in predictions.logits)
    return make_grid(strides, shapes, predictions.logits[0].device)
