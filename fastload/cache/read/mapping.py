"""Opening a cache file: it is mapped once per process, and all its structures are checked before use."""

from __future__ import annotations

import os
import threading
from math import prod
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

import fastload._core as _core
from fastload.annotations import Column
from fastload.cache.format.index import Index, check_index
from fastload.cache.format.layout import INDEX_PREFIX, MANIFEST_KEY, SOURCE_FILES_KEY
from fastload.cache.format.manifest import Manifest
from fastload.cache.format.source_files import SourceFiles
from fastload.errors import CacheError
from fastload.sources.base import Category


class Mapping:
    """The `Store` of a mapped cache file. All caches of a process that open the same file share it."""

    def __init__(self, path: Path, file: _core.MappedFile) -> None:
        self.path = path
        self.file = file
        self._state = (len(file), *file.state()[1:])  # when it was mapped
        self._whole = memoryview(file)
        try:
            file.read_ahead(False)  # the tree's pages are scattered over the file
            values, _, self.offsets, self.lengths, extent = _core.lmdb_tree(file, release=True)
            file.read_ahead(True)
            if len(file) < extent:
                raise ValueError(f"it is truncated: {len(file)} of {extent} bytes")
            if MANIFEST_KEY not in values:
                raise ValueError("it has no manifest: it is not a cache, or its build was interrupted")
            self._places = values
            self._stored_manifest = bytes(self._bytes(MANIFEST_KEY))
            self.manifest = Manifest.from_bytes(self._stored_manifest)
            self.index: Index = {name: self._array(name) for name in self.manifest.array_names}
            check_index(self.index, len(self.manifest.categories), self.manifest.columns)
            if len(self.offsets) != self.manifest.images:
                raise ValueError(f"it has {len(self.offsets)} records for {self.manifest.images} images")
        except ValueError as error:
            reason = "it was changed, or its disk failed, while it was opened" if file.state() != self._state else error
            raise CacheError(
                f"{path} cannot be read as a cache: {reason}. Build it again with `fastload build-cache DATASET "
                "--overwrite`, or copy it again from an intact file."
            ) from error
        file.release_pages()  # the pages that the checks have read need not stay resident
        self.addresses: NDArray[np.uint64] = self.offsets + np.uint64(np.frombuffer(self._whole, np.uint8).ctypes.data)
        self.check_unchanged()

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `Store.columns`."""
        return self.manifest.columns

    @property
    def categories(self) -> tuple[Category, ...]:
        """See `Store.categories`."""
        return self.manifest.categories

    @property
    def fingerprint(self) -> str:
        """See `Store.fingerprint`."""
        return self.manifest.fingerprint

    def record(self, position: int) -> memoryview:
        """See `Store.record`."""
        start = int(self.offsets[position])
        return self._whole[start : start + int(self.lengths[position])]

    def name(self, position: int) -> str:
        """See `Store.name`."""
        first, last = self.index["name_offset"][position : position + 2]
        return self.index["names"][first:last].tobytes().decode("utf-8", "replace")

    def ensure(self, positions: NDArray[np.int64]) -> None:
        """See `CacheFile.ensure`. All records are mapped."""

    def source_files(self) -> SourceFiles | None:
        """Return the files that the cache was built from; None if an earlier version or a conversion made it.

        Raises:
            CacheError: the list is damaged.
        """
        stored = bytes(self._bytes(SOURCE_FILES_KEY))
        self.check_unchanged()
        try:
            return SourceFiles.from_bytes(stored) if stored else None
        except ValueError as error:
            raise CacheError(
                f"{self.path}: {error}. Build it again with `fastload build-cache DATASET --overwrite`."
            ) from error

    def check_unchanged(self) -> None:
        """See `CacheFile.check_unchanged`."""
        try:
            state = self.file.state()
        except OSError as error:
            raise CacheError(f"{self.path} can no longer be read: {error.strerror}. Open it again.") from error
        if state == self._state:
            return
        if state[0] < len(self.file):
            raise self._changed(f"only {state[0]} of {len(self.file)} bytes are left")
        if self._bytes(MANIFEST_KEY) != self._stored_manifest or not all(map(self._is_sound, self.index)):
            raise self._changed("its index has changed")
        self._state = state  # only touched, or records lost pages, which is noticed when they are read

    def _changed(self, how: str) -> CacheError:
        return CacheError(
            f"{self.path} was truncated or overwritten while it was read, or its disk is failing: {how}. Restore it "
            "or build it again. To replace a cache that is in use, rename the new file over it, as "
            "`fastload build-cache --overwrite` does."
        )

    def _bytes(self, key: bytes) -> memoryview:
        offset, size = self._places.get(key, (0, 0))
        return self._whole[offset : offset + size]

    def _is_sound(self, name: str) -> bool:
        offset, size = self._places[INDEX_PREFIX + name.encode()]
        return _core.mapped_xxh64(self.file, offset, size) == int(self.manifest.arrays[name]["checksum"], 16)

    def _array(self, name: str) -> NDArray[Any]:
        described, stored = self.manifest.arrays[name], self._bytes(INDEX_PREFIX + name.encode())
        dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
        if INDEX_PREFIX + name.encode() not in self._places or len(stored) != prod(shape) * dtype.itemsize:
            raise ValueError(f"its {name} is missing or of the wrong size")
        if not self._is_sound(name):
            raise ValueError(f"the checksum of its {name} does not match")
        array = np.ndarray(shape, dtype, stored)
        if not array.flags.aligned:  # small arrays are among the tree's nodes, at any even address
            array = array.copy()
            array.flags.writeable = False
        return array


_open: WeakValueDictionary[tuple[object, ...], Mapping] = WeakValueDictionary()
_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))


def open_mapping(path: str | os.PathLike[str]) -> Mapping:
    """Return the mapping of the cache at `path`: the present one if the same file is already open.

    Raises:
        CacheError: the file cannot be read, or is not a valid cache.
    """
    shown = Path(os.path.abspath(path))
    try:
        with open(shown, "rb") as stream:
            status = os.fstat(stream.fileno())
            key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, os.path.realpath(shown))
            with _lock:
                mapping = _open.get(key)
                if mapping is None or mapping.file.vanished:  # lost pages stay zero
                    mapping = _open[key] = Mapping(shown, _core.MappedFile(stream.fileno()))
                return mapping
    except (OSError, ValueError) as error:
        raise CacheError(_why_not(shown, error)) from error


def _why_not(path: Path, error: Exception) -> str:
    if path.is_dir():
        return f"{path} is a folder, not a cache. Caches are files such as DATASET/fastload/train2017.lmdb."
    if path.with_name(path.name + ".partial").exists():
        return f"{path} is not finished: run `fastload build-cache` again with the same arguments."
    if not path.exists():
        return f"there is no cache {path}. Build one with `fastload build-cache DATASET`."
    if path.stat().st_size == 0:
        return f"{path} is empty, not a cache. Build it with `fastload build-cache DATASET --overwrite`."
    return f"{path} cannot be read: {error}."
