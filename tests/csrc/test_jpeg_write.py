"""The way back from packed coefficients to a JPEG."""

from __future__ import annotations

import io
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastload import _core
from fastload._core import testing
from tests.csrc.test_dct import COCO, DATA, JPEGS, opencv_jpeg, picture, pillow_jpeg
from tests.support.native_programs import build_program


def assert_round_trip(jpeg: bytes) -> bytes:
    """The JPEG made of either packing decodes to the same planes, and packs to the same bytes. Returns it."""
    expected, _ = _core.decode_planes(jpeg)
    before = _core.jpeg_header(jpeg)
    for entropy in (True, False):
        packed = testing.dct_encode(jpeg, entropy)
        written = _core.dct_to_jpeg(packed)
        planes, warning = _core.decode_planes(written)
        assert warning is None and len(planes) == len(expected) and all(map(np.array_equal, planes, expected))
        assert testing.dct_encode(written, entropy) == packed
        header = _core.jpeg_header(written)
        assert (header.subsampling, header.colorspace) == (before.subsampling, before.colorspace)
    return written


@pytest.mark.parametrize("path", JPEGS, ids=lambda path: path.stem)
def test_every_coding_process(path: Path) -> None:
    """Whatever the JPEG that was packed, progressive or arithmetic, RGB or grey: the same planes, sampling, colours."""
    assert_round_trip(path.read_bytes())


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["444", "422", "420", "440", "411"]),
    st.integers(1, 100),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.3, 1.0, 20.0]),
)
def test_every_sampling(size: tuple[int, int], sampling: str, quality: int, seed: int, roughness: float) -> None:
    """All samplings, sizes of 1 to 70, qualities of 1 to 100: the same planes."""
    assert_round_trip(opencv_jpeg(picture(*size, seed, roughness), sampling, quality))


@settings(max_examples=10)
@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(1, 100))
def test_gray(size: tuple[int, int], quality: int) -> None:
    """Grey pictures stay grey."""
    assert_round_trip(pillow_jpeg(picture(*size)[..., 0], quality=quality))


def test_every_decoder_reads_it() -> None:
    """Pillow sees the same pixels in the written JPEG as in the one it came from."""
    for name in ("rgb", "s411", "progressive", "scans_420"):
        data = (DATA / "jpeg" / f"{name}.jpg").read_bytes()
        written = assert_round_trip(data)
        images = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in (data, written)]
        np.testing.assert_array_equal(*images)


def test_photographs() -> None:
    """Real files: the same planes, in no more than 1.01 of their bytes."""
    paths = sorted(COCO.glob("*2017/*.jpg"))
    if not paths:
        pytest.skip("coco-mini is not here")
    files = [path.read_bytes() for path in paths[:: max(1, len(paths) // 20)]]
    assert sum(len(assert_round_trip(data)) for data in files) <= 1.01 * sum(map(len, files))


def test_damage_is_an_error() -> None:
    """Cut-off and random bytes raise; mutated records raise, or give a JPEG."""
    record = testing.dct_encode(pillow_jpeg(picture(30, 30), quality=60), True)
    for length in range(0, len(record), 7):
        with pytest.raises(_core.DctError):
            _core.dct_to_jpeg(record[:length])
    rng = random.Random(2)
    for _ in range(300):
        mutated = bytearray(record)
        mutated[rng.randrange(len(mutated))] ^= 1 << rng.randrange(8)
        try:
            assert _core.dct_to_jpeg(bytes(mutated)).startswith(b"\xff\xd8\xff")
        except ValueError:
            continue


def test_mutations_under_sanitizers(tmp_path: Path) -> None:
    """5,000 mutated records: no report, and an error or a JPEG that holds the very coefficients."""
    program = build_program("jpeg_write", tmp_path)
    photograph = tmp_path / "photograph.jpg"
    photograph.write_bytes(pillow_jpeg(picture(90, 70, 5, 2.0), quality=97, subsampling=2))
    environment = {**os.environ, "FASTLOAD_TURBOJPEG": _core.turbojpeg_path()}
    run = subprocess.run([program, "5000", photograph, *JPEGS], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[0]) > 500, "the mutations should leave some records whole"
