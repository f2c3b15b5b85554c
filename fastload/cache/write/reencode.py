"""Converting a cache to another encoding or to smaller images, without its dataset."""

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
from fastload.cache.progress import OnProgress, no_progress
from fastload.cache.read.cache_file import CacheFile, Record
from fastload.cache.write.assemble import BuildReport, check_up_to_date, fill, report
from fastload.cache.write.checked_image import checked_jpeg
from fastload.cache.write.fitting import scale_columns
from fastload.cache.write.ingest import IngestedImage, encode, make_entry
from fastload.cache.write.resize import Reduction
from fastload.cache.write.writer import CacheWriter, write_errors
from fastload.errors import CacheError, DecodeError
from fastload.sources.base import NOT_PACKED, Problem


@dataclass(frozen=True)
class ReencodeOptions:
    """Options of `transcode_cache`.

    Args:
        encoding: the encoding of the new cache.
        reduction: how images are reduced. Default: they keep their size and quality.
        workers: number of threads. Default: one per core.
        overwrite: replace an existing cache.
    """

    encoding: Encoding
    reduction: Reduction = field(default_factory=Reduction)
    workers: int | None = None
    overwrite: bool = False


def transcode_cache(
    source: Path, path: Path, options: ReencodeOptions, progress: OnProgress = no_progress
) -> BuildReport:
    """Convert the cache at `source` to a new cache at `path`, unless an up-to-date one exists.

    Annotations are copied, and boxes are scaled with their images. The conversion is atomic and resumable, like
    `build_cache`.

    Args:
        source: the cache to convert.
        path: the file to create. Its folder is created if needed.
        options: how to convert the cache.
        progress: called with (images done, images in total).

    Raises:
        CacheError: as for `build_cache`; or an image of `source` is damaged; or it is stored as planes, which can only
            be converted to planes of the same size.
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
            fill(unfinished, _reencode_all(cache, resumed, options), len(cache), progress)
        _finish(unfinished, cache, path, job, options)
    return report(path, start, True, resumed, restarted)


def describe_job(cache: CacheFile, options: ReencodeOptions) -> dict[str, Any]:
    """Return the settings that determine the content. For `build_cache`, they are those of a build from the dataset."""
    built = cache.manifest.source
    earlier = Reduction(**{name: built.get(name) for name in Reduction().describe()})
    return {
        **{key: value for key, value in built.items() if key != "location"},
        "encoding": options.encoding.label,
        **options.reduction.after(earlier).describe(),
        "converted_from": cache.fingerprint,
    }


def reencode(cache: CacheFile, options: ReencodeOptions, index: int) -> IngestedImage:
    """Convert image `index` as `options` say. Runs in a worker thread."""
    record = cache.record(index)
    columns, color = cache.columns_of(index), cache.color_of(index)
    if record.encoding == options.encoding and not options.reduction:
        data, refusal = bytes(cache.record_bytes(index)), None
    else:
        image = checked_jpeg(_jpeg(cache, record))
        try:
            stored = options.reduction.apply(image)
        except DecodeError as error:
            raise CacheError(
                f"{cache.path}: image {record.image_id} ({record.name}) {error}. Run `fastload verify {cache.path}`."
            ) from error
        data, refusal = encode(stored, options.encoding)
        color = color if stored is image else None
        columns = scale_columns(columns, image.size, stored.size, cache.store.columns)
    cache.check_unchanged()  # so the boxes and bytes above were read from an intact file
    entry = make_entry(data, record.image_id, record.name, record.source_size, columns, color)
    problems = [Problem(record.image_id, record.name, NOT_PACKED, refusal)] if refusal else []
    return IngestedImage(data, entry, problems)


def _jpeg(cache: CacheFile, record: Record) -> bytes:
    """Return a JPEG that decodes to exactly the record's planes."""
    if record.encoding == Encoding.ORIGINAL:
        return bytes(record.data)
    try:
        return _core.dct_to_jpeg(record.data)
    except ValueError as error:
        raise CacheError(
            f"{cache.path}: image {record.image_id} ({record.name}) cannot be unpacked: {error}. Run `fastload verify "
            f"{cache.path}`."
        ) from error


def _reencode_all(cache: CacheFile, start: int, options: ReencodeOptions) -> Iterator[IngestedImage]:
    return ordered_map(partial(reencode, cache, options), range(start, len(cache)), options.workers)


def _check_possible(cache: CacheFile, options: ReencodeOptions) -> None:
    if (options.encoding == Encoding.PLANES and not options.reduction) or Encoding.PLANES not in cache.encodings:
        return
    raise CacheError(
        f"{cache.path} holds decoded planes, which can only be converted to planes of the same size. Convert another "
        "cache of the dataset, or build from the dataset: fastload build-cache DATASET."
    )


def _finish(
    unfinished: CacheWriter, cache: CacheFile, path: Path, job: dict[str, Any], options: ReencodeOptions
) -> None:
    if unfinished.manifest is not None:  # an earlier run was interrupted just before renaming the file
        unfinished.finish({}, unfinished.manifest, path)
        return
    earlier = [problem for problem in read_problems(cache.path) if problem.kind != NOT_PACKED]
    with write_errors(path):
        write_problems([*earlier, *unfinished.problems], path)
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
