"""From a sample to its record: read and check the file, fit the annotations, encode the payload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fastload._core as _core
from fastload.annotations import Column, Columns
from fastload.cache.format.index import ColorMoments, Entry
from fastload.cache.format.layout import Encoding
from fastload.cache.format.record import pack_record, read_header
from fastload.cache.format.source_files import NO_FILE, Stamp, can_be_named, stamp_of_file
from fastload.cache.write.checked_image import CheckedImage, admit, admit_pixels, exif_orientation
from fastload.cache.write.fitting import fit_columns, scale_columns
from fastload.cache.write.resize import Reduction
from fastload.errors import DecodeError
from fastload.sources.base import NOT_PACKED, SKIPPED, Problem, Sample

MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class IngestedImage:
    """The result of ingesting one sample.

    Args:
        record: the record. None: the sample is skipped.
        entry: the index entry of the record, or None.
        problems: the problems of the image and its annotations.
        stamp: the stamp of the image file.
    """

    record: bytes | None
    entry: Entry | None
    problems: list[Problem]
    stamp: Stamp = NO_FILE


def encode(image: CheckedImage, encoding: Encoding) -> tuple[bytes, str | None]:
    """Encode an image as a record. An image that `encoding` cannot hold is stored as `Encoding.ORIGINAL`.

    Returns:
        The record, and the reason if it does not have the requested encoding, else None.
    """
    payload, refusal = image.jpeg, None
    if encoding != Encoding.ORIGINAL:
        try:
            payload = _core.encode_payload(image.jpeg, encoding)
        except ValueError as error:
            refusal = f"stored as {Encoding.ORIGINAL.label}, because {encoding.label} cannot hold it: {error}"
            encoding = Encoding.ORIGINAL
    return pack_record(payload, encoding, image.subsampling, image.size, image.rgb), refusal


def make_record(
    sample: Sample,
    label_of: dict[int, int],
    encoding: Encoding,
    reduction: Reduction,
    exif_rotate: bool,
    extra: Sequence[Column] = (),
) -> IngestedImage:
    """Read, check and encode one sample. A bad image gives no record but a problem. Runs in a worker thread.

    Args:
        sample: the sample.
        label_of: label by category id.
        encoding: the requested encoding.
        reduction: how the image is reduced.
        exif_rotate: whether to rotate the image upright as its EXIF data says.
        extra: the extra columns of the source.

    Raises:
        SourceError: the source gave invalid columns.
    """
    stamp = stamp_of(sample)
    try:
        if sample.skip_reason:
            raise DecodeError(sample.skip_reason)
        if not can_be_named(sample.name):
            raise DecodeError("no file can have its name, which holds lone surrogates: correct the annotations")
        data = _read(sample.path) if sample.data is None else sample.data
        image = admit(data, exif_rotate) if isinstance(data, bytes) else admit_pixels(data)
        if stamp_of(sample) != stamp:
            raise DecodeError("its file changed while it was read: build again")
        _check_annotated_size(sample, image)
        stored = reduction.apply(image)
    except DecodeError as error:
        return IngestedImage(None, None, [Problem(sample.image_id, sample.name, SKIPPED, str(error))], stamp)
    problems = [Problem(sample.image_id, sample.name, *image.change)] if image.change else []
    columns, box_problems = fit_columns(sample, image.size, image.orientation, label_of, extra)
    drawn_on_unknown = not exif_rotate and sample.size is None and len(columns["boxes"])
    if drawn_on_unknown and isinstance(data, bytes) and (orientation := exif_orientation(data)) != 1:
        reason = (
            f"its EXIF orientation {orientation} is not applied: if the boxes were drawn on the upright image, build "
            "with --exif-rotate"
        )
        problems.append(Problem(sample.image_id, sample.name, "not rotated", reason))
    columns = scale_columns(columns, image.size, stored.size, extra)
    record, refusal = encode(stored, encoding)
    if refusal:
        problems.append(Problem(sample.image_id, sample.name, NOT_PACKED, refusal))
    entry = make_entry(record, sample.image_id, sample.name, image.size, columns, stored.color)
    return IngestedImage(record, entry, problems + box_problems, stamp)


def stamp_of(sample: Sample) -> Stamp:
    """Return the stamp of the sample's file; NO_FILE if there is none or it would not be read."""
    return NO_FILE if sample.skip_reason or sample.data is not None else stamp_of_file(sample.path)


def make_entry(
    record: bytes,
    image_id: int,
    name: str,
    source_size: tuple[int, int],
    columns: Columns,
    color: ColorMoments | None = None,
) -> Entry:
    """Return the index entry of a record.

    Args:
        record: the record.
        image_id: the id of the image.
        name: its file name.
        source_size: width and height of the annotated image.
        columns: its annotations, in pixels of the stored image.
        color: the mean and standard deviation of its colors. Default: computed, for which the record is decoded.

    Raises:
        ValueError: the record cannot be decoded.
    """
    header = read_header(record)
    return Entry(
        image_id=image_id,
        name=name,
        size=(header.width, header.height),
        source_size=source_size,
        encoding=header.encoding,
        checksum=header.checksum,
        columns=columns,
        color=color or ColorMoments(*_core.record_colors(record)),
    )


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DecodeError(f"file too large: {path.stat().st_size} bytes, more than {MAX_FILE_BYTES}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DecodeError(f"missing file: {path}") from error
    except (OSError, ValueError) as error:
        raise DecodeError(f"unreadable file: {error}") from error


def _check_annotated_size(sample: Sample, image: CheckedImage) -> None:
    rotated = image.orientation != 1 and sample.size == image.stored_size
    if sample.size is None or sample.size == image.size or rotated:
        return
    advice = ""
    if sample.size == image.size[::-1] and image.orientation == 1:
        advice = " (if the boxes were drawn on the upright image, build with --exif-rotate)"
    raise DecodeError(
        f"wrong size: the image is {image.size[0]} x {image.size[1]}, "
        f"the annotations say {sample.size[0]} x {sample.size[1]}{advice}"
    )
