"""Batch norm folded into the convolutions before it, for inference."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from detector.model.fcos import FCOS, ConvNorm
from detector.model.resnet import BasicBlock, Bottleneck, ResNet


class PerLevelConv(nn.Module):
    """One convolution per level: a `ConvNorm` whose batch norms have been folded away."""

    def __init__(self, convs: list[nn.Conv2d]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor, level: int) -> Tensor:
        return self.convs[level](x).relu_()


def fuse_batch_norm(model: FCOS) -> FCOS:
    """A copy of `model` for inference with every batch norm folded away; group norms stay."""
    fused = copy.deepcopy(model).eval()
    for module in fused.modules():
        if isinstance(module, nn.Sequential):
            _fold(module, [(str(i), str(i + 1)) for i in range(len(module) - 1)])
        elif isinstance(module, ResNet | BasicBlock | Bottleneck):
            _fold(module, [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if hasattr(module, f"bn{i}")])
    for tower in (fused.head.class_tower, fused.head.box_tower):
        for i, block in enumerate(tower):
            assert isinstance(block, ConvNorm)
            if norms := [norm for norm in block.norms if isinstance(norm, nn.BatchNorm2d)]:
                tower[i] = PerLevelConv([fuse_conv_bn_eval(block.conv, norm) for norm in norms])
    return fused


def _fold(parent: nn.Module, pairs: list[tuple[str, str]]) -> None:
    for conv_name, norm_name in pairs:
        conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, norm_name, nn.Identity())
