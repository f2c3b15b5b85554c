"""Cache: a built dataset, read without copying."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import fastload._core as _core
from fastload.cache.layout import Encoding
from fastload.cache.manifest import Manifest
from fastload.cache.mapping import open_mapping
from fastload.cache.record import HEADER_SIZE, RecordHeader, check_payload, read_header
from fastload.errors import CacheError
from fastload.sources.source import Category

if TYPE_CHECKING:
    from torch.utils.data import Subset


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One image and its G boxes. The arrays are read-only views of the cache."""

    data: memoryview  # the payload: for `Encoding.ORIGINAL` the bytes of a JPEG file
    encoding: Encoding
    size: tuple[int, int]  # width, height in pixels
    source_size: tuple[int, int]  # of the picture that was annotated, which may have been stored smaller
    boxes: NDArray[np.float32]  # (G, 4) x0, y0, x1, y1 in pixels
    labels: NDArray[np.int32]  # (G) indices into `Cache.categories`
    crowd: NDArray[np.bool_]  # (G)
    area: NDArray[np.float32]  # (G) square pixels, of the segmentation where there is one
    annotation_ids: NDArray[np.int64]  # (G)
    image_id: int
    name: str  # the file the image came from


class Cache:
    """A cache, opened read-only.

    Nothing is copied: arrays and records are views of the mapped file, and keep it mapped. Opening one path many
    times in a process maps it once. A cache pickles as its path, and works after fork and spawn. Raises `CacheError`
    when the file is missing, damaged or of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._mapping = open_mapping(path)
        self._path = Path(os.path.abspath(path))

    def __len__(self) -> int:
        return self.manifest.images

    def __getitem__(self, index: int) -> Record:
        """Image `index`, checked against its checksum."""
        i = self._position(index)
        record = self._mapping.record(i)
        header = self.check_record(i)
        first, last = self.box_offsets[i : i + 2]
        return Record(
            data=record[HEADER_SIZE:],
            encoding=header.encoding,
            size=(header.width, header.height),
            source_size=(int(self.source_sizes[i, 0]), int(self.source_sizes[i, 1])),
            boxes=self.boxes[first:last],
            labels=self.labels[first:last],
            crowd=self.crowd[first:last],
            area=self.area[first:last],
            annotation_ids=self.annotation_ids[first:last],
            image_id=int(self.image_ids[i]),
            name=self.name(i),
        )

    def check_record(self, index: int) -> RecordHeader:
        """The header of image `index`. `CacheError` when a bit of its record is not as it was written."""
        i = self._position(index)
        record, index_of = self._mapping.record(i), self._mapping.index
        try:
            header = read_header(record)
            known = (*index_of["size"][i], index_of["encoding"][i], index_of["checksum"][i])
            if (header.width, header.height, header.encoding, header.checksum) != known:
                raise ValueError("it is not the record that the index knows")
            check_payload(record, header)
        except ValueError as error:
            self.check_unchanged()
            raise CacheError(
                f"{self.path}: image {self.image_ids[i]} ({self.name(i)}) is damaged: {error}. "
                f"`fastload verify {self.path}` lists all damage; `fastload build-cache --overwrite` builds it anew."
            ) from error
        self.check_unchanged()
        return header

    def check_unchanged(self) -> None:
        """See that the file is still the one that was opened. Takes a microsecond or two as long as nobody changed it.

        What was read of arrays and records before this call was not zeros in the place of lost pages. Damage to single
        records is not looked for here: see `check_record`.

        Raises:
            CacheError: The file was truncated or overwritten, or its disk has lost the index.
        """
        self._mapping.check_unchanged()

    def record_bytes(self, index: int) -> memoryview:
        """The whole record of image `index`, header and payload, unchecked."""
        return self._mapping.record(self._position(index))

    def name(self, index: int) -> str:
        """The file that image `index` came from, as the source names it."""
        i = self._position(index)
        first, last = self._mapping.index["name_offset"][i : i + 2]
        return self._mapping.index["names"][first:last].tobytes().decode("utf-8", "replace")

    @property
    def path(self) -> Path:
        """Where the cache lies."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What the cache says of itself."""
        return self._mapping.manifest

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits that change whenever images or annotations do."""
        return self.manifest.fingerprint

    @property
    def categories(self) -> tuple[Category, ...]:
        """The K classes; labels index this tuple."""
        return self.manifest.categories

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """(n) the source's ids."""
        return self._mapping.index["image_id"]

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(n, 2) width, height of the decoded images."""
        return self._mapping.index["size"]

    @property
    def source_sizes(self) -> NDArray[np.int32]:
        """(n, 2) width, height of the pictures that were annotated; larger where images were stored smaller."""
        return self._mapping.index["source_size"]

    @property
    def box_offsets(self) -> NDArray[np.int64]:
        """(n + 1) image i has the boxes box_offsets[i] to box_offsets[i + 1]."""
        return self._mapping.index["box_offset"]

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(m, 4) x0, y0, x1, y1 in pixels of the decoded image."""
        return self._mapping.index["boxes"]

    @property
    def labels(self) -> NDArray[np.int32]:
        """(m) indices into `categories`."""
        return self._mapping.index["label"]

    @property
    def crowd(self) -> NDArray[np.bool_]:
        """(m) whether a box surrounds a crowd of objects."""
        return self._mapping.index["crowd"].view(np.bool_)

    @property
    def area(self) -> NDArray[np.float32]:
        """(m) square pixels: of the segmentation where the source has one, else of the box."""
        return self._mapping.index["area"]

    @property
    def annotation_ids(self) -> NDArray[np.int64]:
        """(m) the source's ids of the boxes."""
        return self._mapping.index["annotation_id"]

    @property
    def encodings(self) -> NDArray[np.uint8]:
        """(n) how each payload holds its image: values of `layout.Encoding`."""
        return self._mapping.index["encoding"]

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """(n) where in memory the records begin, valid as long as this cache is held."""
        return self._mapping.addresses

    @property
    def lengths(self) -> NDArray[np.uint64]:
        """(n) bytes of the records, headers included."""
        return self._mapping.lengths

    @property
    def checksums(self) -> NDArray[np.uint64]:
        """(n) of the records, as their headers should state them."""
        return self._mapping.index["checksum"]

    @cached_property
    def annotations(self) -> _core.Annotations:
        """All of that as the native core takes it."""
        return _core.Annotations(
            self.box_offsets,
            self.boxes,
            self.labels,
            self.crowd,
            self.area,
            self.image_ids,
            self.sizes,
            self.source_sizes,
        )

    @cached_property
    def images_without_boxes(self) -> NDArray[np.int64]:
        """Indices of the images that have no box."""
        return np.flatnonzero(np.diff(self.box_offsets) == 0)

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Subset[Record]:
        """Some of the images, as a `torch.utils.data.Subset`."""
        from torch.utils.data import Subset  # takes two seconds, and opening a cache does not need it

        return Subset(self, [self._position(int(index)) for index in indices])  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), self.fingerprint)

    def __repr__(self) -> str:
        return f"Cache({str(self.path)!r}: {len(self)} images, {self.manifest.boxes} boxes)"

    def _position(self, index: int) -> int:
        n = len(self)
        position = index + n if index < 0 else index
        if not 0 <= position < n:
            raise IndexError(f"image {index} of a cache of {n} images")
        return int(position)


def _reopen(path: str, fingerprint: str) -> Cache:
    cache = Cache(path)
    if cache.fingerprint != fingerprint:
        raise CacheError(f"{path} has changed since it was pickled: open the new one with fastload.Cache.")
    return cache
