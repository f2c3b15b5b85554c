"""Store: what a cache asks of wherever its images lie."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import Column
from fastload.cache.format.index import Index
from fastload.cache.format.manifest import Manifest
from fastload.sources.base import Category


class Store(Protocol):
    """The images of a cache: in a mapped file, in memory, or in several caches that are read as one.

    Images are known by their positions, 0 to n - 1. Python reads one by `record`, which has the bytes when it returns.
    Engines read at `addresses` from native threads, and call `ensure` first.
    """

    @property
    def index(self) -> Index:
        """The arrays of `layout.INDEX` and of `columns`, each to be asked for by name or key. Read-only, and checked
        against one another."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the index beside those that every cache has."""

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """(n) where in memory each record begins, as long as this store is held."""

    @property
    def lengths(self) -> NDArray[np.uint64]:
        """(n) bytes of each record."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """What the labels of the index number."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever images or annotations do."""

    @property
    def manifest(self) -> Manifest:
        """What a cache file says of itself. CacheError if there is no single one."""

    def record(self, position: int) -> memoryview:
        """The bytes of record `position`, header and payload."""

    def name(self, position: int) -> str:
        """The file that image `position` came from."""

    def ensure(self, positions: NDArray[np.int64]) -> None:
        """See `CacheFile.ensure`."""

    def check_unchanged(self) -> None:
        """See `CacheFile.check_unchanged`."""
