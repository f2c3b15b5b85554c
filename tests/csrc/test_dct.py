"""The encodings `dct` and `dct-fast`: bit-identical to libjpeg-turbo at every SIMD level, safe with any bytes."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastload import _core
from fastload._core import testing
from tests.support.native_programs import ROOT, build_program

DATA = ROOT / "tests/data"
COCO = ROOT / "../shared/data/coco-mini"
JPEGS = sorted(path for path in (DATA / "jpeg").glob("*.jpg") if path.stem != "irregular")

Options = dict[str, int | bool | str]


def assert_identical(jpeg: bytes) -> tuple[bytes, bytes]:
    """Both packings decode to libjpeg-turbo's planes; returns them."""
    expected, warning = _core.decode_planes(jpeg)
    assert warning is None
    packed = testing.dct_encode(jpeg, True), testing.dct_encode(jpeg, False)
    for record in packed:
        planes = testing.dct_decode(record)
        assert len(planes) == len(expected)
        for plane, reference in zip(planes, expected, strict=True):
            np.testing.assert_array_equal(plane, reference)
    return packed


def picture(height: int, width: int, seed: int = 0, roughness: float = 1.0) -> np.ndarray:
    """(H, W, 3) uint8: waves, an edge and noise; `roughness` 0 is flat, 1 a photograph's, 20 saturated noise."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(seed)
    waves = np.stack([np.sin(x / rng.uniform(2, 30) + y / rng.uniform(2, 30)) for _ in range(3)], -1)
    waves += (x > width / 2)[..., None]
    return np.clip(128 + roughness * (50 * waves + rng.normal(0, 12, (height, width, 3))), 0, 255).astype(np.uint8)


def pillow_jpeg(pixels: np.ndarray, **options: int | bool | str | bytes) -> bytes:
    """`pixels` as Pillow writes them."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def opencv_jpeg(pixels: np.ndarray, sampling: str, quality: int = 90, restart: int = 0, progressive: int = 0) -> bytes:
    """`pixels` as OpenCV writes them, which knows all samplings."""
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    parameters += [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    parameters += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")]
    return cv2.imencode(".jpg", pixels, parameters)[1].tobytes()


@pytest.mark.parametrize("path", JPEGS, ids=lambda path: path.stem)
def test_planes_of_every_coding_process(path: Path) -> None:
    """Progressive, arithmetic, several scans, restarts, RGB, grey with factors, unusual factors: identical planes."""
    assert_identical(path.read_bytes())


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["444", "422", "420", "440", "411"]),
    st.integers(1, 100),
    st.sampled_from([0, 1, 3]),
    st.booleans(),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.3, 1.0, 20.0]),
)
def test_planes_of_every_sampling(
    size: tuple[int, int], sampling: str, quality: int, restart: int, progressive: bool, seed: int, roughness: float
) -> None:
    """All samplings, sizes of 1 to 70, qualities of 1 to 100, restart markers: identical planes."""
    assert_identical(opencv_jpeg(picture(*size, seed, roughness), sampling, quality, restart, int(progressive)))


@settings(max_examples=20, deadline=None)
@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(1, 100), st.booleans(), st.integers(0, 99))
def test_planes_of_gray(size: tuple[int, int], quality: int, progressive: bool, seed: int) -> None:
    """Grey images: one plane, identical."""
    planes = assert_identical(pillow_jpeg(picture(*size, seed)[..., 0], quality=quality, progressive=progressive))
    assert all(testing.dct_info(record).components == 1 for record in planes)


@pytest.mark.parametrize("quality", [1, 30, 75, 90, 96, 100])
@pytest.mark.parametrize("sampling", ["444", "420", "411"])
def test_planes_of_larger_images(sampling: str, quality: int) -> None:
    """Images of many block rows, with coefficients beyond 8 bits at high quality: identical planes."""
    assert_identical(opencv_jpeg(picture(203, 333, quality, 1.5), sampling, quality))


def test_markers_do_not_matter() -> None:
    """Comments, application data, fill bytes and bytes after the end marker change nothing."""
    options: Options = {"quality": 90, "subsampling": 1}
    plain = pillow_jpeg(picture(40, 50), **options)
    junk = b"\xff\xfe\x00\x08junk\xff\xd9" + b"\xff\xff\xff\xed\x00\x04\xff\xd8" + b"\xff\xe1\x00\x02"
    loaded = plain[:2] + junk + plain[2:] + b"trailing bytes \xff\xd8"
    assert testing.dct_encode(loaded, True) == testing.dct_encode(plain, True)
    assert_identical(loaded)


