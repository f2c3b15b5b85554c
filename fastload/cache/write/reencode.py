"""From a cache to a cache: another encoding, or smaller pictures, without the dataset it was built from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import fastload._core as _core
from fastload.cache.format.layout import Encoding
from fastload.cache.format.manifest import Manifest, describe_arrays
from fastload.cache.format.problems import read_problems, write_problems
from fastload.cache.parallel import ordered_map
from fastload.cache.read.cache_file import CacheFile, Record
from fastload.cache.write.assemble import BuildReport, Progress, check_up_to_date, fill, report
from fastload.cache.write.checked_image import checked_jpeg
from fastload.cache.write.fitting import scale_columns
from fastload.cache.write.ingest import IngestedImage, encode, make_entry
from fastload.cache.write.resize import Reduction
from fastload.cache.write.writer import CacheWriter, write_errors
from fastload.errors import CacheError, DecodeError
from fastload.sources.base import NOT_PACKED, Problem


@dataclass(frozen=True)
class ReencodeOptions:
    """What a cache is turned into."""

    encoding: Encoding
    reduction: Reduction = field(default_factory=Reduction)
    workers: int | None = None  # threads; None: one for every core
    overwrite: bool = False


def transcode_cache(
    source: Path, path: Path, options: ReencodeOptions, progress: Progress = lambda done, total: None
) -> BuildReport:
    """Make the cache at `path` from the one at `source`, or find it up to date.

    Annotations are carried over; boxes follow where pictures shrink. Atomic and resumable as `build.build_cache` is.
    `CacheError` as there, and when an image of `source` is damaged, or is held as planes and has to become anything
    else: from planes there is no way back.
    """
    start = time.monotonic()
    cache = CacheFile(source)
    _check_possible(cache, options)
    job = describe_job(cache, options)
    if path.exists() and not options.overwrite:
        check_up_to_date(path, job)
        return report(path, start, built=False)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with CacheWriter.locked(path.with_name(path.name + ".partial"), job) as unfinished:
        resumed, restarted = unfinished.next_position, unfinished.restarted
        if unfinished.manifest is None:
            fill(unfinished, _outcomes(cache, resumed, options), len(cache), progress)
        _finish(unfinished, cache, path, job, options)
    return report(path, start, True, resumed, restarted)


def describe_job(cache: CacheFile, options: ReencodeOptions) -> dict[str, Any]:
    """What decides the content: for `build_cache` the result is as if built from the dataset with these settings."""
    built = cache.manifest.source
    earlier = Reduction(**{name: built.get(name) for name in Reduction().describe()})
    return {
        **{key: value for key, value in built.items() if key != "location"},
        "encoding": options.encoding.label,
        **options.reduction.after(earlier).describe(),
        "converted_from": cache.fingerprint,
    }


def reencode(cache: CacheFile, options: ReencodeOptions, index: int) -> IngestedImage:
    """The record of image `index` as `options` want it. Runs in a worker thread."""
    record = cache.record(index)
    columns = cache.columns_of(index)
    if record.encoding == options.encoding and not options.reduction:
        data, refusal = bytes(cache.record_bytes(index)), None
    else:
        picture = checked_jpeg(_jpeg(cache, record))
        try:
            stored = options.reduction.apply(picture)
        except DecodeError as error:
            raise CacheError(f"{cache.path}: image {record.image_id} ({record.name}) {error}.") from error
        data, refusal = encode(stored, options.encoding)
        columns = scale_columns(columns, picture.size, stored.size, cache.store.columns)
    cache.check_unchanged()  # it was whole when the boxes and bytes were read
    entry = make_entry(data, record.image_id, record.name, record.source_size, columns)
    problems = [Problem(record.image_id, record.name, NOT_PACKED, refusal)] if refusal else []
    return IngestedImage(data, entry, problems)


def _jpeg(cache: CacheFile, record: Record) -> bytes:
    """A JPEG that decodes to the record's planes, bit for bit."""
    if record.encoding == Encoding.ORIGINAL:
        return bytes(record.data)
    try:
        return _core.dct_to_jpeg(record.data)
    except ValueError as error:
        raise CacheError(
            f"{cache.path}: image {record.image_id} ({record.name}) cannot be unpacked: {error}."
        ) from error


def _outcomes(cache: CacheFile, start: int, options: ReencodeOptions) -> Iterator[IngestedImage]:
    return ordered_map(partial(reencode, cache, options), range(start, len(cache)), options.workers)


def _check_possible(cache: CacheFile, options: ReencodeOptions) -> None:
    if (options.encoding == Encoding.PLANES and not options.reduction) or Encoding.PLANES not in cache.encodings:
        return
    raise CacheError(
        f"{cache.path} holds decoded planes, from which nothing but planes of the same size can be made. Convert "
        "another cache of the dataset, or build from the dataset itself: fastload build-cache DATASET."
    )


def _finish(
    unfinished: CacheWriter, cache: CacheFile, path: Path, job: dict[str, Any], options: ReencodeOptions
) -> None:
    if unfinished.manifest is not None:  # it was killed on the last metre
        unfinished.finish({}, unfinished.manifest, path)
        return
    met_before = [problem for problem in read_problems(cache.path) if problem.kind != NOT_PACKED]
    with write_errors(path):
        write_problems([*met_before, *unfinished.problems], path)
    index = unfinished.index()
    manifest = Manifest(
        encoding=options.encoding.label,
        images=len(cache),
        boxes=len(index["boxes"]),
        categories=cache.categories,
        source={**job, "location": cache.manifest.source.get("location")},
        arrays=describe_arrays(index, cache.store.columns),
    )
    unfinished.finish(index, manifest, path)
