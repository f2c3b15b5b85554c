"""fastload: batches for object detectors, as fast as pixels can be decoded."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastload.batch import Batch, Targets
    from fastload.cache.reader import Cache
    from fastload.errors import (
        CacheError,
        DecodeError,
        DeviceError,
        EngineError,
        FastloadError,
        PlanError,
        SourceError,
    )
    from fastload.loader import FastLoader
    from fastload.pixels import IMAGENET_MEAN, IMAGENET_STD
    from fastload.plan.collate import CenterAlign, Collator, RandomAlign, TopLeftAlign
    from fastload.plan.transforms import (
        ColorJitter,
        Mosaic,
        RandomFlip,
        Resize,
        ScaleJitterCrop,
        ShortestEdge,
        Transform,
    )

# Imported on first use: `fastload build-cache` should not wait two seconds for torch.
_HOME = {
    "Batch": "batch",
    "Cache": "cache.reader",
    "CacheError": "errors",
    "CenterAlign": "plan.collate",
    "Collator": "plan.collate",
    "ColorJitter": "plan.transforms",
    "DecodeError": "errors",
    "DeviceError": "errors",
    "EngineError": "errors",
    "FastLoader": "loader",
    "FastloadError": "errors",
    "IMAGENET_MEAN": "pixels",
    "IMAGENET_STD": "pixels",
    "Mosaic": "plan.transforms",
    "PlanError": "errors",
    "RandomAlign": "plan.collate",
    "RandomFlip": "plan.transforms",
    "Resize": "plan.transforms",
    "ScaleJitterCrop": "plan.transforms",
    "ShortestEdge": "plan.transforms",
    "SourceError": "errors",
    "Targets": "batch",
    "TopLeftAlign": "plan.collate",
    "Transform": "plan.transforms",
}
__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Batch",
    "Cache",
    "CacheError",
    "CenterAlign",
    "Collator",
    "ColorJitter",
    "DecodeError",
    "DeviceError",
    "EngineError",
    "FastLoader",
    "FastloadError",
    "Mosaic",
    "PlanError",
    "RandomAlign",
    "RandomFlip",
    "Resize",
    "ScaleJitterCrop",
    "ShortestEdge",
    "SourceError",
    "Targets",
    "TopLeftAlign",
    "Transform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastload' has no attribute {name!r}")
    return getattr(import_module(f"fastload.{_HOME[name]}"), name)
