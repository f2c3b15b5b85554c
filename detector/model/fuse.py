"""Batch norm folded into the convolutions before it, for inference."""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from detector.model.detector import Detector
from detector.model.norm import ConvNorm
from detector.model.resnet import BasicBlock, Bottleneck, ResNet


class PerLevelConv(nn.Module):
    """One convolution per level: a `ConvNorm` whose batch norms have been folded away."""

    def __init__(self, block: ConvNorm) -> None:
        super().__init__()
        *before, last = block.conv if isinstance(block.conv, nn.Sequential) else [block.conv]
        self.before = nn.Sequential(*before)
        self.convs = nn.ModuleList(
            fuse_conv_bn_eval(cast(nn.Conv2d, last), cast(nn.BatchNorm2d, norm)) for norm in block.norms
        )
        self.relu = block.relu

    def forward(self, levels: list[Tensor], masks: list[Tensor] | None = None) -> list[Tensor]:
        levels = [conv(self.before(x)) for conv, x in zip(self.convs, levels, strict=True)]
        return [x.relu_() for x in levels] if self.relu else levels


def fuse_batch_norm(model: Detector) -> Detector:
    """A copy of `model` for inference with every batch norm folded away; group norms stay."""
    fused = copy.deepcopy(model).eval()
    for module in list(fused.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module, [(str(i), str(i + 1)) for i in range(len(module) - 1)])
        elif isinstance(module, ResNet | BasicBlock | Bottleneck):
            _fold(module, [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if hasattr(module, f"bn{i}")])
        for name, child in module.named_children():
            if isinstance(child, ConvNorm) and isinstance(child.norms[0], nn.BatchNorm2d):
                setattr(module, name, PerLevelConv(child))
    return fused


def _fold(parent: nn.Module, pairs: list[tuple[str, str]]) -> None:
    for conv_name, norm_name in pairs:
        conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, norm_name, nn.Identity())