def test_photographs() -> None:
    """Real files: identical planes, `dct` at most 1.03 and `dct-fast` at most 1.8 of their bytes."""
    paths = sorted(COCO.glob("*2017/*.jpg"))
    if not paths:
        pytest.skip("coco-mini is not here")
    step = 1 if os.environ.get("FASTLOAD_TEST_ALL") else max(1, len(paths) // 60)
    sizes = np.zeros(3)
    for path in paths[::step]:
        jpeg = path.read_bytes()
        sizes += [len(jpeg), *map(len, assert_identical(jpeg))]
    assert sizes[1] <= 1.03 * sizes[0] and sizes[2] <= 1.8 * sizes[0]


@pytest.mark.parametrize("level", ["scalar", "avx2", "avx512"])
def test_every_simd_level(level: str) -> None:
    """The tests of identical planes hold with each set of vector instructions that this machine has."""
    environment = {**os.environ, "FASTLOAD_SIMD": level}
    probe = [sys.executable, "-c", "from fastload import _core; print(_core.simd_level())"]
    if subprocess.run(probe, capture_output=True, text=True, env=environment, cwd=ROOT).stdout != f"{level}\n":
        pytest.skip(f"no {level} here")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "planes or golden"]
    run = subprocess.run(tests, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("path", sorted((DATA / "golden").glob("*.dct*")), ids=lambda path: path.name)
def test_golden_records(path: Path) -> None:
    """Records written by the first release decode to the same planes, and JPEGs still pack to the same bytes."""
    record = path.read_bytes()
    checksums = json.loads((DATA / "golden/planes.json").read_text())[path.stem]
    assert [f"{_core.xxh64(plane.reshape(-1)):016x}" for plane in testing.dct_decode(record)] == checksums
    jpeg = (DATA / "jpeg" / f"{path.stem}.jpg").read_bytes()
    assert testing.dct_encode(jpeg, path.suffix == ".dct") == record


def test_info() -> None:
    """The header tells size, sampling and encoding."""
    jpeg = opencv_jpeg(picture(33, 47), "422")
    for entropy in (True, False):
        info = testing.dct_info(testing.dct_encode(jpeg, entropy))
        assert (info.width, info.height, info.components) == (47, 33, 3)
        assert (info.subsampling, info.rgb, info.entropy) == (1, False, entropy)


def with_zeroed_step(jpeg: bytes) -> bytes:
    """`jpeg` with the first step of its first quantisation table set to zero."""
    at = jpeg.index(b"\xff\xdb") + 5
    return jpeg[:at] + b"\0" + jpeg[at + 1 :]


def with_precision(jpeg: bytes, bits: int) -> bytes:
    """`jpeg` with another number of bits a sample in its frame header."""
    at = jpeg.index(b"\xff\xc0") + 4
    return jpeg[:at] + bytes([bits]) + jpeg[at + 1 :]


def test_what_cannot_be_packed_says_why() -> None:
    """CMYK, irregular sampling, 12 bits, truncation and nonsense raise JpegError naming the reason."""
    good = pillow_jpeg(picture(64, 64), quality=90)
    cmyk = io.BytesIO()
    Image.fromarray(picture(20, 20)).convert("CMYK").save(cmyk, "JPEG")
    cases = {
        "4 color components": cmyk.getvalue(),
        "irregular chroma sampling": (DATA / "jpeg/irregular.jpg").read_bytes(),
        "not 8 bits": with_precision(good, 12),
        "quantisation step of zero": with_zeroed_step(good),
        "ends within the picture": good[: len(good) // 2],
        "too early": good[: len(good) // 2] + b"\xff\xd9",
        "not a JPEG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }
    for reason, data in cases.items():
        with pytest.raises(_core.JpegError, match=reason):
            testing.dct_encode(data)


def test_damaged_records_raise_or_decode() -> None:
    """Every truncation of a record, and bytes of another kind, raise DctError."""
    record = testing.dct_encode(pillow_jpeg(picture(30, 30), quality=60), True)
    for length in range(len(record)):
        with pytest.raises(_core.DctError):
            testing.dct_decode(record[:length])
    for data in (b"", bytes(500), random.Random(1).randbytes(3000), record + b"\0"):
        with pytest.raises(_core.DctError):
            testing.dct_info(data)


def test_a_small_record_cannot_ask_for_much_memory() -> None:
    """A header that claims an enormous image is refused for its size, before memory is taken for it."""
    record = bytearray(testing.dct_encode(pillow_jpeg(picture(16, 16)), True))
    record[8:16] = (13_000).to_bytes(4, "little") * 2
    with pytest.raises(_core.DctError, match="impossible size"):
        testing.dct_info(bytes(record))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/native/dct.cpp, built with the sanitizers."""
    return build_program("dct", tmp_path_factory.mktemp("native"))


@pytest.mark.long
@pytest.mark.parametrize("level", ["scalar", "avx2", "avx512"])
def test_mutations_under_sanitizers(driver: Path, level: str, tmp_path: Path) -> None:
    """5,000 mutated JPEGs and 5,000 mutated records: no report, and the planes of the scalar decoder or an error."""
    photograph = tmp_path / "photograph.jpg"
    photograph.write_bytes(pillow_jpeg(picture(150, 130, 5, 2.0), quality=97, subsampling=0))
    environment = {**os.environ, "FASTLOAD_SIMD": level, "FASTLOAD_TURBOJPEG": _core.turbojpeg_path()}
    command = [driver, "5000", photograph, *JPEGS]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "this machine lacks it" in run.stderr:
        pytest.skip(f"no {level} here")
    assert run.returncode == 0, run.stderr
    packed, unpacked, _ = (int(word) for word in run.stdout.split() if word.isdigit())
    assert packed > 500 and unpacked > 500, "the mutations should leave some files whole"
