"""Verifying a cache: the checksum of every record, and that every image decodes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fastload._core as _core
from fastload.cache.parallel import ordered_map
from fastload.cache.progress import OnProgress, no_progress
from fastload.cache.read.cache_file import CacheFile
from fastload.cache.read.mapping import open_mapping
from fastload.errors import CacheError


@dataclass(frozen=True)
class Damage:
    """A damaged image of a cache."""

    index: int
    image_id: int
    name: str
    reason: str


def verify_cache(
    path: str | os.PathLike[str],
    workers: int | None = None,
    progress: OnProgress = no_progress,
) -> list[Damage]:
    """Verify every record of a cache, and return the damaged images in order.

    Args:
        path: the cache.
        workers: number of threads. Default: one per core.
        progress: called with (images done, images in total).

    Raises:
        CacheError: the cache cannot be opened, or it changes during the verification.
    """
    cache = CacheFile(path)
    damage = []
    for done, damaged in enumerate(ordered_map(partial(_check, cache), range(len(cache)), workers), start=1):
        progress(done, len(cache))
        if damaged is not None:
            cache.check_unchanged()
            damage.append(damaged)
    return damage


def verify_sources(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Compare the source files of a cache with their sizes and modification times when it was built.

    Args:
        path: the cache.

    Returns:
        (path, "changed", "vanished" or "new") of each file that differs. "new": it was missing.

    Raises:
        CacheError: the cache cannot be opened, or it does not list its source files.
    """
    files = open_mapping(path).source_files()
    if files is None:
        raise CacheError(
            f"{path} does not list its source files: it was converted, or built by an earlier version. Build it from "
            "its dataset with --overwrite to compare them later."
        )
    return list(files.changed(Path(path)))


def advice(path: Path) -> str:
    """Return advice on how to replace the damaged cache at `path`."""
    return (
        "The file was changed after it was built, or the disk is failing. Copy it again from an intact copy, or build "
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
