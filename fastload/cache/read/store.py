"""The `Store` protocol: where the records and the index of a cache come from."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import Column
from fastload.cache.format.index import Index
from fastload.cache.format.manifest import Manifest
from fastload.sources.base import Category


class Store(Protocol):
    """The storage of a cache: a mapped file, memory, or several caches that are read as one.

    Positions are 0 to n - 1. Python reads a record by `record`. Engines read at `addresses` from native threads, after
    calling `ensure`.
    """

    @property
    def index(self) -> Index:
        """The arrays of `layout.INDEX` by name and those of `columns` by key: read-only, and consistent with each
        other."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The extra columns of the index."""

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """(n) memory address of each record, valid as long as this store exists."""

    @property
    def lengths(self) -> NDArray[np.uint64]:
        """(n) size of each record in bytes."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories. Labels of the index are positions in it."""

    @property
    def fingerprint(self) -> str:
        """Hex digest that changes whenever images or annotations change."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the file. CacheError if there are several files."""

    def record(self, position: int) -> memoryview:
        """Return the record at `position`, header and payload."""

    def name(self, position: int) -> str:
        """Return the file name of the image at `position` in the source."""

    def ensure(self, positions: NDArray[np.int64]) -> None:
        """See `CacheFile.ensure`."""

    def check_unchanged(self) -> None:
        """See `CacheFile.check_unchanged`."""
