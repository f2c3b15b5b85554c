"""Opening a cache file: mapped once a process, every structure of it checked before it is believed."""

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
    """The `Store` of a cache file: its bytes and where in them everything is. Shared by all who open the same file."""

    def __init__(self, path: Path, file: _core.MappedFile) -> None:
        self.path = path
        self.file = file
        self._state = (len(file), *file.state()[1:])  # as it was when it was mapped
        self._whole = memoryview(file)
        try:
            file.read_ahead(False)  # the tree's pages lie all over it
            values, _, self.offsets, self.lengths, extent = _core.lmdb_tree(file, release=True)
            file.read_ahead(True)
            if len(file) < extent:
                raise ValueError(f"it is truncated: {len(file)} of {extent} bytes")
            if MANIFEST_KEY not in values:
                raise ValueError("it holds no manifest: it is no cache, or its build was interrupted")
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
                "--overwrite`, or copy it anew from where it is whole."
            ) from error
        file.release_pages()  # what the checks have read need not stay resident
        self.addresses: NDArray[np.uint64] = self.offsets + np.uint64(np.frombuffer(self._whole, np.uint8).ctypes.data)
        self.check_unchanged()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns beside those that every cache has."""
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
        """All of it is mapped."""

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
            raise self._changed(f"{state[0]} of {len(self.file)} bytes are left")
        if self._bytes(MANIFEST_KEY) != self._stored_manifest or not all(map(self._is_sound, self.index)):
            raise self._changed("its index is not what it was")
        self._state = state  # it was only touched, or pages of records vanished, which is noticed at each of these

    def _changed(self, how: str) -> CacheError:
        return CacheError(
            f"{self.path} was truncated or overwritten while it was read, or its disk is failing: {how}. Restore it or "
            "build it again. To replace a cache that is in use, rename the new one over it, as "
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
        if not array.flags.aligned:  # a small array lies among the tree's nodes, at any even address
            array = array.copy()
            array.flags.writeable = False
        return array


_open: WeakValueDictionary[tuple[object, ...], Mapping] = WeakValueDictionary()
_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))


def open_mapping(path: str | os.PathLike[str]) -> Mapping:
    """The mapping of the cache at `path`; the same object as long as the file is the same and somebody holds it."""
    shown = Path(os.path.abspath(path))
    try:
        with open(shown, "rb") as stream:
            status = os.fstat(stream.fileno())
            key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, os.path.realpath(shown))
            with _lock:
                mapping = _open.get(key)
                if mapping is None or mapping.file.vanished:  # those pages are zeros for good
                    mapping = _open[key] = Mapping(shown, _core.MappedFile(stream.fileno()))
                return mapping
    except (OSError, ValueError) as error:
        raise CacheError(_why_not(shown, error)) from error


def _why_not(path: Path, error: Exception) -> str:
    if path.is_dir():
        return f"{path} is a folder, not a cache. Caches are files such as DATASET/fastload/train2017.lmdb."
    if path.with_name(path.name + ".partial").exists():
        return f"{path} is not finished: run the `fastload build-cache` that was building it again."
    if not path.exists():
        return f"there is no cache {path}. Build one with `fastload build-cache DATASET`."
    if path.stat().st_size == 0:
        return f"{path} is empty, not a cache. Build it with `fastload build-cache DATASET --overwrite`."
    return f"{path} cannot be read: {error}."
