"""CacheFile: the records and arrays of a built dataset, read without copying. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index as as_int
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

import fastload._core as _core
from fastload.annotations import SCHEMA, Annotations, Column, Columns, Ragged
from fastload.cache.format.layout import Encoding
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
    """One image and its G boxes. The arrays are read-only views of the cache."""

    data: memoryview  # the payload: for `Encoding.ORIGINAL` the bytes of a JPEG file
    encoding: Encoding
    size: tuple[int, int]  # width, height in pixels
    source_size: tuple[int, int]  # of the picture that was annotated, which may have been stored smaller
    boxes: NDArray[np.float32]  # (G, 4) x0, y0, x1, y1 in pixels
    labels: NDArray[np.int32]  # (G) indices into `CacheFile.categories`
    crowd: NDArray[np.bool_]  # (G)
    area: NDArray[np.float32]  # (G) square pixels, of the segmentation where there is one
    annotation_ids: NDArray[np.int64]  # (G)
    image_id: int
    name: str  # the file the image came from
    # Further ones by name: an array (G, ...) of the objects, or (...) of the image. A ragged column is a list of G
    # arrays (k, ...) or, with two levels, of G lists of such arrays; of the image it is one such array or list.
    columns: Mapping[str, Any]


class CacheFile:
    """A cache, opened read-only: what `Cache` is, for all that needs no torch.

    `Cache` says what it is made of, how it may be used, and in which order its images are.
    """

    _caches: tuple[CacheFile, ...] = ()  # that are read as one, if it is not a single file

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | CacheFile],
        renumber: bool = False,
    ) -> None:
        if isinstance(path, Sequence) and not isinstance(path, str):
            if not path:
                raise ArgumentError("a list of caches needs one at least, and this one is empty")
            self._caches = tuple(part if isinstance(part, CacheFile) else CacheFile(part) for part in path)
            self._renumber = renumber
        elif renumber:
            raise ArgumentError("renumber=True is for a list of caches, whose image ids may clash")
        else:
            self._path = Path(os.path.abspath(path))
        self._mapping = self._open()

    def _open(self) -> Store:
        return Shards(self._caches, self._renumber) if self._caches else open_mapping(self._path)

    def __len__(self) -> int:
        return len(self.image_ids)

    def record(self, index: int) -> Record:
        """Image `index` as it is stored, with its boxes.

        Raises:
            CacheError: its bytes are not those that were written.
            IndexError: there is no such image.
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
        """All images as they are stored, in order."""
        return map(self.record, range(len(self)))

    def columns_of(self, index: int) -> Columns:
        """All columns of image `index` by key, `annotations.SCHEMA` and further ones: (G, ...) of objects, (...) of the
        image; of ragged ones the arrays of `Column.keys`. Views."""
        i = self._position(index)
        columns: dict[str, NDArray[Any]] = {}
        for column in (*SCHEMA, *self._mapping.columns):
            values = self._values(column, i)
            columns |= values.arrays if isinstance(values, Ragged) else {column.key: values}
        return columns

    def check_record(self, index: int) -> RecordHeader:
        """The header of image `index`. `CacheError` when a bit of its record is not as it was written."""
        cache, i = self.locate(index)
        if cache is not self:
            return cache.check_record(i)
        record = self.record_bytes(i)
        try:
            header = read_header(record)
            known = (*self.sizes[i], self.encodings[i], self.checksums[i])
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
        """See that each file is still the one that was opened. Takes a microsecond or two for one that nobody changed.

        What was read of arrays and records before this call was not zeros in the place of lost pages. Damage to single
        records is not looked for here: see `check_record`.

        Raises:
            CacheError: The file was truncated or overwritten, or its disk has lost the index.
        """
        self._mapping.check_unchanged()

    def ensure(self, positions: NDArray[np.int64]) -> None:
        """Wait until the records at `positions` (k) may be read at their `addresses`, by any thread.

        Engines call it for the records of a plan before they read any. Records of local files and in memory can always
        be read, so that it returns at once. A store that gets its records from elsewhere gets them now, many together,
        and keeps them in place until the batches of that plan are made. Positions may repeat.

        Raises:
            CacheError: Some cannot be had, which it names. Others may be asked for after that.
        """
        self._mapping.ensure(positions)

    def record_bytes(self, index: int) -> memoryview:
        """The whole record of image `index`, header and payload, unchecked. Needs no `ensure`."""
        return self._mapping.record(self._position(index))

    def name(self, index: int) -> str:
        """The file that image `index` came from, as the source names it."""
        return self._mapping.name(self._position(index))

    @property
    def shards(self) -> tuple[CacheFile, ...]:
        """The caches of a single file that this one consists of, in order; itself if it is one."""
        return tuple(shard for cache in self._caches for shard in cache.shards) or (self,)

    def locate(self, index: int) -> tuple[CacheFile, int]:
        """The one of `shards` that holds image `index`, and its index there."""
        i = self._position(index)
        if not isinstance(self._mapping, Shards):
            return self, i
        cache, i = self._mapping.locate(i)
        return cache.locate(i)

    def path_of(self, index: int) -> Path:
        """Where the file lies that holds image `index`."""
        return self.locate(index)[0].path

    @property
    def path(self) -> Path:
        """Where the cache lies. CacheError if it has several files: each of `shards` has a path, `path_of` finds it."""
        if self._caches:
            raise CacheError(
                f"a cache of several files has no single path: ask path_of(i), or its shards. It has {self.where}."
            )
        return self._path

    @property
    def where(self) -> str:
        """Where its files lie, for messages."""
        return _listed([shard.path for shard in self.shards])

    @property
    def manifest(self) -> Manifest:
        """What the file says of itself. CacheError if there are several: each of `shards` has one."""
        return self._mapping.manifest

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits that change whenever images or annotations do."""
        return self._mapping.fingerprint

    @property
    def categories(self) -> tuple[Category, ...]:
        """The K classes; labels index this tuple."""
        return self._mapping.categories

    @property
    def store(self) -> Store:
        """Where its images lie."""
        return self._mapping

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
    def columns(self) -> Columns:
        """The columns beside those, by name: (m, ...) a value a box, or (n, ...) a value an image. See `ragged` too."""
        return {column.name: self._mapping.index[column.key] for column in self._mapping.columns if not column.ragged}

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        """The ragged columns, by name: m rows if they are of boxes, n if they are of images."""
        return {column.name: column.of(self._mapping.index) for column in self._mapping.columns if column.ragged}

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
    def annotations(self) -> Annotations:
        """All of that as batches are made of it."""
        return self._annotations(slice(None), self.box_offsets)

    @cached_property
    def annotations_without_crowds(self) -> Annotations:
        """The same, without the boxes that surround crowds."""
        single = ~self.crowd
        return self._annotations(single, np.concatenate([[0], np.cumsum(single)])[self.box_offsets])

    def _annotations(self, rows: slice | NDArray[np.bool_], offsets: NDArray[np.int64]) -> Annotations:
        """Of some of the boxes, those of image i being offsets[i] to offsets[i + 1]."""
        further: dict[str, dict[str, Any]] = {"object": {}, "image": {}, "ragged": {}}
        for column in self._mapping.columns:
            values = column.of(self._mapping.index)
            kind = "ragged" if column.ragged else column.per
            further[kind][column.name] = values[rows] if column.per == "object" else values
        boxes = _core.Annotations(
            offsets,
            self.boxes[rows],
            self.labels[rows],
            self.crowd[rows],
            self.area[rows],
            self.image_ids,
            self.sizes,
            self.source_sizes,
        )
        return Annotations(boxes, further["object"], further["image"], further["ragged"], self._mapping.check_unchanged)

    @cached_property
    def images_without_boxes(self) -> NDArray[np.int64]:
        """Indices of the images that have no box."""
        return np.flatnonzero(np.diff(self.box_offsets) == 0)

    @overload
    def index_of(self, image_ids: int) -> int: ...
    @overload
    def index_of(self, image_ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...
    def index_of(self, image_ids: Any) -> int | NDArray[np.int64]:
        """Where images lie in the cache.

            train = cache.subset(cache.index_of(ids_of_my_split))

        Args:
            image_ids: the source's ids, one or many: a number, a list, an array or a tensor.

        Returns:
            Indices, in the order of `image_ids`: an int64 array, or a number for a number.

        Raises:
            CacheError: ids that are not in the cache, which it names.
        """
        ids, order = self._by_id
        wanted = _as_integers(image_ids, "image ids")
        place = np.minimum(np.searchsorted(ids, wanted), max(len(ids) - 1, 0))
        missing = wanted[ids[place] != wanted] if len(ids) else wanted
        if missing.size:
            named = ", ".join(map(str, missing.ravel()[:5].tolist()))
            more = f" and {missing.size - 5} more" if missing.size > 5 else ""
            raise CacheError(
                f"{self.where} holds no image of id {named}{more}. They are of another split, or were left out when it "
                f"was built: {_listed([problems_path(shard.path) for shard in self.shards])} would say why."
            )
        positions: NDArray[np.int64] = order[place]
        return positions if positions.ndim else int(positions)

    @cached_property
    def _by_id(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The image ids, sorted, and the index of each."""
        order = np.argsort(self.image_ids, kind="stable")
        return self.image_ids[order], order

    def __getstate__(self) -> dict[str, Any]:
        made = {name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)}
        state = {name: value for name, value in vars(self).items() if name not in made | {"_mapping"}}
        return {**state, "fingerprint": self.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._mapping = self._open()
        if self._mapping.fingerprint != self.fingerprint:
            raise CacheError(f"{self.where} has changed since it was pickled: open the new one with fastload.Cache.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where!r}: {len(self)} images, {self.box_offsets[-1]} boxes)"

    def _values(self, column: Column, i: int) -> Any:
        """A column's values of image i: an array, or `Ragged`."""
        objects, values = slice(*self.box_offsets[i : i + 2]), column.of(self._mapping.index)
        if column.ragged:
            return values[objects if column.per == "object" else slice(i, i + 1)]
        return values[objects if column.per == "object" else i, ...]

    def _shown(self, column: Column, i: int) -> Any:
        """A column's values of image i in the form that `Record.columns` has."""
        values = self._values(column, i)
        if not column.ragged:
            return values
        return values.lists() if column.per == "object" else values.lists()[0]

    def _position(self, index: int) -> int:
        n, position = len(self), as_int(index)
        if not -n <= position < n:
            raise IndexError(f"image {position} of a cache of {n} images")
        return position % n


def as_positions(indices: Any, count: int) -> NDArray[np.int64]:
    """Indices into a list of `count` images as an array of positions (k): the same array if it already is one.

    Args:
        indices: a list, a range, an array or a tensor of integers; negative ones count from the end.
        count: how many images there are.

    Raises:
        IndexError: an index of no image.
        TypeError: no one-dimensional list of integers, such as a boolean mask.
    """
    if isinstance(indices, range):
        indices = np.arange(indices.start, indices.stop, indices.step)
    positions = _as_integers(indices, "indices")
    if positions.ndim != 1:
        raise TypeError(f"indices are a list of image numbers, not an array of shape {positions.shape}")
    if not len(positions):
        return positions
    low, high = int(positions.min()), int(positions.max())
    if low < -count or high >= count:
        raise IndexError(f"image {low if low < -count else high} of {count} images")
    return positions if low >= 0 else np.where(positions < 0, positions + count, positions)


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(map(str, paths[:SHOWN])) + more


def _as_integers(values: Any, what: str) -> NDArray[np.int64]:
    """An int64 array of a number, list, array or tensor; not a copy where it is one. TypeError if it is none."""
    array = np.asarray(values)
    if array.dtype == np.bool_:
        raise TypeError(f"{what} are integers, not a boolean mask: give np.flatnonzero(mask)")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{what} are integers, not {array.dtype}")
    return array.astype(np.int64, copy=False)
