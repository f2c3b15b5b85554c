"""Records in memory: the least that an engine needs of a cache, for tests."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from fastload import _core
from fastload._core import testing
from fastload.cache.format.layout import RECORD_HEADER, RECORD_MAGIC, Encoding


def jpeg(pixels: np.ndarray, subsampling: str | int = 0, **options) -> bytes:
    """`pixels` (H, W, 3) or (H, W) as a JPEG; `subsampling` as Pillow numbers it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", subsampling=subsampling, **{"quality": 95, **options})
    return buffer.getvalue()


def record(data: bytes, encoding: Encoding = Encoding.ORIGINAL) -> bytes:
    """A whole record holding a JPEG in `encoding`."""
    head = _core.jpeg_header(data)
    payload = _core.encode_payload(data, encoding)
    header = np.zeros(1, RECORD_HEADER)
    header["magic"], header["encoding"], header["subsampling"] = RECORD_MAGIC, encoding, head.subsampling
    header["rgb"], header["payload"] = head.colorspace == "rgb", len(payload)
    header["width"], header["height"] = head.width, head.height
    header["checksum"] = testing.record_checksum(header.tobytes() + payload)
    return header.tobytes() + payload


def cache_of(records: list[bytes]) -> SimpleNamespace:
    """What engines use of a Cache: addresses, lengths, checksums and bytes of records."""
    arrays = [np.frombuffer(r, np.uint8) for r in records]
    cache = SimpleNamespace(
        arrays=arrays,
        path=Path("/in/memory.lmdb"),
        encodings=np.array([r[4] if len(r) > 4 else 0 for r in records], np.uint8),
        addresses=np.array([a.ctypes.data for a in arrays], np.uint64),
        lengths=np.array([a.size for a in arrays], np.uint64),
        checksums=np.array([int.from_bytes(r[24:32], "little") for r in records], np.uint64),
        record_bytes=lambda i: arrays[i],
        ensure=lambda positions: None,
    )
    cache.shards = (cache,)
    return cache
