"""Records: an image's payload behind a header that says what it is and guards every bit of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import fastload._core as _core
from fastload.cache.format.layout import RECORD_HEADER, RECORD_MAGIC, Encoding, Subsampling

HEADER_SIZE = RECORD_HEADER.itemsize
_GUARDED = HEADER_SIZE - 8  # the header's bytes in front of the checksum


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """What a record says of itself."""

    encoding: Encoding
    subsampling: Subsampling
    rgb: bool  # the planes are R, G, B, not Y, Cb, Cr
    width: int  # pixels
    height: int
    payload: int  # bytes
    checksum: int


def pack_record(
    payload: bytes, encoding: Encoding, subsampling: Subsampling, size: tuple[int, int], rgb: bool = False
) -> bytes:
    """The record of an image of `size` (width, height)."""
    header = np.zeros((), RECORD_HEADER)
    header["magic"] = RECORD_MAGIC
    header["encoding"], header["subsampling"], header["rgb"] = encoding, subsampling, rgb
    header["width"], header["height"] = size
    header["payload"] = len(payload)
    header["checksum"] = _core.xxh64(payload, _core.xxh64(header.tobytes()[:_GUARDED]))
    return header.tobytes() + payload


def read_header(record: bytes | memoryview) -> RecordHeader:
    """The header of a record. ValueError when it is not one."""
    if len(record) < HEADER_SIZE:
        raise ValueError("it is too short")
    fields = np.frombuffer(record, RECORD_HEADER, count=1)[0]
    if fields["magic"] != RECORD_MAGIC or fields["reserved"] != 0 or fields["rgb"] > 1:
        raise ValueError("its header is damaged")
    if not fields["width"] or not fields["height"] or fields["payload"] != len(record) - HEADER_SIZE:
        raise ValueError("its header is damaged")
    return RecordHeader(
        Encoding(fields["encoding"]),
        Subsampling(fields["subsampling"]),
        bool(fields["rgb"]),
        int(fields["width"]),
        int(fields["height"]),
        int(fields["payload"]),
        int(fields["checksum"]),
    )


def check_payload(record: bytes | memoryview, header: RecordHeader) -> None:
    """ValueError when a bit of the record is not as it was written."""
    view = memoryview(record)
    if _core.xxh64(view[HEADER_SIZE:], _core.xxh64(view[:_GUARDED])) != header.checksum:
        raise ValueError("its checksum does not match its bytes")
