"""From a sample to its record: the file is read and checked, its columns are fitted, its payload is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import fastload._core as _core
from fastload.annotations import Column, Columns
from fastload.cache.format.index import Entry
from fastload.cache.format.layout import Encoding
from fastload.cache.format.record import pack_record, read_header
from fastload.cache.write.checked_image import CheckedImage, admit
from fastload.cache.write.fitting import fit_columns, scale_columns
from fastload.cache.write.resize import Reduction
from fastload.errors import DecodeError
from fastload.sources.base import NOT_PACKED, SKIPPED, Problem, Sample

MAX_FILE_BYTES = 1 << 30  # no picture is larger


Stamp: TypeAlias = tuple[int, int]  # of a file: bytes, and nanoseconds at which it was last changed
NO_FILE: Stamp = (-1, -1)


@dataclass(frozen=True, slots=True)
class IngestedImage:
    """What became of one sample."""

    record: bytes | None
    entry: Entry | None
    problems: list[Problem]
    stamp: Stamp = NO_FILE  # of the file it was made of


def encode(picture: CheckedImage, encoding: Encoding) -> tuple[bytes, str | None]:
    """The record of a picture, and why it is not in `encoding`: the one place where JPEG bytes become a payload.

    A picture that `encoding` cannot hold is kept as the JPEG it is; its record says so.
    """
    payload, refusal = picture.jpeg, None
    if encoding != Encoding.ORIGINAL:
        try:
            payload = _core.encode_payload(picture.jpeg, encoding)
        except ValueError as error:
            refusal = f"kept as {Encoding.ORIGINAL.label}, since {encoding.label} cannot hold it: {error}"
            encoding = Encoding.ORIGINAL
    return pack_record(payload, encoding, picture.subsampling, picture.size, picture.rgb), refusal


def make_record(
    sample: Sample,
    label_of: dict[int, int],
    encoding: Encoding,
    reduction: Reduction,
    exif_rotate: bool,
    further: Sequence[Column] = (),
) -> IngestedImage:
    """Meet one sample's file and annotations, whatever they are. Runs in a worker thread."""
    stamp = stamp_of(sample)
    try:
        if sample.skip_reason:
            raise DecodeError(sample.skip_reason)
        data = _read(sample.path)
        if stamp_of(sample) != stamp:
            raise DecodeError("its file was changed while it was read")
        picture = admit(data, exif_rotate)
        _check_annotated_size(sample, picture)
        stored = reduction.apply(picture)
    except DecodeError as error:
        return IngestedImage(None, None, [Problem(sample.image_id, sample.name, SKIPPED, str(error))], stamp)
    problems = [Problem(sample.image_id, sample.name, *picture.change)] if picture.change else []
    columns, about_boxes = fit_columns(sample, picture.size, picture.orientation, label_of, further)
    columns = scale_columns(columns, picture.size, stored.size, further)
    record, refusal = encode(stored, encoding)
    if refusal:
        problems.append(Problem(sample.image_id, sample.name, NOT_PACKED, refusal))
    entry = make_entry(record, sample.image_id, sample.name, picture.size, columns)
    return IngestedImage(record, entry, problems + about_boxes, stamp)


def stamp_of(sample: Sample) -> Stamp:
    """What changes whenever the sample's file does; `NO_FILE` when there is none, or none that would be read."""
    if sample.skip_reason:
        return NO_FILE
    try:
        status = sample.path.stat()
    except (OSError, ValueError):
        return NO_FILE
    return status.st_size, status.st_mtime_ns


def make_entry(record: bytes, image_id: int, name: str, source_size: tuple[int, int], columns: Columns) -> Entry:
    """The index entry of a record."""
    header = read_header(record)
    return Entry(
        image_id=image_id,
        name=name,
        size=(header.width, header.height),
        source_size=source_size,
        encoding=header.encoding,
        checksum=header.checksum,
        columns=columns,
    )


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DecodeError(f"absurd size: {path.stat().st_size} bytes")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DecodeError(f"missing file: {path}") from error
    except (OSError, ValueError) as error:
        raise DecodeError(f"unreadable file: {error}") from error


def _check_annotated_size(sample: Sample, picture: CheckedImage) -> None:
    turned = picture.orientation != 1 and sample.size == picture.stored_size
    if sample.size is None or sample.size == picture.size or turned:
        return
    advice = ""
    if sample.size == picture.size[::-1] and picture.orientation == 1:
        advice = " (boxes drawn on the upright picture? then build with --exif-rotate)"
    raise DecodeError(
        f"wrong size: the picture is {picture.size[0]} x {picture.size[1]}, "
        f"the annotations say {sample.size[0]} x {sample.size[1]}{advice}"
    )
