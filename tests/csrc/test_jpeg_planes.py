"""The core's own JPEG decoder: libjpeg-turbo's planes to the bit, or left to libjpeg-turbo."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastload import _core
from fastload._core import testing
from fastload.cache.format.layout import Encoding, Subsampling
from fastload.cache.format.record import pack_record
from tests.csrc.test_dct import COCO, DATA, JPEGS, opencv_jpeg, picture, pillow_jpeg
from tests.support.records import record

LEFT = ("arithmetic", "arithmetic_progressive", "progressive")  # what the core leaves to libjpeg-turbo
LEVELS = testing.simd_levels()


def assert_identical(jpeg: bytes) -> None:
    """The core decodes `jpeg` itself, at every SIMD level, to libjpeg-turbo's planes."""
    expected, warning = _core.decode_planes(jpeg)
    assert warning is None
    for level in LEVELS:
        planes = testing.decode_sequential(jpeg, level)
        assert len(planes) == len(expected)
        for plane, reference in zip(planes, expected, strict=True):
            np.testing.assert_array_equal(plane, reference)


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["444", "422", "420", "440", "411"]),
    st.integers(1, 100),
    st.sampled_from([0, 1, 3]),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.3, 1.0, 20.0]),
)
def test_every_sampling(
    size: tuple[int, int], sampling: str, quality: int, restart: int, seed: int, roughness: float
) -> None:
    """All samplings, sizes of 1 to 70, qualities of 1 to 100, restart markers."""
    assert_identical(opencv_jpeg(picture(*size, seed, roughness), sampling, quality, restart))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(1, 100), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_tables_made_for_the_file(size: tuple[int, int], quality: int, optimize: bool, gray: bool, seed: int) -> None:
    """Huffman tables of the standard or of the file's own, one component or three."""
    pixels = picture(*size, seed)
    assert_identical(pillow_jpeg(pixels[..., 0] if gray else pixels, quality=quality, optimize=optimize))


@pytest.mark.parametrize("quality", [1, 30, 75, 90, 96, 100])
@pytest.mark.parametrize("sampling", ["444", "420", "411"])
def test_larger_images(sampling: str, quality: int) -> None:
    """Images of several groups of MCUs a row; at the highest quality most blocks hold all 64 coefficients."""
    assert_identical(opencv_jpeg(picture(203, 533, quality, 1.5), sampling, quality))
    assert_identical(opencv_jpeg(picture(203, 533, quality, 1.5), sampling, quality, restart=7))


@pytest.mark.parametrize("path", JPEGS, ids=lambda path: path.stem)
def test_every_coding_process(path: Path) -> None:
    """One scan a component, RGB, unusual factors: decoded here; what is not Huffman-coded sequential: refused."""
    if path.stem not in LEFT:
        return assert_identical(path.read_bytes())
    with pytest.raises(_core.JpegError, match="progressive, arithmetic"):
        testing.decode_sequential(path.read_bytes(), LEVELS[0])


