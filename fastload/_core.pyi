"""The native core: whatever touches pixels or untrusted bytes. `data` may be any contiguous buffer."""

import mmap
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastload.plan.batch_plan import BatchPlan
from fastload.plan.masks import MaskPlan

_Bytes: TypeAlias = bytes | bytearray | memoryview | mmap.mmap | MappedFile | NDArray[Any]

class MappedFile:
    def __init__(self, descriptor: int) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def state(self) -> tuple[int, int, int]: ...  # bytes, time of the last change (ns), `vanished`
    @property
    def vanished(self) -> int: ...
    def release_pages(self) -> None: ...
    def read_ahead(self, wanted: bool) -> None: ...

class Annotations:
    def __init__(
        self,
        box_offsets: NDArray[np.int64],
        boxes: NDArray[np.float32],
        labels: NDArray[np.int32],
        crowd: NDArray[np.bool_],
        area: NDArray[np.float32],
        image_ids: NDArray[np.int64],
        sizes: NDArray[np.int32],
        source_sizes: NDArray[np.int32],
        polygons: tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]] | None = None,
    ) -> None: ...
    def place(
        self,
        plan: BatchPlan,
        slot_index: NDArray[np.int64],
        ends: Sequence[int],
        failed: Sequence[int],
        objects: bool = False,
    ) -> tuple[
        tuple[NDArray[Any], ...],
        tuple[NDArray[Any], ...],
        NDArray[np.int64],
        NDArray[np.int64],
    ]: ...

class JpegError(ValueError): ...
class RecordError(ValueError): ...
class DctError(ValueError): ...

class JpegHeader:
    width: int
    height: int
    subsampling: int
    colorspace: str

class PixelFormat:
    def __init__(self, sample: int, planar: bool, mean: Sequence[float], std: Sequence[float]) -> None: ...

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
        in_flight: int,
        allocate: Callable[[int], NDArray[np.uint8]],
        format: PixelFormat,
        emulated_microseconds: int = 0,
        scaled_decoding: bool = True,
    ) -> None: ...
    def submit(self, plan: BatchPlan, ends: Sequence[int], masks: MaskPlan | None = None) -> Ticket: ...
    def share(self) -> Engine: ...
    def wait(self, ticket: Ticket, number: int) -> dict[int, str]: ...
    def images(self, ticket: Ticket, number: int) -> Any: ...  # a DLPack capsule, or None
    def masks(self, ticket: Ticket, number: int) -> tuple[Any, Any] | None: ...  # as `draw_masks`
    def times(self) -> tuple[float, float, float, float]: ...
    def done(self, ticket: Ticket, number: int) -> bool: ...
    def close(self) -> None: ...

class MaskShapes:
    def __init__(
        self,
        box_offsets: NDArray[np.int64],
        source_sizes: NDArray[np.int32],
        polygons: tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]] | None,
        run_lengths: tuple[NDArray[np.uint8], NDArray[np.int64]] | None,
    ) -> None: ...

def draw_masks(plan: BatchPlan, masks: MaskPlan) -> tuple[tuple[Any, Any], dict[int, str]]: ...  # DLPack capsules
def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    threshold: float,
    limit: int,
    threads: int,
) -> NDArray[np.int64]: ...
def roi_align(
    levels: list[NDArray[np.float32]],
    boxes: NDArray[np.float32],
    valid: NDArray[np.bool_],
    strides: Sequence[int],
    samples: int,
    threads: int,
    out: NDArray[np.float32],
) -> None: ...
def roi_align_backward(
    levels: list[NDArray[np.float32]],
    boxes: NDArray[np.float32],
    valid: NDArray[np.bool_],
    strides: Sequence[int],
    samples: int,
    threads: int,
    grad: NDArray[np.float32],
) -> None: ...
def simd_level() -> str: ...
def xxh64(data: _Bytes, seed: int = 0) -> int: ...
def turbojpeg_path() -> str: ...
def max_pixels() -> int: ...
def jpeg_header(data: _Bytes) -> JpegHeader: ...
def decode_planes(data: _Bytes) -> tuple[list[NDArray[np.uint8]], str | None]: ...
def check_jpeg(data: _Bytes) -> tuple[tuple[list[float], list[float]] | None, list[NDArray[np.uint8]], str]: ...
def record_colors(record: _Bytes) -> tuple[list[float], list[float]]: ...
def decode_rgb(data: _Bytes) -> tuple[NDArray[np.uint8], str | None]: ...
def decode_record(record: _Bytes) -> tuple[list[NDArray[np.uint8]], int, bool]: ...
def encode_payload(jpeg: _Bytes, encoding: int) -> bytes: ...
def dct_to_jpeg(data: _Bytes) -> bytes: ...
def render_record(record: _Bytes) -> NDArray[np.uint8]: ...
def mapped_xxh64(file: MappedFile, offset: int, size: int) -> int: ...
def lmdb_tree(
    file: _Bytes, release: bool = False
) -> tuple[dict[bytes, tuple[int, int]], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], int]: ...

