"""A cache in memory: loads images without a cache file.

Images are checked, converted and repaired by the same code as in `fastload build-cache`, so batches are bit-identical
to those of a cache file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import Column
from fastload.cache.format.index import Entry, build_index
from fastload.cache.format.layout import Encoding
from fastload.cache.format.manifest import Manifest, describe_arrays
from fastload.cache.parallel import ordered_map
from fastload.cache.read.cache import Cache
from fastload.cache.read.mapping import Mapping
from fastload.cache.write.ingest import IngestedImage, make_record
from fastload.cache.write.resize import Reduction
from fastload.errors import DecodeError
from fastload.sources.base import Category, Sample

InputImage: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.uint8]


class MemoryCache(Cache):
    """A `Cache` whose records are in memory. It loads, subsets and pickles like any other cache.

        cache = MemoryCache.of(["photo.jpg", "scan.png"])
        loader = FastLoader(cache, batch_size=2, transforms=[ShortestEdge(800, 1333)], collate_fn=CenterAlign())
        for images, targets in loader: ...  # targets.image_id: positions in the list

    Args:
        images: the record and the index entry of each image: `record` and `entry` of an `IngestedImage`.
        categories: the categories, in the order of labels. Default: none.
        columns: the extra columns. Those that neither move nor are ragged may be omitted. Default: none.
    """

    def __init__(
        self,
        images: Iterable[tuple[bytes, Entry]],
        categories: Sequence[Category] = (),
        columns: Sequence[Column] = (),
    ) -> None:
        self._images, self._categories, self._columns = tuple(images), tuple(categories), tuple(columns)
        self._mapping = _Records(self._images, self._categories, self._columns)
        self._path = self._mapping.path

    @classmethod
    def of(cls, images: Iterable[InputImage], exif_rotate: bool = True, workers: int | None = None) -> MemoryCache:
        """Make a cache of images without boxes. To skip unreadable images instead of raising, use `read_images`.

        Args:
            images, exif_rotate, workers: see `read_images`.

        Raises:
            DecodeError: an image cannot be read. The message names it and the reason.
        """
        read = []
        for outcome in read_images(images, exif_rotate, workers):
            if outcome.record is None or outcome.entry is None:
                raise DecodeError(f"{outcome.problems[0].file} cannot be read: {outcome.problems[0].reason}")
            read.append((outcome.record, outcome.entry))
        return cls(read)

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryCache, (self._images, self._categories, self._columns)


class _Records(Mapping):
    """A `Mapping` of records in memory instead of a file."""

    def __init__(
        self, images: Sequence[tuple[bytes, Entry]], categories: tuple[Category, ...], columns: tuple[Column, ...]
    ) -> None:
        self.path = Path("(in memory)")
        self.index = build_index([entry for _, entry in images])
        self.manifest = Manifest(
            encoding=Encoding.ORIGINAL.label,
            images=len(images),
            boxes=len(self.index["boxes"]),
            categories=categories,
            source={},
            arrays=describe_arrays(self.index, columns),
        )
        self._records = [record for record, _ in images]
        self.addresses = np.array([np.frombuffer(r, np.uint8).ctypes.data for r in self._records], np.uint64)
        self.lengths = np.array([len(record) for record in self._records], np.uint64)

    def record(self, position: int) -> memoryview:
        return memoryview(self._records[position])

    def check_unchanged(self) -> None:
        """See `CacheFile.check_unchanged`. Records in memory do not change."""


def read_images(
    images: Iterable[InputImage], exif_rotate: bool = True, workers: int | None = None
) -> Iterator[IngestedImage]:
    """Read images in order, as `build-cache` does. An unreadable image has a problem instead of a record.

        read = list(read_images(folder.glob("*.jpg")))
        cache = MemoryCache((image.record, image.entry) for image in read if image.record)
        unreadable = [problem for image in read if not image.record for problem in image.problems]

    Args:
        images: paths, bytes of files, or uint8 arrays, (H, W, 3) RGB or (H, W) gray. Positions become the image ids.
            Only a few are read ahead, so a long generator is fine.
        exif_rotate: whether to rotate images upright as their EXIF data says. Default: True.
        workers: number of threads. Default: one per core.

    Yields:
        An `IngestedImage` for each image: `record` and `entry` for `MemoryCache`, None if it is unreadable, and
        `problems`.
    """
    return ordered_map(partial(_read_image, exif_rotate=exif_rotate), enumerate(images), workers)


def _read_image(numbered: tuple[int, InputImage], exif_rotate: bool) -> IngestedImage:
    number, image = numbered
    if isinstance(image, str | os.PathLike):
        sample = Sample(number, os.fspath(image), Path(image))
    else:
        sample = Sample(number, f"image {number}", Path(), data=image)
    return make_record(sample, {}, Encoding.ORIGINAL, Reduction(), exif_rotate)
