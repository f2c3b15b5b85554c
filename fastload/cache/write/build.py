"""Building a cache from a source: in parallel, resumable and atomic."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastload.annotations import Column
from fastload.cache.format.layout import Encoding
from fastload.cache.format.manifest import Manifest, describe_arrays
from fastload.cache.format.problems import problems_path, read_problems, write_problems
from fastload.cache.format.source_files import SourceFiles, Stamp, can_be_named, stamp_of_file
from fastload.cache.parallel import ordered_map
from fastload.cache.progress import OnProgress, no_progress
from fastload.cache.write.assemble import BuildReport, check_up_to_date, fill, report
from fastload.cache.write.earlier import EarlierBuild
from fastload.cache.write.ingest import IngestedImage, make_record, stamp_of
from fastload.cache.write.resize import Reduction
from fastload.cache.write.writer import CacheWriter, write_errors
from fastload.errors import ArgumentError, CacheError, SourceError
from fastload.sources.base import CHANGED, SKIPPED, Problem, Sample, Source, files_of, is_source
from fastload.sources.huggingface import is_huggingface, read_huggingface
from fastload.sources.python import BoxFormat, Classes, PythonSource, Samples


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build_cache`.

        options = BuildOptions(encoding=Encoding.ORIGINAL, reduction=Reduction(short=512), strict=True)

    A partial build is resumed only with the same encoding, reduction and rotation.

    Args:
        encoding: how images are stored.
        reduction: how images are reduced before they are stored. Default: they keep their size and quality.
        exif_rotate: rotate images upright as their EXIF data says. Boxes must refer to the upright image, or the
            source must state the size of the image before rotation.
        workers: number of threads. Default: one per core.
        overwrite: replace an existing cache that was built from something else, or rebuild one.
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
    source: Source | Samples,
    path: Path | str,
    options: BuildOptions = DEFAULTS,
    progress: OnProgress = no_progress,
    *,
    classes: Classes | None = None,
    format: BoxFormat | None = None,
    columns: Sequence[Column] = (),
) -> BuildReport:
    """Build the cache of `source` at `path`, unless an up-to-date one exists.

    Problem files are converted or skipped, and listed in the problems file beside the cache. An interrupted build
    leaves an existing cache unchanged and keeps a `.partial` file. The next call with the same source and options
    resumes from it, or from the first image file that has changed since. If image files have changed since a cache
    was built, the next build reads them again, and takes the other images from the cache.

        (dataset,) = find_datasets("coco/", splits=["train2017"])
        build_cache(dataset.load(), "train.lmdb", BuildOptions(encoding=Encoding.ORIGINAL))

        samples = [{"image": "photo.jpg", "boxes": [[10, 20, 50, 60]], "labels": ["dog"]}]
        build_cache(samples, "mine.lmdb", classes=["cat", "dog"])

    Args:
        source: what to store: a source, as returned by `load` of a dataset of `find_datasets`; or samples, as a torch
            `Dataset` of (image, target), a sequence or iterable of dicts, or a Hugging Face dataset. docs/caches.md
            says what a sample may hold.
        path: the file to create. Its folder is created if needed.
        options: how to build the cache.
        progress: called with (images done, images in total).
        classes: of samples: the names of the classes, numbered from 0, or a dict of id: name. Default: those that the
            dataset has as `classes` or as ClassLabel features.
        format: of the boxes of samples: "xyxy" (default), "xywh" or "cxcywh", in pixels.
        columns: of samples: extra columns that the first samples do not have, or whose type they do not show.

    Returns:
        A report with the number of images, boxes and problems, and the time taken.

    Raises:
        CacheError: `path` holds a cache built from something else and `overwrite` is off, it cannot be written, another
            process is building it, no image could be stored, or an image was skipped and `strict` is on.
        SourceError: the source lists no images, or its annotations are invalid. Of samples, it gives the index.
        ArgumentError: `classes`, `format` or `columns` are given beside a source, which has its own.
    """
    path = Path(path)
    start = time.monotonic()
    source = _source_of(source, classes, format, columns)
    job = describe_job(source, options)
    earlier, changed = None, 0
    if path.exists() and not options.overwrite:
        check_up_to_date(path, job)
        earlier = EarlierBuild(path, source.problems)
        changed = sum(1 for _ in earlier.changed(source))
        if not changed:
            if options.strict:
                _check_strict(read_problems(path), path)
            return report(path, start, built=False)
    if not len(source):
        raise SourceError(f"{source.location} lists no images: choose another dataset or split.")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with CacheWriter.locked(path.with_name(path.name + ".partial"), job) as unfinished:
        if unfinished.manifest is None:
            unfinished.rewind(next(_changed(source, unfinished.stamps), unfinished.next_position))
        resumed, restarted = unfinished.next_position, unfinished.restarted
        if unfinished.manifest is None:
            if isinstance(source, PythonSource):
                samples = source.samples(resumed, unfinished.image_ids())
            else:
                samples = source.samples(resumed)
            fill(unfinished, _ingest(source, samples, options, earlier), len(source), progress)
        _finish(unfinished, source, path, job, options)
    return report(path, start, True, resumed, restarted, changed)


def _source_of(
    source: Source | Samples, classes: Classes | None, format: BoxFormat | None, columns: Sequence[Column]
) -> Source:
    if is_source(source):
        if classes is not None or format is not None or columns:
            raise ArgumentError("`classes`, `format` and `columns` describe samples: a source has its own. Omit them.")
        return source
    if is_huggingface(source):
        return read_huggingface(source, classes, format, columns)
    return PythonSource(source, classes, format or "xyxy", columns)


def describe_job(source: Source, options: BuildOptions) -> dict[str, Any]:
    """Return the settings that determine the content of a cache. The manifest keeps them, for comparison."""
    return {
        "format": source.format,
        "digest": source.digest,
        "encoding": options.encoding.label,
        **options.reduction.describe(),
        "exif_rotate": options.exif_rotate,
        "columns": {column.key: column.kind for column in source.columns} or None,
    }


def _ingest(
    source: Source, samples: Iterator[Sample], options: BuildOptions, earlier: EarlierBuild | None
) -> Iterator[IngestedImage]:
    """Ingest samples of a source in several threads, and yield the results in order."""
    label_of = {category.id: label for label, category in enumerate(source.categories)}
    make = partial(
        make_record,
        label_of=label_of,
        encoding=options.encoding,
        reduction=options.reduction,
        exif_rotate=options.exif_rotate,
        extra=source.columns,
    )

    def ingest(sample: Sample) -> IngestedImage:
        return (earlier and earlier.ingested(sample)) or make(sample)

    return ordered_map(ingest, samples, options.workers)


def _changed(source: Source, stamps: list[Stamp]) -> Iterator[int]:
    """Yield the positions of the samples whose files no longer have the stamps `stamps`."""
    samples = enumerate(zip(files_of(source), stamps, strict=False))
    return (position for position, (sample, stamp) in samples if stamp_of(sample) != stamp)


def _change_problems(source: Source, stamps: list[Stamp]) -> list[Problem]:
    """Return a problem for each file that changed between being read and the end of the build."""
    changed = set(_changed(source, stamps))
    reason = "its file has changed since it was read: to store the new version, build again"
    samples = (sample for position, sample in enumerate(files_of(source)) if position in changed)
    return [Problem(sample.image_id, sample.name, CHANGED, reason) for sample in samples]


def _finish(unfinished: CacheWriter, source: Source, path: Path, job: dict[str, Any], options: BuildOptions) -> None:
    if unfinished.manifest is not None:  # an earlier build was interrupted just before renaming the file
        unfinished.finish({}, unfinished.manifest, path)
        return
    problems = [*unfinished.problems, *source.problems, *_change_problems(source, unfinished.stamps)]
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
    unfinished.finish(index, manifest, path, _source_files(source, unfinished.stamps, path))


def _source_files(source: Source, stamps: list[Stamp], path: Path) -> SourceFiles:
    """Return the image files with `stamps`, and the annotation file if there is a single one."""
    home = os.path.realpath(path.parent)
    folders: dict[str, str] = {}
    paths, image_ids = [], []
    for sample in files_of(source):
        folder, name = os.path.split(sample.path)
        if folder not in folders:
            folders[folder] = os.path.relpath(os.path.abspath(folder), home)
        located = os.path.join(folders[folder], name)
        unread = sample.skip_reason or sample.data is not None or "\0" in located or not can_be_named(located)
        paths.append("" if unread else located)
        image_ids.append(sample.image_id)
    stamps = stamps[: len(paths)]
    if os.path.isfile(source.location):
        paths.append(os.path.relpath(source.location, home))
        stamps = [*stamps, stamp_of_file(source.location)]
    return SourceFiles(home, paths, stamps, image_ids)


def _check_strict(problems: list[Problem], path: Path) -> None:
    skipped = sum(problem.kind == SKIPPED for problem in problems)
    if skipped:
        raise CacheError(
            f"{path}: {skipped} images were skipped, which --strict does not allow. See {problems_path(path)} for the "
            "reasons. Correct those images, or build without --strict."
        )
