"""A cache of classified images in memory, whose pixels say what class they have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastload.annotations import CLASS_ID, SCHEMA
from fastload.cache.memory import MemoryCache
from fastload.cache.write.ingest import make_entry
from fastload.sources.base import Category
from tests.support.memory_cache import SIZES
from tests.support.records import jpeg, record

CATEGORIES = (Category(2, "ant"), Category(3, "bee"), Category(11, "cat"), Category(40, "dog"))  # ids with gaps
LEVELS = np.array([20, 80, 140, 230])  # the gray of each class
EMPTY = {column.key: np.zeros((0, *column.shape), column.dtype) for column in SCHEMA}


def class_cache(count: int, damaged: Sequence[int] = (), wrong: Sequence[int] = ()) -> MemoryCache:
    """`count` images of cycling sizes, each of the gray of its class, which is that of its position modulo 4.

    Args:
        count: how many.
        damaged: positions of images that do not decode.
        wrong: positions of images whose class is no category.
    """
    images = []
    for i in range(count):
        width, height = SIZES[i % len(SIZES)]
        data = record(jpeg(np.full((height, width, 3), LEVELS[i % 4], np.uint8)))
        class_id = np.array(7 if i in wrong else CATEGORIES[i % 4].id)
        entry = make_entry(data, 10 * i, f"{i}.jpg", (width, height), {**EMPTY, CLASS_ID.key: class_id})
        images.append((data[:-20] + bytes(20) if i in damaged else data, entry))
    return MemoryCache(images, CATEGORIES, [CLASS_ID])
