"""fastload: batches for object detectors, as fast as pixels can be decoded."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastload.batch import Batch, Targets
    from fastload.cache.build import BuildOptions, build_cache
    from fastload.cache.layout import Encoding
    from fastload.cache.memory import MemoryCache, read_images
    from fastload.cache.reader import Cache
    from fastload.cache.reduce import Reduction
    from fastload.contact_sheet import draw
    from fastload.errors import (
        ArgumentError,
        CacheError,
        DecodeError,
        DeviceError,
        EngineError,
        FastloadError,
        PlanError,
        SourceError,
        StateError,
    )
    from fastload.loader import FastLoader
    from fastload.ops import nms
    from fastload.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalize, PixelFormat
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
    from fastload.progress import show_progress
    from fastload.sample import make_sample
    from fastload.sources.detect import find_datasets
    from fastload.sources.files import IMAGE_SUFFIXES
    from fastload.sources.source import Category

# Imported on first use: `fastload build-cache` should not wait two seconds for torch.
_HOME = {
    "ArgumentError": "errors",
    "Batch": "batch",
    "BuildOptions": "cache.build",
    "Cache": "cache.reader",
    "CacheError": "errors",
    "Category": "sources.source",
    "CenterAlign": "plan.collate",
    "Collator": "plan.collate",
    "ColorJitter": "plan.transforms",
    "DecodeError": "errors",
    "DeviceError": "errors",
    "Encoding": "cache.layout",
    "EngineError": "errors",
    "FastLoader": "loader",
    "FastloadError": "errors",
    "IMAGENET_MEAN": "pixels",
    "IMAGENET_STD": "pixels",
    "IMAGE_SUFFIXES": "sources.files",
    "MemoryCache": "cache.memory",
    "Mosaic": "plan.transforms",
    "Normalize": "pixels",
    "PixelFormat": "pixels",
    "PlanError": "errors",
    "RandomAlign": "plan.collate",
    "RandomFlip": "plan.transforms",
    "Reduction": "cache.reduce",
    "Resize": "plan.transforms",
    "ScaleJitterCrop": "plan.transforms",
    "ShortestEdge": "plan.transforms",
    "SourceError": "errors",
    "StateError": "errors",
    "Targets": "batch",
    "TopLeftAlign": "plan.collate",
    "Transform": "plan.transforms",
    "build_cache": "cache.build",
    "draw": "contact_sheet",
    "find_datasets": "sources.detect",
    "make_sample": "sample",
    "nms": "ops",
    "read_images": "cache.memory",
    "show_progress": "progress",
}
__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "ArgumentError",
    "Batch",
    "BuildOptions",
    "Cache",
    "CacheError",
    "Category",
    "CenterAlign",
    "Collator",
    "ColorJitter",
    "DecodeError",
    "DeviceError",
    "Encoding",
    "EngineError",
    "FastLoader",
    "FastloadError",
    "MemoryCache",
    "Mosaic",
    "Normalize",
    "PixelFormat",
    "PlanError",
    "RandomAlign",
    "RandomFlip",
    "Reduction",
    "Resize",
    "ScaleJitterCrop",
    "ShortestEdge",
    "SourceError",
    "StateError",
    "Targets",
    "TopLeftAlign",
    "Transform",
    "build_cache",
    "draw",
    "find_datasets",
    "make_sample",
    "nms",
    "read_images",
    "show_progress",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastload' has no attribute {name!r}")
    return getattr(import_module(f"fastload.{_HOME[name]}"), name)
