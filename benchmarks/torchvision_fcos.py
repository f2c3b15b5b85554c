"""torchvision's FCOS on a ResNet-18: levels P3 to P7 of 256 channels, and towers of 4 convolutions with group norm."""

from __future__ import annotations

from typing import Any

from torch import nn


def make_torchvision_fcos(classes: int, size: int) -> Any | None:
    """The network with random weights, for square images of `size` pixels; None without torchvision."""
    try:
        from torchvision.models.detection import FCOS
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    except (ImportError, RuntimeError):
        return None
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5,
        returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256),
    )  # fmt: skip
    # Images have the right size already; resizing them would cost time for nothing.
    return FCOS(backbone, classes, min_size=size, max_size=size, _skip_resize=True)
