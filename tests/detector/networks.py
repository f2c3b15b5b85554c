"""Makes small detectors, and decoders for networks that are not detectors."""

from dataclasses import replace
from typing import Any

from detector.config import PRESETS
from detector.infer.postprocess import Settings, postprocess
from detector.model.detector import Decode, Detector
from detector.model.fcos import FCOSHead
from detector.model.grid import grid_of

P3_P7 = (8, 16, 32, 64, 128)


def small(norm: str = "bn", backbone: str = "resnet18", strides: tuple[int, ...] = P3_P7, **settings: Any) -> Detector:
    """A detector for three classes with 16 channels; FCOS if `settings` do not say otherwise."""
    sizes: dict[str, Any] = {"channels": 16, "width": 16, "depth": 2, "frozen_stages": 0, "frozen_norm": False}
    config = replace(PRESETS["fcos_tiny"], backbone=backbone, strides=strides, norm=norm, **{**sizes, **settings})
    return Detector.from_config(config, 3)


def fcos_head(classes: int, channels: int, depth: int, norm: str, levels: int) -> FCOSHead:
    return FCOSHead(classes, P3_P7[:levels], channels, channels, depth, norm)


def decoder(strides: tuple[int, ...]) -> Decode:
    """What a detector of these strides would decode its predictions with."""
    return lambda predictions, region: postprocess(
        *predictions, grid_of(strides, predictions.logits), region, Settings()
    )
