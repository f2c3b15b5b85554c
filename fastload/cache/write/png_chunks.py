"""The chunks of a PNG that its pixels depend on."""

from __future__ import annotations

import re
import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OF_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_OF_ORIENTATION = re.compile(rb"eXIf|(?:tEXt|zTXt|iTXt)(Raw profile type exif|XML:com\.adobe\.xmp)\0")


def pixel_chunks(data: bytes) -> bytes:
    """Return a PNG without the chunks that its pixels do not depend on; other data as it is.

    Pillow refuses a file because of damaged or very large text and color profiles, which are never used here. What may
    hold the orientation stays if it is not damaged. Of an animation, the default image stays.
    """
    if not data.startswith(_SIGNATURE):
        return data
    kept, at = [_SIGNATURE], len(_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind in _OF_PIXELS or end > len(data) or (_OF_ORIENTATION.match(data, at + 4) and _is_sound(data, at, end)):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _is_sound(data: bytes, start: int, end: int) -> bool:
    return zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
