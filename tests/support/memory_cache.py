"""A cache in memory: small pictures with boxes, for tests of what is done with a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastload.annotations import Columns
from fastload.cache import memory
from fastload.cache.format.layout import Encoding
from fastload.cache.write.ingest import make_entry
from fastload.sources.base import Category
from tests.support.records import jpeg, record

SIZES = ((60, 40), (40, 60), (64, 64), (97, 31), (33, 80), (50, 45), (72, 54), (24, 24))  # width, height
CATEGORIES = (Category(1, "a"), Category(7, "b"), Category(90, "c"))


class MemoryCache(memory.MemoryCache):
    """`count` pictures of cycling sizes, each a smooth random pattern with 0 to 3 boxes. Pickles like a real one."""

    def __init__(
        self, count: int, seed: int = 0, damaged: Sequence[int] = (), encoding: Encoding = Encoding.ORIGINAL
    ) -> None:
        rng = np.random.default_rng(seed)
        sizes = np.array([SIZES[i % len(SIZES)] for i in range(count)], np.int32).reshape(-1, 2)
        records = [_picture(rng, width, height, encoding) for width, height in sizes.tolist()]
        boxes = _boxes(rng, sizes)
        entries = [
            make_entry(records[i], 10 * i + 100, f"{10 * i + 100:06}.jpg", tuple(sizes[i]), boxes[i])
            for i in range(count)
        ]
        for i in damaged:
            records[i] = records[i][:-20] + bytes(20)
        super().__init__(zip(records, entries, strict=True), CATEGORIES)

    path = Path("/in/memory.lmdb")


def _picture(rng: np.random.Generator, width: int, height: int, encoding: Encoding) -> bytes:
    y, x = np.mgrid[:height, :width]
    slope = rng.uniform(-3, 3, (2, 3))
    pixels = 128 + (x[..., None] - width / 2) * slope[0] + (y[..., None] - height / 2) * slope[1]
    return record(jpeg(np.clip(pixels, 0, 255).astype(np.uint8)), encoding)


def _boxes(rng: np.random.Generator, sizes: np.ndarray) -> list[Columns]:
    """0 to 3 boxes for each of `sizes` (n, 2) width, height."""
    number = np.array([i % 4 for i in range(len(sizes))], np.int64)
    low = rng.uniform(0, 0.6, (number.sum(), 2))
    high = low + rng.uniform(0.1, 0.4, low.shape)
    scale = np.repeat(sizes, number, 0)
    boxes = np.concatenate([low * scale, high * scale], 1).astype(np.float32)
    label = rng.integers(0, 3, len(low)).astype(np.int32)
    crowd = (rng.random(len(low)) < 0.2).astype(np.uint8)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) * np.float32(0.5)
    columns = {"boxes": boxes, "label": label, "crowd": crowd, "area": area, "annotation_id": np.arange(len(low))}
    split = [np.split(values, number.cumsum()[:-1]) for values in columns.values()]
    return [dict(zip(columns, parts, strict=True)) for parts in zip(*split, strict=True)]
