"""Verifying a cache: every bit of every record, and that every image still decodes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fastload._core as _core
from fastload.cache.parallel import ordered_map
from fastload.cache.read.cache_file import CacheFile
from fastload.errors import CacheError


@dataclass(frozen=True)
class Damage:
    """An image of a cache that cannot be used."""

    index: int
    image_id: int
    name: str
    reason: str


def verify_cache(
    path: str | os.PathLike[str],
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Damage]:
    """The damaged images of the cache at `path`, in order. `CacheError` when it cannot even be opened or is changed
    meanwhile."""
    cache = CacheFile(path)
    damage = []
    for done, found in enumerate(ordered_map(partial(_check, cache), range(len(cache)), workers), start=1):
        progress(done, len(cache))
        if found is not None:
            cache.check_unchanged()
            damage.append(found)
    return damage


def advice(path: Path) -> str:
    """What to do about damage."""
    return (
        "The file was changed or the disk is failing since it was built. Copy it anew from where it is whole, or build "
        f"it again: fastload build-cache DATASET --overwrite (replaces {path.name})."
    )


def _check(cache: CacheFile, index: int) -> Damage | None:
    try:
        cache.check_record(index)
        _core.decode_record(cache.record_bytes(index))
    except (CacheError, ValueError) as error:
        reason = str(error.__cause__ or error)
        return Damage(index, int(cache.image_ids[index]), cache.name(index), reason)
    return None
