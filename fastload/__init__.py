"""fastload: a fast data loader for object detectors."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastload.annotations import Column
    from fastload.batch import Batch, Targets
    from fastload.cache.format.layout import Encoding
    from fastload.cache.memory import MemoryCache, read_images
    from fastload.cache.read.cache import Cache
    from fastload.cache.write.build import BuildOptions, build_cache
    from fastload.cache.write.resize import Reduction
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
    from fastload.loader.fast_loader import FastLoader
    from fastload.ops import nms
    from fastload.pixel_format import IMAGENET_MEAN, IMAGENET_STD, Normalize, PixelFormat
    from fastload.plan.align import CenterAlign, Collator, RandomAlign, TopLeftAlign
    from fastload.plan.transforms import (
        ColorJitter,
        Mosaic,
        RandomFlip,
        Resize,
        ScaleJitterCrop,
        ShortestEdge,
        Transform,
    )
    from fastload.sources.base import Category, Sample
    from fastload.sources.detect import find_datasets
    from fastload.sources.files import IMAGE_SUFFIXES
    from fastload.tools.contact_sheet import draw
    from fastload.tools.progress import show_progress
    from fastload.tools.sample import make_sample

# Modules are imported on first use, because `fastload build-cache` should not wait two seconds for torch.
_HOME = {
    "ArgumentError": "errors",
    "Batch": "batch",
    "BuildOptions": "cache.write.build",
    "Cache": "cache.read.cache",
    "CacheError": "errors",
    "Category": "sources.base",
    "CenterAlign": "plan.align",
    "Collator": "plan.align",
    "Column": "annotations",
    "ColorJitter": "plan.transforms",
    "DecodeError": "errors",
    "DeviceError": "errors",
    "Encoding": "cache.format.layout",
    "EngineError": "errors",
    "FastLoader": "loader.fast_loader",
    "FastloadError": "errors",
    "IMAGENET_MEAN": "pixel_format",
    "IMAGENET_STD": "pixel_format",
    "IMAGE_SUFFIXES": "sources.files",
    "MemoryCache": "cache.memory",
    "Mosaic": "plan.transforms",
    "Normalize": "pixel_format",
    "PixelFormat": "pixel_format",
    "PlanError": "errors",
    "RandomAlign": "plan.align",
    "RandomFlip": "plan.transforms",
    "Reduction": "cache.write.resize",
    "Resize": "plan.transforms",
    "Sample": "sources.base",
    "ScaleJitterCrop": "plan.transforms",
    "ShortestEdge": "plan.transforms",
    "SourceError": "errors",
    "StateError": "errors",
    "Targets": "batch",
    "TopLeftAlign": "plan.align",
    "Transform": "plan.transforms",
    "build_cache": "cache.write.build",
    "draw": "tools.contact_sheet",
    "find_datasets": "sources.detect",
    "make_sample": "tools.sample",
    "nms": "ops",
    "read_images": "cache.memory",
    "show_progress": "tools.progress",
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
    "Column",
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
    "Sample",
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
