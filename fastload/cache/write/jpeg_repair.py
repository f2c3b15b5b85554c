"""Removing stray bytes from JPEGs, and adding a missing end, without changing the image."""

from __future__ import annotations

import re
from collections.abc import Iterator

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"
_MARKER = re.compile(b"\xff+([^\x00\xff\xd0-\xd9])", re.DOTALL)  # of a segment that has a length
_FRAMES = (0xC0, 0xC1, 0xC2)  # Huffman coded: an arithmetic decoder takes missing bytes for zeros


def repaired_jpegs(data: bytes) -> Iterator[bytes]:
    """Yield versions of `data` without stray bytes. Accept one if it decodes to the same pixels without a warning.

    Stray bytes inside the compressed data are not removed: they usually mean that the image is damaged and decodes to
    wrong pixels.
    """
    if (clean := _without_bytes_between_segments(data)) is not None:
        yield clean
        yield _without_padding(clean)
    yield _without_padding(data)


def with_end(data: bytes) -> Iterator[bytes]:
    """Yield `data` with the end-of-image marker that it lacks, if all of its scans are there.

    The last scan may still be cut: accept the result if it decodes to the same pixels without a warning.
    """
    if _has_all_scans(data):
        yield data + (_END_OF_IMAGE[1:] if data.endswith(b"\xff") else _END_OF_IMAGE)


def _has_all_scans(data: bytes) -> bool:
    """Return whether every coefficient of every component has a scan with its last bit.

    A JPEG of several scans that is cut between two of them decodes without a warning, to a coarser image.
    """
    missing: dict[int, set[int]] = {}  # coefficients without their last bit, by component
    at = 2
    while match := _MARKER.search(data, at):
        marker, start = match[1][0], match.end()
        segment = data[start + 2 : start + int.from_bytes(data[start : start + 2], "big")]
        at = start + 2 + len(segment)
        if marker in _FRAMES:
            missing = {component: set(range(64)) for component in segment[6::3]}
        elif marker == _START_OF_SCAN and len(segment) >= 4:
            first, last, bits = segment[-3:]
            for component in segment[1:-3:2]:
                if not bits & 15:
                    missing.get(component, set()).difference_update(range(first, last + 1))
    return bool(missing) and not any(missing.values())


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
