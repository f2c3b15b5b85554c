"""Building a cache: source -> checked pictures -> records, in parallel, resumable, atomic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastload.cache.format.layout import Encoding
from fastload.cache.format.manifest import Manifest, describe_arrays
from fastload.cache.format.problems import problems_path, read_problems, write_problems
from fastload.cache.parallel import ordered_map
from fastload.cache.write.assemble import BuildReport, Progress, check_up_to_date, fill, report
from fastload.cache.write.ingest import IngestedImage, Stamp, make_record, stamp_of
from fastload.cache.write.resize import Reduction
from fastload.cache.write.writer import CacheWriter, write_errors
from fastload.errors import CacheError, SourceError
from fastload.sources.base import SKIPPED, Problem, Source


@dataclass(frozen=True)
class BuildOptions:
    """How `build_cache` builds a cache. A partial build is only resumed with the same encoding, reduction and rotation.

    Args:
        encoding: how images are stored.
        reduction: makes images smaller before they are stored. Default: they keep their size and quality.
        exif_rotate: turn images upright; boxes refer to the upright image (see `fitting.fit_columns`).
        workers: threads. Default: one for every core.
        overwrite: replace a cache that is there already.
        strict: raise CacheError if an image was skipped.
    """

    encoding: Encoding = Encoding.DCT
    reduction: Reduction = field(default_factory=Reduction)
    exif_rotate: bool = False
    workers: int | None = None
    overwrite: bool = False
    strict: bool = False


DEFAULTS = BuildOptions()


def build_cache(
    source: Source,
    path: Path | str,
    options: BuildOptions = DEFAULTS,
    progress: Progress = lambda done, total: None,
) -> BuildReport:
    """Build the cache of `source` at `path`, or find it up to date.

    Stopped at any moment it leaves an older cache as it was, and a `.partial` beside it that the next call with the
    same source and options carries on from, or from the first file that has changed since.

        (dataset,) = find_datasets("coco/", splits=["train2017"])
        build_cache(dataset.load(), "train.lmdb", BuildOptions(encoding=Encoding.ORIGINAL))

    Args:
        source: what `load` of a dataset of `find_datasets` returns.
        path: the file to make; its folder is made too.
        options: how to build it.
        progress: is called with (images done, images in all).

    Returns:
        What is in the cache, and how long it took.

    Raises:
        CacheError: `path` holds another cache and `overwrite` is off, another process is building it, no image could be
            stored, or, with `strict`, an image was left out.
        SourceError: the source lists no images, or its annotations make no sense.
    """
    path = Path(path)
    start = time.monotonic()
    job = describe_job(source, options)
    if path.exists() and not options.overwrite:
        check_up_to_date(path, job)
        if options.strict:
            _check_strict(read_problems(path), path)
        return report(path, start, built=False)
    if not len(source):
        raise SourceError(f"{source.location} lists no images.")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with CacheWriter.locked(path.with_name(path.name + ".partial"), job) as unfinished:
        if unfinished.manifest is None:
            unfinished.rewind(next(_changed(source, unfinished.stamps), unfinished.next_position))
        resumed, restarted = unfinished.next_position, unfinished.restarted
        if unfinished.manifest is None:
            fill(unfinished, _outcomes(source, resumed, options), len(source), progress)
        _finish(unfinished, source, path, job, options)
    return report(path, start, True, resumed, restarted)


def describe_job(source: Source, options: BuildOptions) -> dict[str, Any]:
    """What decides the content of a cache, to be compared with what another was built from."""
    return {
        "format": source.format,
        "digest": source.digest,
        "encoding": options.encoding.label,
        **options.reduction.describe(),
        "exif_rotate": options.exif_rotate,
        "columns": {column.key: column.kind for column in source.columns} or None,
    }


def _outcomes(source: Source, start: int, options: BuildOptions) -> Iterator[IngestedImage]:
    """The outcomes of the samples from position `start` on, in order, made by several threads."""
    label_of = {category.id: label for label, category in enumerate(source.categories)}
    make = partial(
        make_record,
        label_of=label_of,
        encoding=options.encoding,
        reduction=options.reduction,
        exif_rotate=options.exif_rotate,
        further=source.columns,
    )
    return ordered_map(make, source.samples(start), options.workers)


def _changed(source: Source, stamps: list[Stamp]) -> Iterator[int]:
    """The positions of the samples whose files are no longer those that `stamps` were taken of."""
    samples = enumerate(zip(source.samples(), stamps, strict=False))
    return (position for position, (sample, stamp) in samples if stamp_of(sample) != stamp)


def _told(source: Source, stamps: list[Stamp]) -> list[Problem]:
    """A problem for each file that changed after it was read, but before the build ended."""
    changed = set(_changed(source, stamps))
    reason = "its file has changed since it was read: to have it as it is now, build again with --overwrite"
    samples = (sample for position, sample in enumerate(source.samples()) if position in changed)
    return [Problem(sample.image_id, sample.name, "changed", reason) for sample in samples]


def _finish(unfinished: CacheWriter, source: Source, path: Path, job: dict[str, Any], options: BuildOptions) -> None:
    if unfinished.manifest is not None:  # it was killed on the last metre
        unfinished.finish({}, unfinished.manifest, path)
        return
    problems = [*unfinished.problems, *source.problems, *_told(source, unfinished.stamps)]
    with write_errors(path):
        write_problems(problems, path)
    index = unfinished.index()
    images = len(index["image_id"])
    if not images:
        unfinished.discard()
        raise CacheError(f"{path}: all {len(source)} images were skipped. See {problems_path(path)} for the reasons.")
    if options.strict:
        try:
            _check_strict(problems, path)
        except CacheError:
            unfinished.discard()
            raise
    manifest = Manifest(
        encoding=options.encoding.label,
        images=images,
        boxes=len(index["boxes"]),
        categories=source.categories,
        source={**job, "location": source.location},
        arrays=describe_arrays(index, source.columns),
    )
    unfinished.finish(index, manifest, path)


def _check_strict(problems: list[Problem], path: Path) -> None:
    skipped = sum(problem.kind == SKIPPED for problem in problems)
    if skipped:
        raise CacheError(
            f"{path}: {skipped} images were skipped, which --strict does not allow. See {problems_path(path)} for the "
            "reasons. Correct those images, or build without --strict."
        )
