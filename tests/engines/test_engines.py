"""Engines against the reference, Pillow and each other."""

from __future__ import annotations

import io
import os
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
from fastload.cache.format.layout import Encoding
from fastload.engines.native import NativeEngine
from fastload.engines.reference import ReferenceEngine
from fastload.errors import PlanError
from fastload.plan.batch_plan import BatchPlan
from tests.support.engines import ENGINES, THREADED, execute, finish, open_engine, submit
from tests.support.records import cache_of, jpeg, record

REAL = sorted(Path(__file__).parents[3].glob("shared/data/coco-mini/val2017/*.jpg"))
FILL = np.array([124, 116, 104], np.uint8)
CV_SAMPLING = {"4:4:0": 0x121111, "4:1:1": 0x411111}


def jpeg_of_kind(pixels: np.ndarray, kind: str) -> bytes:
    """A JPEG of every kind the engine may meet."""
    if kind == "grey":
        return jpeg(pixels[:, :, 0])
    if kind == "rgb":
        return jpeg(pixels, keep_rgb=True)
    if kind == "progressive":
        return jpeg(pixels, 2, progressive=True)
    if kind in CV_SAMPLING:
        options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, CV_SAMPLING[kind], cv2.IMWRITE_JPEG_QUALITY, 95]
        return cv2.imencode(".jpg", pixels, options)[1].tobytes()
    return jpeg(pixels, {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}[kind])


KINDS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey", "rgb", "progressive")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = Image.fromarray(noise(max(height // 16, 1), max(width // 16, 1), seed))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def both(records: list[bytes], plan: BatchPlan, threads: int = 0) -> tuple[np.ndarray, np.ndarray]:
    cache = cache_of(records)
    return execute(NativeEngine(cache, threads, scaled_decoding=False), plan), execute(ReferenceEngine(cache), plan)


def whole(sizes: list[tuple[int, int]]) -> BatchPlan:
    return BatchPlan.of(np.arange(len(sizes)), np.array(sizes, np.int32))


def place_top_left(plan: BatchPlan) -> BatchPlan:
    width, height = plan.size.max(0)
    plan.place((int(width), int(height)), np.zeros((len(plan.size), 2), np.int32), FILL)
    return plan


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_native_is_within_two_levels_of_reference(kind: str, data: st.DataObject) -> None:
    """Any source, encoding, window, size, flip and colour: no pixel is more than 2 levels off the reference."""
    side = st.integers(1, 70)
    width, height = data.draw(side), data.draw(side)
    source = data.draw(st.sampled_from([noise, smooth]))(height, width, data.draw(st.integers(0, 9)))
    plan = whole([(width, height)])
    if data.draw(st.booleans()):
        left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        box = [left, top, data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top))]
        plan.crop_to(np.array([box], np.int32))
    plan.resize(np.array([[data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))]], np.int32))
    plan.flip_horizontally(np.array([data.draw(st.booleans())]))
    gain, shift = data.draw(st.floats(0.5, 1.6)), data.draw(st.floats(-40, 40))
    plan.recolor(np.array([np.eye(3, 4) * gain + [[0, 0, 0, shift]] * 3], np.float32))
    offset = np.array([[data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))]], np.int32)
    plan.place(plan.size[0] + 5, offset, FILL)
    encoding = data.draw(st.sampled_from(Encoding))
    native, reference = both([record(jpeg_of_kind(source, kind), encoding)], plan)
    assert np.abs(native.astype(int) - reference).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (997, 701), (64, 64)])
@pytest.mark.parametrize("kind", ["4:4:4", "4:2:0", "grey"])
def test_large_changes_of_scale(kind: str, size: tuple[int, int]) -> None:
    """Enlarging and shrinking by large factors stay within 2 levels of the reference."""
    plan = whole([(331, 257)])
    plan.resize(np.array([size], np.int32))
    native, reference = both([record(jpeg_of_kind(smooth(257, 331), kind))], place_top_left(plan))
    assert np.abs(native.astype(int) - reference).max() <= 2


@pytest.mark.parametrize("left", [0, 5, 32])
@pytest.mark.parametrize("width", [157, 160])
def test_the_place_on_the_canvas_changes_no_pixel(width: int, left: int) -> None:
    """Aligned for vectors or not, with fill at one side or both: the same picture, and nothing but fill around it."""
    engine = NativeEngine(cache_of([record(jpeg_of_kind(smooth(90, 100), "4:2:0"))]), 0)
    plan = whole([(100, 90)])
    plan.place((width, 95), np.array([[left, 3]], np.int32), FILL)
    canvas = execute(engine, plan)
    expected = np.broadcast_to(FILL, (95, width, 3)).copy()
    expected[3:93, left : left + 100] = execute(engine, place_top_left(whole([(100, 90)])))[0]
    np.testing.assert_array_equal(canvas[0], expected)