class testing:  # a submodule: what only tests and benchmarks call
    class DctInfo:
        width: int
        height: int
        subsampling: int
        rgb: bool
        entropy: bool
        components: int

    @staticmethod
    def dct_encode(data: _Bytes, entropy: bool = True) -> bytes: ...
    @staticmethod
    def dct_decode(data: _Bytes) -> list[NDArray[np.uint8]]: ...
    @staticmethod
    def dct_info(data: _Bytes) -> testing.DctInfo: ...
    @staticmethod
    def jpeg_transform(data: _Bytes) -> bytes: ...
    @staticmethod
    def record_checksum(record: _Bytes) -> int: ...
    @staticmethod
    def aligned_matrix(crop: NDArray[np.float32], clip: NDArray[np.int32], flip: bool) -> NDArray[np.float32]: ...
    @staticmethod
    def map_boxes(matrix: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]: ...
    @staticmethod
    def unmap_boxes(matrix: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]: ...
    @staticmethod
    def simd_levels() -> list[str]: ...
    @staticmethod
    def decode_sequential(data: _Bytes, level: str) -> list[NDArray[np.uint8]]: ...
    @staticmethod
    def convert_row(rgb: NDArray[np.uint8], format: PixelFormat, level: str) -> NDArray[np.uint8]: ...
    @staticmethod
    def recolor(rgb: NDArray[np.uint8], color: NDArray[np.float32], level: str) -> NDArray[np.uint8]: ...
    @staticmethod
    def adjust_hsv(rgb: NDArray[np.uint8], hsv: NDArray[np.float32], level: str) -> NDArray[np.uint8]: ...
    @staticmethod
    def look_up(rgb: NDArray[np.uint8], table: NDArray[np.uint8], level: str) -> NDArray[np.uint8]: ...
    @staticmethod
    def autocontrast_table(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]: ...
    @staticmethod
    def equalize_table(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]: ...
    @staticmethod
    def read_loop(records: Sequence[_Bytes]) -> float: ...
    @staticmethod
    def entropy_loop(records: Sequence[_Bytes], level: str) -> float: ...
    @staticmethod
    def planes_loop(records: Sequence[_Bytes], level: str) -> float: ...
    @staticmethod
    def render_loop(
        records: Sequence[_Bytes],
        sizes: NDArray[np.int32],
        level: str,
        out: NDArray[np.uint8],
        store: bool,
        filter: int = 0,
    ) -> float: ...
    @staticmethod
    def store_loop(sizes: NDArray[np.int32], level: str, out: NDArray[np.uint8]) -> float: ...
    @staticmethod
    def adjust_loop(step: str, width: int, height: int, level: str) -> float: ...
    @staticmethod
    def warp_loop(records: Sequence[_Bytes], sizes: NDArray[np.int32], level: str) -> float: ...
    @staticmethod
    def draw_row(
        record: _Bytes,
        crop: NDArray[np.float32],
        clip: NDArray[np.int32],
        flip: bool,
        filter: int,
        warp: NDArray[np.float32] | None,
        level: str,
        whole: bool,
        scaled: bool,
        poison: int,
    ) -> NDArray[np.uint8]: ...
    @staticmethod
    def mix_loop(sizes: NDArray[np.int32], level: str) -> float: ...
    @staticmethod
    def fill_loop(sizes: NDArray[np.int32]) -> float: ...
    @staticmethod
    def decode_loop(images: Sequence[_Bytes], threads: int) -> float: ...
    @staticmethod
    def cpu_seconds_without_gil() -> float: ...
