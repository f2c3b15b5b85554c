"""Repairing JPEGs that carry bytes which belong to nothing, without touching what belongs to the picture."""

from __future__ import annotations

from collections.abc import Iterator

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"


def repaired_jpegs(data: bytes) -> Iterator[bytes]:
    """Versions of `data` without stray bytes, to be accepted when they decode without a warning to the same pixels.

    Other stray bytes inside the compressed data are the usual sign of a picture damaged in mid-stream, which decodes
    to wrong pixels: they are not removed.
    """
    if (tidy := _without_bytes_between_segments(data)) is not None:
        yield tidy
        yield _without_padding(tidy)
    yield _without_padding(data)


def _without_padding(data: bytes) -> bytes:
    """Without zeros between the compressed data and the end-of-image marker."""
    end = data.rfind(_END_OF_IMAGE)
    return data if end < 0 else data[:end].rstrip(b"\0") + data[end:]


def _without_bytes_between_segments(data: bytes) -> bytes | None:
    """Without whatever lies between the header's segments; None when they cannot be followed."""
    kept, at = [data[:2]], 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return None
        marker = data[at + 1]
        if marker in (0x00, 0xFF):
            at += 1
            continue
        if marker == _START_OF_SCAN:
            return b"".join([*kept, data[at:]])
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        kept.append(data[at : at + 2 + length])
        at += 2 + length