def pillow_resized(data: bytes, size: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


@pytest.mark.parametrize("share", [0.31, 0.5, 1.0, 1.6])
def test_mean_difference_from_pillow_is_at_most_a_level(share: float) -> None:
    """On photographs (or smooth pictures where there are none) the mean difference from Pillow is at most 1 level."""
    files = [path.read_bytes() for path in REAL[:12]] or [jpeg(smooth(400, 600, seed)) for seed in range(4)]
    for data in files:
        head = _core.jpeg_header(data)
        size = (round(head.width * share), round(head.height * share))
        plan = whole([(head.width, head.height)])
        plan.resize(np.array([size], np.int32))
        native = execute(NativeEngine(cache_of([record(data)]), 0, scaled_decoding=False), place_top_left(plan))[0]
        assert np.abs(native.astype(int) - pillow_resized(data, size)).mean() <= 1


def busy_plan() -> tuple[list[bytes], BatchPlan]:
    """Three sources of different kinds on three canvases, one of them a mosaic of two."""
    records = [record(jpeg_of_kind(noise(90, 140, 1), "4:2:0")), record(jpeg_of_kind(smooth(70, 55, 2), "4:4:4"))]
    records += [record(jpeg_of_kind(noise(200, 310, 3), "grey"))]
    plan = whole([(140, 90), (55, 70), (310, 200)])
    plan.resize(np.array([[161, 103], [100, 131], [97, 63]], np.int32))
    plan.slot[:] = [0, 0, 2]
    plan.size = np.array([[261, 131], [1, 1], [97, 63]], np.int32)
    plan.clip[1, 0] = 161
    plan.flip_horizontally(np.array([True, False, True]))
    plan.place((280, 140), np.array([[7, 3], [0, 0], [30, 60]], np.int32), FILL)
    return records, plan


def test_mosaic_gaps_and_empty_slots_are_filled() -> None:
    """Every byte of every canvas is written: pictures where rows are, the fill colour elsewhere."""
    records, plan = busy_plan()
    native, reference = both(records, plan)
    assert np.abs(native.astype(int) - reference).max() <= 2
    assert (native[1] == FILL).all() and (native[0, :3] == FILL).all() and (native[2, :, :30] == FILL).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("name", ENGINES)
def test_threads_do_not_change_a_bit(name: str, threads: int) -> None:
    """Any number of threads writes what one alone writes, with several batches under way, waited for in any order."""
    records, plan = busy_plan()
    cache = cache_of(records)
    alone = execute(open_engine(name, cache), plan)
    engine = open_engine(name, cache, threads)
    tickets = [submit(engine, plan) for _ in range(8)]
    found = {k: finish(engine, tickets[k]) for k in (5, 0, 7, 1, 2, 6, 3, 4)}
    assert all(failures == {} and (canvases == alone).all() for canvases, failures in found.values())


DIGEST = """
import hashlib
from fastload import _core
from tests.engines.test_engines import *
records, plan = busy_plan()
digest = hashlib.sha256(execute(NativeEngine(cache_of(records), 0), plan))
rng = np.random.default_rng(0)
for kind in KINDS:
    for _ in range(12):
        width, height = (int(v) for v in rng.integers(1, 400, 2))
        plan = whole([(width, height)])
        plan.resize(rng.integers(1, 400, (1, 2)).astype(np.int32))
        plan.flip_horizontally(rng.random(1) < 0.5)
        picture = record(jpeg_of_kind(noise(height, width), kind))
        digest.update(execute(NativeEngine(cache_of([picture]), 0), place_top_left(plan)))
print(_core.simd_level(), digest.hexdigest())
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


@pytest.mark.long
def test_every_simd_level_gives_the_same_bits() -> None:
    """The vector kernels equal the scalar specification bit for bit, on random geometry of every kind of JPEG."""
    digests = {}
    for level in ("scalar", "neon", "avx2", "avx512"):
        run = run_python(DIGEST, FASTLOAD_SIMD=level)
        if "this machine lacks it" not in run.stderr:
            assert run.returncode == 0, run.stderr
            used, digests[level] = run.stdout.split()
            assert used == level
    assert "scalar" in digests and len(set(digests.values())) == 1


@pytest.mark.parametrize("name", ENGINES)
def test_a_record_that_changed_is_an_error_and_a_blank_canvas(name: str) -> None:
    """A flipped bit is found by the checksum on first reading; the slot holds only the fill colour."""
    records, plan = busy_plan()
    damaged = bytearray(records[1])
    damaged[len(damaged) // 2] ^= 4
    engine = open_engine(name, cache_of([records[0], bytes(damaged), records[2]]), 2)
    for _ in range(2):
        out, failures = finish(engine, submit(engine, plan))
        assert list(failures) == [1] and "checksum" in failures[1]
        assert (out[0] == FILL).all() and not (out[2] == FILL).all()


@pytest.mark.parametrize("kind", KINDS)
def test_encodings_hold_the_same_pixels(kind: str) -> None:
    """Whatever way a cache holds an image, the canvas is the same bit for bit."""
    data, plan = jpeg_of_kind(smooth(211, 173), kind), whole([(173, 211)])
    plan.resize(np.array([[300, 187]], np.int32))
    place_top_left(plan)
    canvases = [execute(NativeEngine(cache_of([record(data, encoding)]), 0), plan) for encoding in Encoding]
    assert all((canvas == canvases[0]).all() for canvas in canvases)


@pytest.mark.parametrize("cut", [0, 7, 31, 32, 33, 200])
@pytest.mark.parametrize("name", ENGINES)
def test_truncated_records_are_errors(name: str, cut: int) -> None:
    """A record cut anywhere is a failure of its row, never a picture."""
    cache = cache_of([record(jpeg(noise(20, 20)))[:cut]])
    engine = open_engine(name, cache, 1)
    plan = place_top_left(whole([(20, 20)]))
    assert list(engine.wait(submit(engine, plan), 0)) == [0]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("clip", [[0, 0, 21, 20]]),
        ("clip", [[-1, 0, 5, 5]]),
        ("clip", [[0, 0, 0, 5]]),
        ("clip", [[2**31 - 1, 0, 5, 5]]),
        ("crop", [[0, 0, np.nan, 5]]),
        ("crop", [[np.inf, 0, 5, 5]]),
        ("crop", [[0, 0, -1, 5]]),
        ("index", [1]),
        ("index", [-3]),
        ("slot", [1]),
        ("color", [np.full((3, 4), 1e6)]),
    ],
)
@pytest.mark.parametrize("name", ENGINES)
def test_impossible_plans_are_refused(name: str, column: str, value: list) -> None:
    """A plan that would read or write out of bounds, or overflow, is a PlanError before anything is written."""
    engine = open_engine(name, cache_of([record(jpeg(noise(20, 20)))]), 1)
    plan = place_top_left(whole([(20, 20)]))
    setattr(plan, column, np.array(value, getattr(plan, column).dtype))
    with pytest.raises(PlanError):
        submit(engine, plan)


@pytest.mark.parametrize("name", THREADED)
def test_dropping_tickets_and_engines_in_any_order_is_safe(name: str) -> None:
    """Batches given up half-way, tickets that outlive their engine and unwaited ones: no hang, no crash."""
    records, plan = busy_plan()
    for _ in range(30):
        engine = open_engine(name, cache_of(records), 2)
        tickets = [submit(engine, plan) for _ in range(6)]
        engine.wait(tickets[0], 0)
        del tickets[1:4]
        engine.close()
        with pytest.raises(PlanError, match="closed"):
            submit(engine, plan)
        del engine, tickets


@pytest.mark.parametrize("name", THREADED)
def test_a_forked_child_is_not_blocked_by_the_parents_threads(name: str) -> None:
    """After fork the child leaves the parent's engine alone and can make its own."""
    records, plan = busy_plan()
    cache = cache_of(records)
    engine = open_engine(name, cache, 2)
    expected = execute(engine, plan)
    pid = os.fork()
    if pid == 0:
        try:
            equal = (execute(open_engine(name, cache, 2), plan) == expected).all()
            os._exit(0 if equal and engine.close() is None else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert (execute(engine, plan) == expected).all()


def test_checksum_is_xxh64() -> None:
    """The core's checksum is XXH64, of any length and seed."""
    xxhash = pytest.importorskip("xxhash")
    rng = np.random.default_rng(0)
    for size in [*range(70), 1000, 4097, *range(65_500, 65_606, 5), 200_003]:
        data, seed = rng.bytes(size), int(rng.integers(0, 2**63))
        assert _core.xxh64(data, seed) == xxhash.xxh64_intdigest(data, seed)


def test_unknown_simd_level_is_refused() -> None:
    """FASTLOAD_SIMD naming no level is an error that lists them."""
    run = run_python("from fastload import _core; _core.simd_level()", FASTLOAD_SIMD="sse9")
    assert run.returncode != 0 and "scalar, neon, avx2, avx512" in run.stderr
