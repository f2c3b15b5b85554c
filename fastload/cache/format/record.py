"""Records: an image's payload after a header with its type, size and checksum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import fastload._core as _core
from fastload.cache.format.layout import RECORD_HEADER, RECORD_MAGIC, Encoding, Subsampling

HEADER_SIZE = RECORD_HEADER.itemsize
_CHECKSUMMED = HEADER_SIZE - 8  # bytes of the header before its checksum field


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The header of a record."""

    encoding: Encoding
    subsampling: Subsampling
    rgb: bool  # the planes are R, G, B instead of Y, Cb, Cr
    width: int  # pixels
    height: int
    payload: int  # bytes
    checksum: int


def pack_record(
    payload: bytes, encoding: Encoding, subsampling: Subsampling, size: tuple[int, int], rgb: bool = False
) -> bytes:
    """Return the record of an image: its header and payload.

    Args:
        payload: the encoded image.
        encoding: the encoding of the payload.
        subsampling: the chroma subsampling of its planes.
        size: width and height in pixels.
        rgb: whether the planes are R, G, B instead of Y, Cb, Cr.
    """
    header = np.zeros((), RECORD_HEADER)
    header["magic"] = RECORD_MAGIC
    header["encoding"], header["subsampling"], header["rgb"] = encoding, subsampling, rgb
    header["width"], header["height"] = size
    header["payload"] = len(payload)
    header["checksum"] = _core.xxh64(payload, _core.xxh64(header.tobytes()[:_CHECKSUMMED]))
    return header.tobytes() + payload


def read_header(record: bytes | memoryview) -> RecordHeader:
    """Parse the header of a record. ValueError if it is invalid."""
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
    """Verify the checksum of a record. ValueError if it does not match."""
    view = memoryview(record)
    if _core.xxh64(view[HEADER_SIZE:], _core.xxh64(view[:_CHECKSUMMED])) != header.checksum:
        raise ValueError("its checksum does not match its bytes")
