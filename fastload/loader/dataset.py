"""What FastLoader's `dataset` may be: the cache under it, and the images of that cache."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastload.cache.read.cache import Cache, flatten
from fastload.errors import ArgumentError
from fastload.plan.image_index import ImageIndex


def opened(dataset: Any) -> Any:
    """`dataset`, or the cache that it is the path or the list of. Any other list is a dataset."""
    if isinstance(dataset, str | os.PathLike):
        return Cache(dataset)
    if not isinstance(dataset, list | tuple) or not any(map(_is_cache, dataset)):
        return dataset
    if others := [part for part in dataset if not isinstance(part, str | os.PathLike | Cache)]:
        raise ArgumentError(
            f"a {type(others[0]).__name__} in a list of caches: join datasets by torch.utils.data.ConcatDataset"
        )
    return Cache(dataset)


def _is_cache(part: Any) -> bool:
    return isinstance(part, Cache) or (isinstance(part, str | os.PathLike) and os.fspath(part).endswith(".lmdb"))


def cache_and_images(dataset: Any) -> tuple[Cache, ImageIndex] | None:
    """The cache under `dataset`, and the images of it: see `flatten`."""
    found = flatten(dataset)
    return found and (found[0], ImageIndex(found[1], found[0].sizes[found[1]]))


def without_empty(dataset: Any, cache: Cache, images: ImageIndex) -> Any:
    """`dataset` without the images that there is nothing to learn from; itself if there are none such."""
    kept = np.isin(images.index, np.asarray(cache.without_empty().indices))
    return dataset if kept.all() else cache.subset(images.index[kept])
