"""Resolves FastLoader's `dataset` to a cache and the images to read from it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastload.cache.read.cache import Cache, flatten
from fastload.errors import ArgumentError
from fastload.plan.image_index import ImageIndex


def opened(dataset: Any) -> Any:
    """Open a cache if `dataset` is its path or a list of caches; return anything else unchanged."""
    if isinstance(dataset, str | os.PathLike):
        return Cache(dataset)
    if not isinstance(dataset, list | tuple) or not any(map(_is_cache, dataset)):
        return dataset
    if others := [part for part in dataset if not isinstance(part, str | os.PathLike | Cache)]:
        raise ArgumentError(
            f"a {type(others[0]).__name__} in a list of caches: join datasets with torch.utils.data.ConcatDataset"
        )
    return Cache(dataset)


def _is_cache(part: Any) -> bool:
    return isinstance(part, Cache) or (isinstance(part, str | os.PathLike) and os.fspath(part).endswith(".lmdb"))


def cache_and_images(dataset: Any) -> tuple[Cache, ImageIndex] | None:
    """The cache that `dataset` reads, and the images it uses of it. None if there is no cache: see `flatten`."""
    flat = flatten(dataset)
    if flat is None:
        return None
    cache, index = flat
    return cache, ImageIndex(index, cache.sizes[index], cache.box_offsets, cache.boxes, cache.means)


def without_empty(dataset: Any, cache: Cache, images: ImageIndex) -> Any:
    """`dataset` without its images that have no box; unchanged if every image has one."""
    kept = np.isin(images.index, np.asarray(cache.without_empty().indices))
    return dataset if kept.all() else cache.subset(images.index[kept])
