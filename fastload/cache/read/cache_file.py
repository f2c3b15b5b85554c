"""CacheFile: the records and arrays of a cache, read without copying. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index as as_int
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

import fastload._core as _core
from fastload.annotations import CLASS_ID, POLYGONS, SCHEMA, Annotations, Column, Columns, Ragged
from fastload.cache.format.index import ColorMoments
from fastload.cache.format.layout import COLOR_MEAN, COLOR_STD, Encoding
from fastload.cache.format.manifest import Manifest
from fastload.cache.format.problems import problems_path
from fastload.cache.format.record import HEADER_SIZE, RecordHeader, check_payload, read_header
from fastload.cache.read.mapping import open_mapping
from fastload.cache.read.shards import SHOWN, Shards
from fastload.cache.read.store import Store
from fastload.errors import ArgumentError, CacheError
from fastload.sources.base import Category


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One stored image and its G boxes. The arrays are read-only views of the cache.

    Args:
        data: the payload; for `Encoding.ORIGINAL`, the bytes of a JPEG file.
        encoding: the encoding of the payload.
        size: width and height in pixels.
        source_size: width and height of the annotated image; larger if it was shrunk.
        boxes: (G, 4) x0, y0, x1, y1 in pixels.
        labels: (G) indices into `CacheFile.categories`.
        crowd: (G) whether the box is around a crowd.
        area: (G) square pixels: of the segmentation if the source has one, else of the box.
        annotation_ids: (G) the ids in the source.
        image_id: the id in the source.
        name: the file name in the source.
        columns: extra columns by name: (G, ...) values per object, or (...) the value of the image. A ragged column is
            a list of G arrays (k, ...) or, with two levels, of G lists of arrays; of an image it is one of these.
    """

    data: memoryview
    encoding: Encoding
    size: tuple[int, int]
    source_size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float32]
    annotation_ids: NDArray[np.int64]
    image_id: int
    name: str
    columns: Mapping[str, Any]


