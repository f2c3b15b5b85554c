"""Opening a cache file: mapped once a process, every structure of it checked before it is believed."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

import fastload._core as _core
from fastload.cache.index import Index, check_index
from fastload.cache.layout import INDEX, INDEX_PREFIX, MANIFEST_KEY
from fastload.cache.manifest import Manifest
from fastload.errors import CacheError


class Mapping:
    """The bytes of a cache file and where in them everything is. Shared by all who open the same file."""

    def __init__(self, path: Path, file: mmap.mmap) -> None:
        self.path = path
        self.file = file
        try:
            values, _, self.offsets, self.lengths, extent = _core.lmdb_tree(file)
            if len(file) < extent:
                raise ValueError(f"it is truncated: {len(file)} of {extent} bytes")
            if MANIFEST_KEY not in values:
                raise ValueError("it holds no manifest: it is no cache, or its build was interrupted")
            self.manifest = Manifest.from_bytes(self._bytes(values[MANIFEST_KEY]))
            self.index: Index = {name: self._array(name, values) for name in INDEX}
            check_index(self.index, len(self.manifest.categories))
            if len(self.offsets) != self.manifest.images:
                raise ValueError(f"it has {len(self.offsets)} records for {self.manifest.images} images")
        except ValueError as error:
            raise CacheError(
                f"{path} cannot be read as a cache: {error}. Build it again with `fastload build-cache DATASET "
                "--overwrite`, or copy it anew from where it is whole."
            ) from error
        if hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)  # what the checks have read need not stay resident
        whole = np.frombuffer(file, np.uint8)
        self.addresses: NDArray[np.uint64] = self.offsets + np.uint64(whole.ctypes.data)

    def record(self, position: int) -> memoryview:
        """The bytes of record `position`, header and payload."""
        start = int(self.offsets[position])
        return memoryview(self.file)[start : start + int(self.lengths[position])]

    def _bytes(self, place: tuple[int, int]) -> bytes:
        offset, size = place
        return self.file[offset : offset + size]

    def _array(self, name: str, values: dict[bytes, tuple[int, int]]) -> NDArray[Any]:
        described = self.manifest.arrays[name]
        offset, size = values.get(INDEX_PREFIX + name.encode(), (0, -1))
        dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
        if size != int(np.prod(shape)) * dtype.itemsize:
            raise ValueError(f"its {name} is missing or of the wrong size")
        if _core.xxh64(memoryview(self.file)[offset : offset + size]) != int(described["checksum"], 16):
            raise ValueError(f"the checksum of its {name} does not match")
        array = np.ndarray(shape, dtype, self.file, offset)
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
                if mapping is None:
                    file = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
                    mapping = _open[key] = Mapping(shown, file)
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
