"""The native core: whatever touches pixels or untrusted bytes. `data` may be any contiguous buffer."""

import mmap
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Bytes: TypeAlias = bytes | bytearray | memoryview | mmap.mmap | NDArray[Any]

class JpegError(ValueError): ...
class RecordError(ValueError): ...
class DctError(ValueError): ...

class DctInfo:
    width: int
    height: int
    subsampling: int
    rgb: bool
    entropy: bool
    components: int

class JpegHeader:
    width: int
    height: int
    subsampling: int
    colorspace: str

class Ticket: ...

class Engine:
    def __init__(
        self,
        addresses: NDArray[np.uint64],
        lengths: NDArray[np.uint64],
        checksums: NDArray[np.uint64],
        threads: int,
        check: int,
        owner: Any,
        emulated_microseconds: int = 0,
    ) -> None: ...
    def submit(
        self,
        index: NDArray[np.int64],
        slot: NDArray[np.int32],
        crop: NDArray[np.float32],
        rect: NDArray[np.int32],
        flip: NDArray[np.bool_],
        color: NDArray[np.float32],
        fill: NDArray[np.uint8],
        out: NDArray[np.uint8],
    ) -> Ticket: ...
    def wait(self, ticket: Ticket) -> dict[int, str]: ...
    def times(self) -> tuple[float, float, float, float]: ...
    def done(self, ticket: Ticket) -> bool: ...
    def close(self) -> None: ...

def nms(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: NDArray[np.int64], threshold: float, limit: int
) -> NDArray[np.int64]: ...
def simd_level() -> str: ...
def xxh64(data: _Bytes, seed: int = 0) -> int: ...
def turbojpeg_path() -> str: ...
def max_pixels() -> int: ...
def jpeg_header(data: _Bytes) -> JpegHeader: ...
def decode_planes(data: _Bytes) -> tuple[list[NDArray[np.uint8]], str | None]: ...
def decode_rgb(data: _Bytes) -> tuple[NDArray[np.uint8], str | None]: ...
def jpeg_transform(data: _Bytes) -> bytes: ...
def place_boxes(
    box_offsets: NDArray[np.int64],
    boxes: NDArray[np.float32],
    labels: NDArray[np.int32],
    crowd: NDArray[np.bool_],
    area: NDArray[np.float32],
    index: NDArray[np.int64],
    slot: NDArray[np.int32],
    affine: NDArray[np.float32],
    rect: NDArray[np.int32],
    min_visible: float,
    batch: int,
    failed: Sequence[int],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32], NDArray[np.int64]]: ...
def place_slots(
    slot: NDArray[np.int32],
    source: NDArray[np.int32],
    crop: NDArray[np.float32],
    rect: NDArray[np.int32],
    flip: NDArray[np.bool_],
    size: NDArray[np.int32],
    index: NDArray[np.int64],
    sizes: NDArray[np.int32],
    source_sizes: NDArray[np.int32],
) -> tuple[
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.bool_],
    NDArray[np.int64],
    NDArray[np.int64],
    tuple[int, ...],
]: ...
def decode_loop(images: Sequence[_Bytes], threads: int) -> float: ...
def decode_record(record: _Bytes) -> tuple[list[NDArray[np.uint8]], int, bool]: ...
def encode_payload(jpeg: _Bytes, encoding: int) -> bytes: ...
def record_checksum(record: _Bytes) -> int: ...
def dct_encode(data: _Bytes, entropy: bool = True) -> bytes: ...
def dct_decode(data: _Bytes) -> list[NDArray[np.uint8]]: ...
def dct_to_jpeg(data: _Bytes) -> bytes: ...
def dct_info(data: _Bytes) -> DctInfo: ...
def simd_levels() -> list[str]: ...
def read_loop(records: Sequence[_Bytes]) -> float: ...
def entropy_loop(records: Sequence[_Bytes], level: str) -> float: ...
def planes_loop(records: Sequence[_Bytes], level: str) -> float: ...
def render_loop(
    records: Sequence[_Bytes], sizes: NDArray[np.int32], level: str, out: NDArray[np.uint8], store: bool
) -> float: ...
def store_loop(sizes: NDArray[np.int32], level: str, out: NDArray[np.uint8]) -> float: ...
def lmdb_tree(
    file: _Bytes,
) -> tuple[dict[bytes, tuple[int, int]], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], int]: ...
