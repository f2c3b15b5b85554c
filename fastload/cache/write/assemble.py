"""What building and converting have in common: committing records, comparing with an existing cache, reporting."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastload.cache.format.index import Entry, build_index
from fastload.cache.format.problems import read_problems
from fastload.cache.format.source_files import Stamp
from fastload.cache.progress import OnProgress
from fastload.cache.read.cache_file import CacheFile
from fastload.cache.write.ingest import IngestedImage
from fastload.cache.write.writer import CacheWriter, Part
from fastload.errors import CacheError
from fastload.sources.base import NOTES, Problem

COMMIT_BYTES = 64 << 20
COMMIT_SECONDS = 2.0


@dataclass(frozen=True)
class BuildReport:
    """The result of `build_cache` or `transcode_cache`.

    Args:
        path: the cache.
        images: number of images in the cache.
        boxes: number of boxes in the cache.
        categories: number of categories.
        bytes: size of the file.
        seconds: time taken.
        built: False if the cache existed and was up to date.
        resumed: number of samples that an interrupted build had already processed.
        restarted: whether an unfinished build of something else was discarded.
        problems: number of problems by kind.
        changed: number of source files that had changed since an earlier build, whose other images were kept.
        notes: sentences about the dataset as a whole, such as how many images no list names.
    """

    path: Path
    images: int
    boxes: int
    categories: int
    bytes: int
    seconds: float
    built: bool
    resumed: int
    restarted: bool
    problems: Counter[str]
    changed: int = 0
    notes: tuple[str, ...] = ()


def fill(writer: CacheWriter, ingested: Iterable[IngestedImage], total: int, progress: OnProgress) -> None:
    """Commit ingested images to an unfinished cache.

    Args:
        writer: the unfinished cache.
        ingested: an image per sample, in order, from `writer.next_position` on.
        total: number of samples in total, as far as it is known.
        progress: called with (samples done, total).
    """
    records: list[tuple[int, bytes]] = []
    entries: list[Entry] = []
    problems: list[Problem] = []
    stamps: list[Stamp] = []
    size, last = 0, time.monotonic()
    position = writer.next_position

    def commit() -> None:
        writer.commit(records, Part(position, build_index(entries), problems, stamps))

    progress(position, total)
    for image in ingested:
        if image.record is not None and image.entry is not None:
            records.append((position, image.record))
            entries.append(image.entry)
            size += len(image.record)
        problems += image.problems
        stamps.append(image.stamp)
        position += 1
        if size >= COMMIT_BYTES or time.monotonic() - last >= COMMIT_SECONDS:
            commit()
            records, entries, problems, stamps, size, last = [], [], [], [], 0, time.monotonic()
        if position < total:
            progress(position, total)
    if stamps:
        commit()
    progress(position, position)


def check_up_to_date(path: Path, job: dict[str, Any]) -> None:
    """Check that the cache at `path` is the one that `job` would build. CacheError if it is not."""
    source = CacheFile(path).manifest.source
    changed = [key for key in job if source.get(key) != job[key]]
    if changed:
        reason = "its annotations have changed since" if changed == ["digest"] else f"{', '.join(changed)} differ"
        raise CacheError(f"{path} was built from something else: {reason}. Build it again with --overwrite.")


def report(
    path: Path, start: float, built: bool, resumed: int = 0, restarted: bool = False, changed: int = 0
) -> BuildReport:
    """Return the report on the cache at `path`, which was started at `start` (time.monotonic)."""
    cache, problems = CacheFile(path), read_problems(path)
    return BuildReport(
        path=path,
        images=len(cache),
        boxes=cache.manifest.boxes,
        categories=len(cache.categories),
        bytes=path.stat().st_size,
        seconds=time.monotonic() - start,
        built=built,
        resumed=resumed,
        restarted=restarted,
        problems=Counter(problem.kind for problem in problems),
        changed=changed,
        notes=tuple(problem.reason for problem in problems if problem.kind in NOTES),
    )