def test_photographs() -> None:
    """Real files."""
    paths = sorted(COCO.glob("*2017/*.jpg"))
    if not paths:
        pytest.skip("coco-mini is not here")
    for path in paths[:: 1 if os.environ.get("FASTLOAD_TEST_ALL") else max(1, len(paths) // 60)]:
        assert_identical(path.read_bytes())


class Bits:
    """Writes bits, highest first."""

    def __init__(self) -> None:
        self.value, self.length = 1, 0  # a one before all, so that zeros count

    def put(self, value: int, length: int) -> None:
        self.value, self.length = self.value << length | value, self.length + length

    def stuffed(self) -> bytes:
        self.put((1 << -self.length % 8) - 1, -self.length % 8)
        return self.value.to_bytes(self.length // 8 + 1, "big")[1:].replace(b"\xff", b"\xff\0")


def put_number(bits: Bits, table: list[int], code_length: int, run: int, value: int) -> None:
    """A run of zeros and a number that is not zero (or a DC difference), as T.81 codes them."""
    size = abs(value).bit_length()
    bits.put(table.index(run << 4 | size), code_length)
    bits.put(value if value >= 0 else value + (1 << size) - 1, size)


def jpeg_of_coefficients(blocks: np.ndarray, steps: np.ndarray) -> bytes:
    """A grey JPEG, one row of 8x8 blocks: (N, 64) quantised coefficients and (64) steps, both in zigzag order."""
    dc_table = list(range(16))  # all codes have 5 bits
    ac_table = [0, 0xF0, *(run << 4 | size for run in range(16) for size in range(1, 16))]  # all have 8
    bits, last = Bits(), 0
    for block in blocks.tolist():
        put_number(bits, dc_table, 5, 0, block[0] - last)
        last, run = block[0], 0
        end = max((k for k in range(1, 64) if block[k]), default=0)
        for value in block[1 : end + 1]:
            run += value == 0
            if value == 0:
                continue
            for _ in range(run // 16):
                bits.put(ac_table.index(0xF0), 8)
            put_number(bits, ac_table, 8, run % 16, value)
            run = 0
        if end < 63:
            bits.put(ac_table.index(0), 8)
    wide = steps.max() > 255

    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data

    def huffman(kind: int, length: int, table: list[int]) -> bytes:
        counts = [len(table) if n == length else 0 for n in range(1, 17)]
        return segment(0xC4, bytes([kind << 4, *counts, *table]))

    return (
        b"\xff\xd8"
        + segment(0xDB, bytes([wide << 4]) + steps.astype(">u2" if wide else np.uint8).tobytes())
        + segment(0xC1, struct.pack(">BHHBBBB", 8, 8, 8 * len(blocks), 1, 1, 0x11, 0))
        + huffman(0, 5, dc_table)
        + huffman(1, 8, ac_table)
        + segment(0xDA, bytes([1, 1, 0, 0, 63, 0]))
        + bits.stuffed()
        + b"\xff\xd9"
    )


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 14), st.sampled_from([1, 2, 16, 255, 8191, 65535]), st.integers(1, 64))
def test_coefficients_of_no_image(seed: int, bits: int, largest_step: int, count: int) -> None:
    """Coefficients of up to 14 bits and steps of up to 16: libjpeg-turbo's samples, or left to libjpeg-turbo."""
    rng = np.random.default_rng(seed)
    blocks = np.zeros((5, 64), np.int64)
    for block in blocks:
        places = rng.permutation(64)[:count]
        block[places] = rng.integers(-(1 << bits) + 1, 1 << bits, count)
    jpeg = jpeg_of_coefficients(blocks, rng.integers(1, largest_step + 1, 64))
    (expected,), warning = _core.decode_planes(jpeg)
    assert warning is None
    for level in LEVELS:
        try:
            (plane,) = testing.decode_sequential(jpeg, level)
        except _core.JpegError as error:
            assert "beyond those of" in str(error)
        else:
            np.testing.assert_array_equal(plane, expected)
    (plane,), *_ = _core.decode_record(record(jpeg))
    np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize("extreme", [-1, 1])
@pytest.mark.parametrize("step", [1, 8, 64, 255])
def test_the_largest_coefficients_of_images(extreme: int, step: int) -> None:
    """Sums of dequantised coefficients right up to the limit are decoded here; one more is left to libjpeg-turbo."""
    limit = 5800 // step
    for first, second in ((0, 10), (0, 14), (1, 15)):  # in zigzag order: of one column, and of two that are added
        block = np.zeros((4, 64), np.int64)
        block[2, first] = block[2, second] = extreme * (limit // 2)
        assert_identical(jpeg_of_coefficients(block, np.full(64, step)))
    block[2, 0] = extreme * (limit + 1)
    block[2, second] = 0
    for level in LEVELS:
        with pytest.raises(_core.JpegError, match="beyond those of any image"):
            testing.decode_sequential(jpeg_of_coefficients(block, np.full(64, step)), level)


def test_what_is_refused_is_decoded_by_libjpeg_turbo() -> None:
    """Records of progressive and arithmetic-coded JPEGs have libjpeg-turbo's planes."""
    for name in LEFT:
        jpeg = (DATA / "jpeg" / f"{name}.jpg").read_bytes()
        planes, *_ = _core.decode_record(record(jpeg))
        for plane, reference in zip(planes, _core.decode_planes(jpeg)[0], strict=True):
            np.testing.assert_array_equal(plane, reference)


@pytest.mark.parametrize(("name", "sampling"), [("rgb", Subsampling.S444), ("s411", Subsampling.S411)])
def test_what_is_damaged_is_libjpeg_turbos_to_complain_of(name: str, sampling: Subsampling) -> None:
    """A scan cut anywhere, or with any of its bits flipped: libjpeg-turbo's own words, or its planes."""
    whole = (DATA / "jpeg" / f"{name}.jpg").read_bytes()
    size = _core.jpeg_header(whole).width, _core.jpeg_header(whole).height
    marker = whole.index(b"\xff\xda")
    scan = marker + 2 + int.from_bytes(whole[marker + 2 : marker + 4], "big")
    complaints = 0
    for at in range(scan, len(whole)):
        flipped = [whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for bit in range(8)]
        for damaged in (whole[:at], *flipped):
            payload = pack_record(damaged, Encoding.ORIGINAL, sampling, size)
            try:
                expected, complaint = _core.decode_planes(damaged)
            except _core.JpegError as error:
                complaint = str(error)
            if complaint is None:
                for plane, reference in zip(_core.decode_record(payload)[0], expected, strict=True):
                    np.testing.assert_array_equal(plane, reference)
                continue
            complaints += 1
            with pytest.raises(ValueError) as raised:
                _core.decode_record(payload)
            assert str(raised.value) == complaint
    assert complaints >= len(whole) - scan, "no cut goes unnoticed"


def test_a_damaged_header_does_not_stay_with_the_decoder() -> None:
    """After irregular sampling and a header whose sampling cannot be read, a sound file is decoded as ever."""
    sound = (DATA / "jpeg/s411.jpg").read_bytes()
    factors = sound.index(b"\xff\xc0") + 11  # of the first component
    damaged = sound[:factors] + b"\x45" + sound[factors + 1 :]
    for file in ((DATA / "jpeg/irregular.jpg").read_bytes(), damaged):
        with pytest.raises(_core.JpegError, match="sampling"):
            _core.decode_planes(file)
    assert_identical(sound)


def test_four_components_are_refused() -> None:
    """CMYK is left to libjpeg-turbo, which says why it cannot be planes."""
    cmyk = io.BytesIO()
    Image.fromarray(picture(20, 20)).convert("CMYK").save(cmyk, "JPEG")
    with pytest.raises(_core.JpegError, match="4 color components"):
        testing.decode_sequential(cmyk.getvalue(), LEVELS[0])
