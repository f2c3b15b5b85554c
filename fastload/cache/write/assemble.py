"""Filling an unfinished cache with records as they are made, and the checks and reports of whatever makes them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastload.cache.format.index import Entry, build_index
from fastload.cache.format.problems import read_problems
from fastload.cache.read.cache_file import CacheFile
from fastload.cache.write.ingest import IngestedImage, Stamp
from fastload.cache.write.writer import CacheWriter, Part
from fastload.errors import CacheError
from fastload.sources.base import Problem

COMMIT_BYTES = 64 << 20
COMMIT_SECONDS = 2.0
Progress = Callable[[int, int], None]  # samples done, samples in all


@dataclass(frozen=True)
class BuildReport:
    """What a build has done."""

    path: Path
    images: int
    boxes: int
    categories: int
    bytes: int
    seconds: float
    built: bool  # False: the cache was there and up to date
    resumed: int  # samples that an interrupted build had already done
    restarted: bool  # an unfinished build was thrown away, being of something else
    problems: Counter[str]  # by kind


def fill(writer: CacheWriter, outcomes: Iterable[IngestedImage], total: int, progress: Progress) -> None:
    """Commit the outcomes of all samples, out of `total`, that `writer` does not hold yet, as they come, in order."""
    records: list[tuple[int, bytes]] = []
    entries: list[Entry] = []
    problems: list[Problem] = []
    stamps: list[Stamp] = []
    size, last = 0, time.monotonic()
    position = writer.next_position
    progress(position, total)
    for outcome in outcomes:
        if outcome.record is not None and outcome.entry is not None:
            records.append((position, outcome.record))
            entries.append(outcome.entry)
            size += len(outcome.record)
        problems += outcome.problems
        stamps.append(outcome.stamp)
        position += 1
        if size >= COMMIT_BYTES or time.monotonic() - last >= COMMIT_SECONDS or position == total:
            writer.commit(records, Part(position, build_index(entries), problems, stamps))
            records, entries, problems, stamps, size, last = [], [], [], [], 0, time.monotonic()
        progress(position, total)


def check_up_to_date(path: Path, job: dict[str, Any]) -> None:
    """`CacheError` unless the cache at `path` is what `job` would make."""
    source = CacheFile(path).manifest.source
    changed = [key for key in job if source.get(key) != job[key]]
    if changed:
        what = "its annotations have changed since" if changed == ["digest"] else f"{', '.join(changed)} differ"
        raise CacheError(f"{path} was built from something else: {what}. Build it anew with --overwrite.")


def report(path: Path, start: float, built: bool, resumed: int = 0, restarted: bool = False) -> BuildReport:
    """What has been done since `start` (of time.monotonic) to make the cache at `path`."""
    cache = CacheFile(path)
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
        problems=Counter(problem.kind for problem in read_problems(path)),
    )
