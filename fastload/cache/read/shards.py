"""Shards: the store of several caches that are read as one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import Column
from fastload.cache.format.index import Index, join_arrays
from fastload.cache.format.manifest import Manifest
from fastload.errors import CacheError
from fastload.sources.base import Category

if TYPE_CHECKING:
    from fastload.cache.read.cache_file import CacheFile

SHOWN = 3  # examples in an error message


class Shards:
    """The `Store` of several caches, with the images of the first before those of the second.

    Arrays of the index are concatenated on first use. Records are not copied.

    Args:
        caches: one or more caches, each of which may consist of several.
        renumber: whether to use positions as image ids.

    Raises:
        CacheError: an image id is in two caches, or the categories of two caches disagree.
    """

    def __init__(self, caches: Sequence[CacheFile], renumber: bool) -> None:
        self._caches, self._renumbered = tuple(caches), renumber
        self._starts = np.cumsum([0, *map(len, caches)], dtype=np.int64)
        self._categories, self._labels = unite_categories(caches)
        first, *others = (cache.store.columns for cache in caches)
        self._columns = tuple(column for column in first if all(column in columns for columns in others))
        self._index = _Arrays(self._join)
        if not renumber:
            self._check_ids()

    @property
    def index(self) -> Index:
        """See `Store.index`."""
        return self._index

    @property
    def columns(self) -> tuple[Column, ...]:
        """The extra columns that all caches have."""
        return self._columns

    @cached_property
    def addresses(self) -> NDArray[np.uint64]:
        """See `Store.addresses`."""
        return np.concatenate([cache.addresses for cache in self._caches])

    @cached_property
    def lengths(self) -> NDArray[np.uint64]:
        """See `Store.lengths`."""
        return np.concatenate([cache.lengths for cache in self._caches])

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories of all caches, in order of appearance."""
        return self._categories

    @cached_property
    def fingerprint(self) -> str:
        """See `Store.fingerprint`. It covers the fingerprints of all caches in order."""
        content = repr(([cache.fingerprint for cache in self._caches], self._renumbered))
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    @property
    def manifest(self) -> Manifest:
        """See `Store.manifest`."""
        raise CacheError("several caches read as one have no manifest: each of their `shards` has its own")

    def locate(self, position: int) -> tuple[CacheFile, int]:
        """Return the cache that holds image `position`, and its position there."""
        k = int(self._number(position))
        return self._caches[k], position - int(self._starts[k])

    def record(self, position: int) -> memoryview:
        """See `Store.record`."""
        cache, i = self.locate(position)
        return cache.record_bytes(i)

    def name(self, position: int) -> str:
        """See `Store.name`."""
        cache, i = self.locate(position)
        return cache.name(i)

    def ensure(self, positions: NDArray[np.int64]) -> None:
        """See `CacheFile.ensure`."""
        number = self._number(positions)
        for k, cache in enumerate(self._caches):
            if (here := number == k).any():
                cache.ensure(positions[here] - self._starts[k])

    def check_unchanged(self) -> None:
        """See `CacheFile.check_unchanged`."""
        for cache in self._caches:
            cache.check_unchanged()

    def _number(self, positions: Any) -> NDArray[np.int64]:
        """The number of the cache that holds each of `positions`."""
        number: NDArray[np.int64] = np.searchsorted(self._starts, positions, "right") - 1
        return number

    def _join(self, name: str) -> NDArray[Any]:
        if name == "image_id" and self._renumbered:
            return np.arange(self._starts[-1])
        arrays = [cache.store.index[name] for cache in self._caches]
        if name == "label":
            arrays = [new[old] for new, old in zip(self._labels, arrays, strict=True)]
        return join_arrays(name, arrays)

    def _check_ids(self) -> None:
        ids = self.index["image_id"]
        order = np.argsort(ids, kind="stable")
        number, ids = self._number(order), ids[order]
        twice = np.flatnonzero((ids[1:] == ids[:-1]) & (number[1:] != number[:-1]))
        if not len(twice):
            return
        first, second = (self._caches[number[k]] for k in (twice[0], twice[0] + 1))
        if first.fingerprint == second.fingerprint:
            raise CacheError(
                f"{second.where} holds the same images as {first.where}: give each cache once. To repeat images "
                "within an epoch, use a sampler or a Subset that repeats their indices."
            )
        some = ", ".join(map(str, ids[twice[:SHOWN]].tolist()))
        more = f" and {len(twice) - SHOWN:,} more" if len(twice) > SHOWN else ""
        raise CacheError(
            f"{first.where} and {second.where} both hold images with id {some}{more}. Image ids must be unique: number "
            "the images by position with `fastload.Cache([...], renumber=True)`, or build one cache with other ids."
        )


class _Arrays(dict[str, NDArray[Any]]):
    """Read-only arrays by name, made on first use."""

    def __init__(self, make: Callable[[str], NDArray[Any]]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> NDArray[Any]:
        array = self[name] = self._make(name)
        array.flags.writeable = False
        return array


def unite_categories(caches: Sequence[CacheFile]) -> tuple[tuple[Category, ...], list[NDArray[np.int32]]]:
    """Combine the categories of several caches.

    Returns:
        All categories in order of appearance, and for each cache the new label of each of its labels.

    Raises:
        CacheError: a name has different ids in two caches, or an id has different names.
    """
    united: list[Category] = []
    place: dict[tuple[int, str], int] = {}
    origin: dict[int | str, tuple[Category, CacheFile]] = {}  # by id and by name
    labels = []
    for cache in caches:
        new = [category for category in cache.categories if (category.id, category.name) not in place]
        conflicts = [
            (*origin[key], category) for category in new for key in (category.name, category.id) if key in origin
        ]
        if conflicts:
            raise CacheError(_conflict(conflicts, cache))
        for category in new:
            place[category.id, category.name] = len(united)
            united.append(category)
            origin[category.id] = origin[category.name] = category, cache
        labels.append(np.array([place[category.id, category.name] for category in cache.categories], np.int32))
    return tuple(united), labels


def _conflict(conflicts: Sequence[tuple[Category, CacheFile, Category]], second: CacheFile) -> str:
    _, first, _ = conflicts[0]
    mine = [(theirs, ours) for theirs, cache, ours in conflicts if cache is first]
    some = "; ".join(
        f"{ours.name!r} has id {theirs.id} in the first and {ours.id} in the second"
        if ours.name == theirs.name
        else f"id {ours.id} is {theirs.name!r} in the first and {ours.name!r} in the second"
        for theirs, ours in mine[:SHOWN]
    )
    more = f"; and {len(mine) - SHOWN} more" if len(mine) > SHOWN else ""
    return (
        f"the categories of {first.where} and {second.where} disagree: {some}{more}. Labels are category "
        "ids, so a name must have one id: change the categories of one dataset, and build its cache again."
    )
