"""Removing stray bytes from JPEGs without changing the image."""

from __future__ import annotations

from collections.abc import Iterator

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"


def repaired_jpegs(data: bytes) -> Iterator[bytes]:
    """Yield versions of `data` without stray bytes. Accept one if it decodes to the same pixels without a warning.

    Stray bytes inside the compressed data are not removed: they usually mean that the image is damaged and decodes to
    wrong pixels.
    """
    if (clean := _without_bytes_between_segments(data)) is not None:
        yield clean
        yield _without_padding(clean)
    yield _without_padding(data)


def _without_padding(data: bytes) -> bytes:
    """Return `data` without zeros between the compressed data and the end-of-image marker."""
    end = data.rfind(_END_OF_IMAGE)
    return data if end < 0 else data[:end].rstrip(b"\0") + data[end:]


def _without_bytes_between_segments(data: bytes) -> bytes | None:
    """Return `data` without bytes between the header's segments, or None if the segments cannot be parsed."""
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
