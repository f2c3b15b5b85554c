"""A cache in memory: small pictures with boxes, for tests of what is done with a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from fastload.cache.reader import Cache
from tests.records import jpeg, record

SIZES = ((60, 40), (40, 60), (64, 64), (97, 31), (33, 80), (50, 45), (72, 54), (24, 24))  # width, height


class MemoryCache(Cache):
    """`count` pictures of cycling sizes, each a smooth random pattern with 0 to 3 boxes. Pickles like a real one."""

    def __init__(self, count: int, seed: int = 0, damaged: Sequence[int] = ()) -> None:
        self._made_of = count, seed, tuple(damaged)
        rng = np.random.default_rng(seed)
        self._sizes = np.array([SIZES[i % len(SIZES)] for i in range(count)], np.int32).reshape(-1, 2)
        self._records = [_picture(rng, width, height) for width, height in self._sizes.tolist()]
        for i in damaged:
            self._records[i] = self._records[i][:-20] + bytes(20)
        self._arrays = [np.frombuffer(data, np.uint8) for data in self._records]
        number = np.array([i % 4 for i in range(count)], np.int64)
        self._box_offsets = np.concatenate([[0], np.cumsum(number)])
        low = rng.uniform(0, 0.6, (number.sum(), 2))
        high = low + rng.uniform(0.1, 0.4, low.shape)
        scale = np.repeat(self._sizes, number, 0)
        self._boxes = np.concatenate([low * scale, high * scale], 1).astype(np.float32)
        self._labels = rng.integers(0, 3, len(low)).astype(np.int32)
        self._crowd = rng.random(len(low)) < 0.2
        self._area = (self._boxes[:, 2:] - self._boxes[:, :2]).prod(1) * np.float32(0.5)

    def __reduce__(self):
        return MemoryCache, self._made_of

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        return f"{self.image_ids[index]:06}.jpg"

    def record_bytes(self, index: int) -> bytes:
        return self._records[index]

    path = Path("/in/memory.lmdb")
    fingerprint = property(lambda self: f"{self._made_of}")
    categories = tuple(
        SimpleNamespace(id=i, name=name, supercategory="") for i, name in ((1, "a"), (7, "b"), (90, "c"))
    )
    sizes = property(lambda self: self._sizes)
    source_sizes = property(lambda self: self._sizes)
    image_ids = property(lambda self: np.arange(len(self), dtype=np.int64) * 10 + 100)
    box_offsets = property(lambda self: self._box_offsets)
    boxes = property(lambda self: self._boxes)
    labels = property(lambda self: self._labels)
    crowd = property(lambda self: self._crowd)
    area = property(lambda self: self._area)
    encodings = property(lambda self: np.zeros(len(self), np.uint8))
    addresses = property(lambda self: np.array([a.ctypes.data for a in self._arrays], np.uint64))
    checksums = property(lambda self: np.array([int.from_bytes(r[24:32], "little") for r in self._records], np.uint64))
    lengths = property(lambda self: np.array([a.size for a in self._arrays], np.uint64))


def _picture(rng: np.random.Generator, width: int, height: int) -> bytes:
    y, x = np.mgrid[:height, :width]
    slope = rng.uniform(-3, 3, (2, 3))
    pixels = 128 + (x[..., None] - width / 2) * slope[0] + (y[..., None] - height / 2) * slope[1]
    return record(jpeg(np.clip(pixels, 0, 255).astype(np.uint8)))