class CacheFile:
    """The part of `Cache` that needs no torch: a cache that is opened read-only. See `Cache`.

    Args:
        path: a file, or a list of files and caches.
        renumber: for a list of caches: use the positions as image ids.

    Raises:
        CacheError: a file is missing, damaged or of another version, or the caches cannot be combined.
        ArgumentError: the list is empty.
    """

    _caches: tuple[CacheFile, ...] = ()  # the list of caches; empty for a single file

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | CacheFile],
        renumber: bool = False,
    ) -> None:
        if isinstance(path, Sequence) and not isinstance(path, str):
            if not path:
                raise ArgumentError("the list of caches is empty: give one cache or more")
            self._caches = tuple(part if isinstance(part, CacheFile) else CacheFile(part) for part in path)
            self._renumber = renumber
        elif renumber:
            raise ArgumentError(f"renumber=True is for a list of caches: open {path} without it, or in a list")
        else:
            self._path = Path(os.path.abspath(path))
        self._mapping = self._open()

    def _open(self) -> Store:
        return Shards(self._caches, self._renumber) if self._caches else open_mapping(self._path)

    def __len__(self) -> int:
        return len(self.image_ids)

    def record(self, index: int) -> Record:
        """Return image `index` as it is stored, with its boxes, after verifying its checksum.

            record = cache.record(0)
            record.size, record.boxes, record.name

        Raises:
            CacheError: the record is damaged.
            IndexError: there is no image `index`.
        """
        i = self._position(index)
        header = self.check_record(i)
        first, last = self.box_offsets[i : i + 2]
        return Record(
            data=memoryview(self.record_bytes(i))[HEADER_SIZE:],
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
            columns={column.name: self._shown(column, i) for column in self._mapping.columns},
        )

    def records(self) -> Iterator[Record]:
        """Iterate over `record(i)` of all images, in order."""
        return map(self.record, range(len(self)))

    def columns_of(self, index: int) -> Columns:
        """Return all columns of image `index` by key, as views.

        These are the columns of `annotations.SCHEMA` and the extra columns: (G, ...) values per object, or (...) the
        value of the image; of ragged columns, the arrays of `Column.keys`.
        """
        i = self._position(index)
        columns: dict[str, NDArray[Any]] = {}
        for column in (*SCHEMA, *self._mapping.columns):
            values = self._values(column, i)
            columns |= values.arrays if isinstance(values, Ragged) else {column.key: values}
        return columns

    def check_record(self, index: int) -> RecordHeader:
        """Verify the record of image `index` and return its header.

        Raises:
            CacheError: the record is damaged.
            IndexError: there is no image `index`.
        """
        cache, i = self.locate(index)
        if cache is not self:
            return cache.check_record(i)
        record = self.record_bytes(i)
        try:
            header = read_header(record)
            indexed = (*self.sizes[i], self.encodings[i], self.checksums[i])
            if (header.width, header.height, header.encoding, header.checksum) != indexed:
                raise ValueError("it is not the record in the index")
            check_payload(record, header)
        except ValueError as error:
            self.check_unchanged()
            raise CacheError(
                f"{self.path}: image {self.image_ids[i]} ({self.name(i)}) is damaged: {error}. "
                f"`fastload verify {self.path}` lists all damage; `fastload build-cache --overwrite` builds it again."
            ) from error
        self.check_unchanged()
        return header

    def check_unchanged(self) -> None:
        """Check that each file is still the one that was opened. Takes one or two microseconds if it is unchanged.

        Success means that no page read before this call was lost and replaced by zeros. Single records are not
        verified: see `check_record`.

        Raises:
            CacheError: a file was truncated or overwritten, or its index can no longer be read from disk.
        """
        self._mapping.check_unchanged()

    def ensure(self, positions: NDArray[np.int64]) -> None:
        """Wait until the records at `positions` can be read at their `addresses`, by any thread.

        Engines call this with the records of a plan before they read them. For local files and caches in memory, it
        returns immediately. A remote store fetches the records together, and keeps them until the batches of the plan
        are done.

        Args:
            positions: (k) positions of records. They may repeat.

        Raises:
            CacheError: some records cannot be fetched. The message names them. Other records can still be requested.
        """
        self._mapping.ensure(positions)

    def record_bytes(self, index: int) -> memoryview:
        """Return the record of image `index`, header and payload, without verifying it. Needs no `ensure`."""
        return self._mapping.record(self._position(index))

    def name(self, index: int) -> str:
        """Return the file name of image `index` in the source."""
        return self._mapping.name(self._position(index))

    @property
    def shards(self) -> tuple[CacheFile, ...]:
        """The single-file caches that this cache consists of, in order. A single file consists of itself."""
        return tuple(shard for cache in self._caches for shard in cache.shards) or (self,)

    def locate(self, index: int) -> tuple[CacheFile, int]:
        """Return the shard that holds image `index`, and its index in that shard."""
        i = self._position(index)
        if not isinstance(self._mapping, Shards):
            return self, i
        cache, i = self._mapping.locate(i)
        return cache.locate(i)

    def path_of(self, index: int) -> Path:
        """Return the path of the file that holds image `index`."""
        return self.locate(index)[0].path

    @property
    def path(self) -> Path:
        """The path of the file. CacheError if there are several: use `path_of(i)`, or the paths of `shards`."""
        if self._caches:
            raise CacheError(
                f"a cache of several files has no single path: use path_of(i) or shards. Its files are {self.where}."
            )
        return self._path

    @property
    def where(self) -> str:
        """The paths of its files, for messages."""
        return _listed([shard.path for shard in self.shards])

    @property
    def manifest(self) -> Manifest:
        """The manifest of the file. CacheError if there are several files: use the manifests of `shards`."""
        return self._mapping.manifest

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest that changes whenever images or annotations change."""
        return self._mapping.fingerprint

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes. `labels` are indices into this tuple."""
        return self._mapping.categories

    @cached_property
    def class_ids(self) -> NDArray[np.int64]:
        """(n) the class of each image: an index into `categories`. Boxes have `labels` instead.

        Raises:
            CacheError: the cache has no column `class_id`, or one that is the id of no category.
        """
        if CLASS_ID.name not in self.columns:
            raise CacheError(
                f"{self.where} has no classes of images: build it from a folder for each class, a CSV file of "
                "paths and labels, or (path, label) pairs."
            )
        given = self.columns[CLASS_ID.name]
        ids = np.array([category.id for category in self.categories], np.int64)
        order = np.argsort(ids)
        found = order[ids.searchsorted(given, sorter=order).clip(max=len(ids) - 1)] if len(ids) else np.empty(0, int)
        wrong = np.flatnonzero(ids[found] != given) if len(ids) else np.arange(len(given))
        if len(wrong):
            i = int(wrong[0])
            raise CacheError(
                f"image {self.image_ids[i]} ({self.name(i)}) of {self.path_of(i)} has the class {given[i]}, which is "
                "none of the cache's categories: correct it, and build the cache again."
            )
        self.check_unchanged()
        return found

    @property
    def store(self) -> Store:
        """The store that holds the index and the records."""
        return self._mapping

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """(n) image ids of the source."""
        return self._mapping.index["image_id"]

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(n, 2) width, height of the decoded images in pixels."""
        return self._mapping.index["size"]

    @property
    def source_sizes(self) -> NDArray[np.int32]:
        """(n, 2) width, height of the annotated images in pixels; larger than `sizes` for images that were shrunk."""
        return self._mapping.index["source_size"]

    @property
    def box_offsets(self) -> NDArray[np.int64]:
        """(n + 1) offsets: the boxes of image i are box_offsets[i] to box_offsets[i + 1]."""
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
        """(m) whether the box is around a crowd of objects."""
        return self._mapping.index["crowd"].view(np.bool_)

    @property
    def area(self) -> NDArray[np.float32]:
        """(m) square pixels: of the segmentation if the source has one, else of the box."""
        return self._mapping.index["area"]

    @property
    def annotation_ids(self) -> NDArray[np.int64]:
        """(m) annotation ids of the source."""
        return self._mapping.index["annotation_id"]

    @property
    def columns(self) -> Columns:
        """The extra columns by name: (m, ...) with a value per box, or (n, ...) with a value per image."""
        return {column.name: self._mapping.index[column.key] for column in self._mapping.columns if not column.ragged}

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        """The ragged columns by name, with a row per box or per image."""
        return {column.name: column.of(self._mapping.index) for column in self._mapping.columns if column.ragged}

    @property
    def encodings(self) -> NDArray[np.uint8]:
        """(n) the encoding of each record: values of `Encoding`."""
        return self._mapping.index["encoding"]

    @property
    def means(self) -> NDArray[np.float32] | None:
        """(n, 3) mean of R, G and B over each decoded image, in levels of 0 to 255.

        None if the cache, or one of several, was built by a version that did not store it. Building it again adds it.
        """
        return self._optional(COLOR_MEAN)

    @property
    def stds(self) -> NDArray[np.float32] | None:
        """(n, 3) standard deviation of R, G and B over each decoded image, in levels; None as for `means`."""
        return self._optional(COLOR_STD)

    def color_of(self, index: int) -> ColorMoments | None:
        """Return row `index` of `means` and `stds`; None if the cache does not have both."""
        if self.means is None or self.stds is None:
            return None
        i = self._position(index)
        return ColorMoments(self.means[i].tolist(), self.stds[i].tolist())

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """(n) memory address of each record, valid as long as this cache exists."""
        return self._mapping.addresses

    @property
    def lengths(self) -> NDArray[np.uint64]:
        """(n) size of each record in bytes, including its header."""
        return self._mapping.lengths

    @property
    def checksums(self) -> NDArray[np.uint64]:
        """(n) checksum of each record, as its header must state it."""
        return self._mapping.index["checksum"]

    @cached_property
    def annotations(self) -> Annotations:
        """All annotations, in the form that batches are made from."""
        return self._annotations(slice(None), self.box_offsets)

    @cached_property
    def annotations_without_crowds(self) -> Annotations:
        """The annotations without boxes around crowds."""
        single = ~self.crowd
        return self._annotations(single, np.concatenate([[0], np.cumsum(single)])[self.box_offsets])

    def _annotations(self, rows: slice | NDArray[np.bool_], offsets: NDArray[np.int64]) -> Annotations:
        """Return the annotations with the boxes `rows`, of which offsets[i] to offsets[i + 1] belong to image i."""
        extra: dict[str, dict[str, Any]] = {"object": {}, "image": {}, "ragged": {}}
        for column in self._mapping.columns:
            values = column.of(self._mapping.index)
            kind = "ragged" if column.ragged else column.per
            extra[kind][column.name] = values[rows] if column.per == "object" else values
        boxes = _core.Annotations(
            offsets,
            self.boxes[rows],
            self.labels[rows],
            self.crowd[rows],
            self.area[rows],
            self.image_ids,
            self.sizes,
            self.source_sizes,
            _outlines(extra["ragged"].get(POLYGONS.name)),
        )
        return Annotations(
            boxes,
            extra["object"],
            extra["image"],
            extra["ragged"],
            {column.name: column for column in self._mapping.columns},
            offsets,
            self.source_sizes,
            self._mapping.check_unchanged,
        )

    @cached_property
    def images_without_boxes(self) -> NDArray[np.int64]:
        """Indices of the images without boxes."""
        return np.flatnonzero(np.diff(self.box_offsets) == 0)

    @overload
    def index_of(self, image_ids: int) -> int: ...
    @overload
    def index_of(self, image_ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...
    def index_of(self, image_ids: Any) -> int | NDArray[np.int64]:
        """Return the indices of images by their image ids.

            train = cache.subset(cache.index_of(ids_of_my_split))

        Args:
            image_ids: one image id, or a list, array or tensor of image ids.

        Returns:
            Indices in the order of `image_ids`, as an int64 array, or one index for one id.

        Raises:
            CacheError: some ids are not in the cache. The message names them.
            TypeError: `image_ids` are not integers.
        """
        ids, order = self._by_id
        wanted = _as_integers(image_ids, "image ids")
        place = np.minimum(np.searchsorted(ids, wanted), max(len(ids) - 1, 0))
        missing = wanted[ids[place] != wanted] if len(ids) else wanted
        if missing.size:
            named = ", ".join(map(str, missing.ravel()[:5].tolist()))
            more = f" and {missing.size - 5} more" if missing.size > 5 else ""
            raise CacheError(
                f"{self.where} holds no image with id {named}{more}. Check that they are of this split, and whether "
                f"{_listed([problems_path(shard.path) for shard in self.shards])} lists them as skipped."
            )
        positions: NDArray[np.int64] = order[place]
        return positions if positions.ndim else int(positions)

    @cached_property
    def _by_id(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sorted image ids, and the index of each."""
        order = np.argsort(self.image_ids, kind="stable")
        return self.image_ids[order], order

    def __getstate__(self) -> dict[str, Any]:
        cached = {name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)}
        state = {name: value for name, value in vars(self).items() if name not in cached | {"_mapping"}}
        return {**state, "fingerprint": self.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._mapping = self._open()
        if self._mapping.fingerprint != self.fingerprint:
            raise CacheError(f"{self.where} has changed since it was pickled: open it again with fastload.Cache.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where!r}: {len(self)} images, {self.box_offsets[-1]} boxes)"

    def _optional(self, name: str) -> NDArray[Any] | None:
        """Return an array of `layout.OPTIONAL`, or None unless all shards have it."""
        return self._mapping.index[name] if all(name in shard.store.index for shard in self.shards) else None

    def _values(self, column: Column, i: int) -> Any:
        """Return the values of a column for image i: an array, or `Ragged`."""
        objects, values = slice(*self.box_offsets[i : i + 2]), column.of(self._mapping.index)
        if column.ragged:
            return values[objects if column.per == "object" else slice(i, i + 1)]
        return values[objects if column.per == "object" else i, ...]

    def _shown(self, column: Column, i: int, convert: Callable[[NDArray[Any]], Any] = np.asarray) -> Any:
        """Return the values of a column for image i as `Record.columns` has them, each array through `convert`."""
        values = self._values(column, i)
        if not column.ragged:
            return convert(values)
        lists = replace(values, values=convert(values.values)).lists()
        return lists if column.per == "object" else lists[0]

    def _position(self, index: int) -> int:
        n, position = len(self), as_int(index)
        if not -n <= position < n:
            raise IndexError(f"there is no image {position} in a cache of {n} images ({self.where})")
        return position % n


def as_positions(indices: Any, count: int) -> NDArray[np.int64]:
    """Return indices as an array of positions (k), without a copy if they are one already.

    Args:
        indices: integers as a list, a range, an array or a tensor. Negative indices count from the end.
        count: number of images.

    Raises:
        IndexError: an index is out of range.
        TypeError: `indices` is not a one-dimensional list of integers but, for example, a boolean mask.
    """
    if isinstance(indices, range):
        indices = np.arange(indices.start, indices.stop, indices.step)
    positions = _as_integers(indices, "indices")
    if positions.ndim != 1:
        raise TypeError(f"indices must be one-dimensional, not an array of shape {positions.shape}")
    if not len(positions):
        return positions
    low, high = int(positions.min()), int(positions.max())
    if low < -count or high >= count:
        raise IndexError(f"there is no image {low if low < -count else high}: there are {count} images")
    return positions if low >= 0 else np.where(positions < 0, positions + count, positions)


def _outlines(polygons: Ragged | None) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]] | None:
    """The arrays of the column of polygons, if a cache has one."""
    if polygons is None or polygons.column != POLYGONS:
        return None
    return polygons.values, *polygons.offsets  # type: ignore[return-value]  # a ragged column of two levels


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(map(str, paths[:SHOWN])) + more


def _as_integers(values: Any, name: str) -> NDArray[np.int64]:
    """Convert integers to an int64 array, without a copy if they are one already. TypeError if they are no integers."""
    array = np.asarray(values)
    if array.dtype == np.bool_:
        raise TypeError(f"{name} must be integers, not a boolean mask: give np.flatnonzero(mask)")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    return array.astype(np.int64, copy=False)
