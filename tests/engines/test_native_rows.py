"""The native engine draws turned, blended, layered and recolored rows as the reference does.

It rounds positions in a tile to 1/256 pixel, and levels after each step of its fixed point, so single pixels of noise
differ by up to 4 levels, those of images by less. On average it is half a level at most.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload import _core
from fastload.cache.format.layout import Encoding
from fastload.engines.native import NativeEngine
from fastload.engines.reference import ReferenceEngine, adjusted, covered, mixed
from fastload.plan.batch_plan import ADJUST, AUTOCONTRAST, EQUALIZE, FILL, FILTERS, BatchPlan
from tests.engines.test_engines import FILL as PADDING
from tests.engines.test_engines import KINDS, jpeg_of_kind, noise, run_python, smooth
from tests.plan.test_geometry import rotation
from tests.support.engines import execute, finish, submit
from tests.support.records import cache_of, jpeg, record

MEAN, WORST = 0.5, 4  # levels


def both(records: list[bytes], plan: BatchPlan) -> tuple[np.ndarray, np.ndarray]:
    cache = cache_of(records)
    found, expected = (
        execute(NativeEngine(cache, 0, scaled_decoding=False), plan),
        execute(ReferenceEngine(cache), plan),
    )
    return found.astype(int), expected.astype(int)


def assert_alike(records: list[bytes], plan: BatchPlan, factor: int = 1) -> None:
    """`factor`: by how much later steps enlarge differences."""
    found, expected = both(records, plan)
    difference = np.abs(found - expected)
    assert difference.mean() <= MEAN and difference.max() <= WORST * factor


def random_matrix(rng: np.random.Generator, size: tuple[int, int], canvas: tuple[int, int]) -> np.ndarray:
    """A rotation, shear, change of scale and perhaps reflection that keeps the center of an image near the canvas's."""
    linear = rotation(rng.uniform(0, 360))[:, :2] @ [[1, rng.uniform(-1, 1)], [0, 1]]
    linear = linear @ np.diag(np.exp(rng.uniform(np.log(0.1), np.log(8), 2)) * rng.choice([-1, 1], 2))
    shift = np.array(canvas) / 2 - linear @ np.array(size) / 2 + rng.uniform(-10, 10, 2)
    return np.column_stack([linear, shift])


def placed(plan: BatchPlan, canvas: tuple[int, int] | None = None) -> BatchPlan:
    plan.place(canvas or plan.size.max(0), np.zeros_like(plan.size), PADDING)
    return plan


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1 << 30), encoding=st.sampled_from(Encoding))
@settings(max_examples=8, deadline=None)
def test_warped_rows_are_the_references(kind: str, seed: int, encoding: Encoding) -> None:
    """Any source, encoding, rotation, shear, scale and reflection: the same pixels are covered, with close colors."""
    rng = np.random.default_rng(seed)
    size, canvas = tuple(rng.integers(1, 90, 2).tolist()), tuple(rng.integers(1, 150, 2).tolist())
    source = rng.choice([noise, smooth])(size[1], size[0], seed % 100)
    plan = BatchPlan.of(np.zeros(1, np.int64), np.array([size], np.int32))
    if rng.random() < 0.3:
        plan.crop_to(np.array([[size[0] // 3, size[1] // 4, max(size[0] // 2, 1), max(size[1] // 2, 1)]], np.int32))
    plan.transform(random_matrix(rng, size, canvas)[None], np.array([canvas], np.int32))
    found, expected = both([record(jpeg_of_kind(source, kind), encoding)], placed(plan, canvas))
    difference = np.abs(found - expected)
    assert difference.mean() <= MEAN and difference.max() <= WORST
    if kind == "grey":  # gray shows what is padding, and padding is not gray
        assert np.array_equal((found == PADDING).all(-1), (expected == PADDING).all(-1))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (10_000, 3), (2, 10_000)])
@pytest.mark.parametrize(("degrees", "scale"), [(0.01, 1), (45, 0.3), (90, 5), (200, 0.02)])
def test_tiny_images_and_long_strips(size: tuple[int, int], degrees: float, scale: float) -> None:
    """Sides of one pixel and of 10,000, shrunk and enlarged."""
    plan = BatchPlan.of(np.zeros(1, np.int64), np.array([size], np.int32))
    matrix = rotation(degrees, scale=scale)
    matrix[:, 2] = 50 - matrix[:, :2] @ np.array(size) / 2
    plan.transform(matrix[None], np.array([[100, 100]], np.int32))
    assert_alike([record(jpeg(noise(size[1], size[0])))], placed(plan, (100, 100)))


@pytest.mark.parametrize("kind", KINDS)
def test_quarter_turns_reflections_and_whole_shifts_only_move_pixels(kind: str) -> None:
    """The eight symmetries of a square, and a shift by whole pixels, give the very pixels of an aligned row."""
    cache = cache_of([record(jpeg_of_kind(noise(48, 48), kind))])
    engine = NativeEngine(cache, 0)
    straight = execute(engine, placed(BatchPlan.of(np.zeros(1, np.int64), np.array([[48, 48]], np.int32))))[0]
    for turns in range(4):
        for mirror in (1, -1):
            plan = BatchPlan.of(np.zeros(1, np.int64), np.array([[48, 48]], np.int32))
            linear = rotation(90 * turns)[:, :2] @ np.diag([mirror, 1])
            shift = 24 - linear @ [24, 24] + [5, 3]
            plan.transform(np.column_stack([linear, shift])[None], np.array([[60, 60]], np.int32))
            expected = np.rot90(straight[:, ::mirror], -turns)
            assert np.array_equal(execute(engine, placed(plan, (60, 60)))[0, 3:51, 5:53], expected)


def busy_plan(seed: int) -> BatchPlan:
    """Sources, fills and adjustments over one another, some turned, some blended, some on layers."""
    rng = np.random.default_rng(seed)
    count, canvas = int(rng.integers(1, 9)), (70, 60)
    index = rng.choice([0, 1, FILL, ADJUST], count, p=[0.35, 0.25, 0.2, 0.2])
    sizes = np.array([[60, 40], [30, 50]], np.int32)
    plan = BatchPlan.of(index, sizes[np.where(index >= 0, index, 0)])
    for edge in (0, 1):
        corner, extent = rng.integers(0, 40, count), rng.integers(1, 50, count)
        plan.clip[:, edge], plan.clip[:, edge + 2] = corner, np.minimum(extent, canvas[edge] - corner)
    plan.flip = rng.random(count) < 0.5
    plan.color += rng.normal(0, [0.1, 0.1, 0.1, 20], (count, 3, 4)).astype(np.float32)
    plan.color[index == FILL, :, 3] = rng.uniform(-20, 280, 3)
    plan.size = np.tile(np.int32([canvas]), (count, 1))
    turned = rng.random(count) < 0.4
    if turned.any():
        plan.warp = np.full((count, 2, 3), np.nan, np.float32)
        for row in np.flatnonzero(turned):
            plan.warp[row] = random_matrix(rng, plan.source[row], canvas)
            plan.clip[row] = 0, 0, *canvas
        plan.flip &= ~turned
    plan.filter = rng.integers(0, len(FILTERS), count).astype(np.uint8) if rng.random() < 0.5 else None
    if plan.filter is not None:  # between two pixels of a turned row, either may be nearest
        plan.filter[turned & (plan.filter == FILTERS.index("nearest"))] = 0
    if rng.random() < 0.7:
        plan.alpha = rng.choice([0, 0.3, 0.5, 1, 1], count).astype(np.float32)
    if rng.random() < 0.7:
        plan.layer = rng.choice([0, 1, 2], count).astype(np.int32)
        begins = np.append(True, np.diff(plan.layer) != 0)
        plan.layer[:] = np.where(begins & (index == FILL), plan.layer, 0)
        for row in range(1, count):  # layers go on for a few rows
            if plan.layer[row] == 0 and plan.layer[row - 1] and rng.random() < 0.6:
                plan.layer[row] = plan.layer[row - 1]
        begins = np.append(True, np.diff(plan.layer) != 0)
        plan.layer[begins & (index != FILL)] = 0
        begins = np.append(True, np.diff(plan.layer) != 0)
        if (index[begins & (plan.layer > 0)] != FILL).any():
            plan.layer[:] = 0
    plan.slot[:] = np.sort(rng.integers(0, 2, count))
    if plan.layer is not None and np.diff(plan.slot).any():
        plan.layer[plan.slot == 1] = 0
    plan.size = np.array([canvas] * 2, np.int32)
    plan.offset = np.zeros((2, 2), np.int32)
    return placed(plan, canvas)


RECORDS = [record(jpeg(smooth(40, 60, 1), 2)), record(jpeg(noise(50, 30, 2)))]


@given(st.integers(0, 1 << 30))
@settings(max_examples=80, deadline=None)
def test_rows_over_one_another_are_the_references(seed: int) -> None:
    """Up to eight rows of all kinds in order, with opacity, all filters, on layers and with color matrices."""
    assert_alike(RECORDS, busy_plan(seed), factor=3)


def add_adjustment(plan: BatchPlan, rng: np.random.Generator) -> int:
    """Add an ADJUST row to slot 1, with one change of colors, perhaps turned and perhaps blended.

    Returns:
        By how many levels the engines may differ.
    """
    slots, alpha = np.array([1]), rng.choice([0.3, 0.7, 1], 1)
    kind = rng.integers(5)
    if kind == 0:
        plan.adjust(slots, color=rng.normal(np.eye(3, 4), [0.5, 0.5, 0.5, 50], (1, 3, 4)), alpha=alpha)
    elif kind == 1:
        low, high = [-2, 0, -1, 0, -300], [2, 8, 1, 8, 300]
        plan.adjust(slots, hsv=rng.uniform(low, high, (1, 5)), alpha=alpha)
    else:
        given = rng.integers(0, 256, (1, 3, 256), dtype=np.uint8)
        plan.adjust(slots, table=(given, AUTOCONTRAST, EQUALIZE)[kind - 2], alpha=alpha)
    if rng.random() < 0.5:
        plan.warp = plan._column("warp").copy()
        plan.warp[-1] = random_matrix(rng, plan.source[-1], plan.canvas)
    elif rng.random() < 0.5:
        corner = rng.integers(0, plan.size[1])
        plan.clip[-1] = *corner, *rng.integers(1, plan.size[1] - corner + 1)
    return int(kind < 2)


@given(st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_adjustments_change_what_is_under_them_as_the_reference_does(seed: int) -> None:
    """Matrices and HSV by a level at most, tables exactly, also those that depend on what is covered."""
    rng, plan = np.random.default_rng(seed), busy_plan(seed)
    engine = NativeEngine(cache_of(RECORDS), 0)
    expected = execute(engine, plan)[1]
    for _ in range(3):
        tolerance = add_adjustment(plan, rng)
        mask = covered(plan, row := len(plan.index) - 1)
        assert plan.alpha is not None
        expected[mask] = mixed(adjusted(expected[mask], plan, row), expected[mask], float(plan.alpha[row]))
        found = execute(engine, plan)[1]
        assert np.abs(found.astype(int) - expected).max() <= tolerance
        expected = found


@given(st.integers(0, 1 << 30))
@settings(max_examples=30, deadline=None)
def test_an_opaque_layer_of_the_padding_is_as_the_canvas_itself(seed: int) -> None:
    """Rows on such a layer give the same bits, and tables that depend on what is under them are the layer's."""
    rng, plan = np.random.default_rng(seed), busy_plan(seed)
    plan.layer = None
    for _ in range(2):
        add_adjustment(plan, rng)
    engine = NativeEngine(cache_of(RECORDS), 0)
    expected = execute(engine, plan)
    plan._add_layers(np.array([1]), np.ones(2, np.float32), tuple(PADDING))
    assert plan.layer is not None and np.array_equal(execute(engine, plan), expected)


@pytest.mark.parametrize("size", [(1, 1), (10_000, 2), (2, 10_000)])
@pytest.mark.parametrize("table", [AUTOCONTRAST, EQUALIZE])
def test_computed_tables_of_tiny_images_and_long_strips(size: tuple[int, int], table: int) -> None:
    """They are those of the reference for what is drawn under them."""
    plan = BatchPlan.of(np.zeros(1, np.int64), np.array([size], np.int32))
    engine = NativeEngine(cache_of([record(jpeg(noise(size[1], size[0]) // 4 + 60))]), 0)
    under = execute(engine, placed(plan))[0]
    plan.adjust(np.array([0]), table=table)
    assert np.array_equal(execute(engine, plan)[0], adjusted(under.reshape(-1, 3), plan, 1).reshape(under.shape))


def test_the_reference_refuses_a_tile_that_memory_cannot_hold() -> None:
    """As a failure of its row that says what to do, before memory is taken."""
    plan = BatchPlan.of(np.zeros(1, np.int64), np.array([[20, 20]], np.int32))
    plan.crop[0] = 0, 0, 1e6, 1e6
    plan.warp = np.array([[[1, 1, -5e5], [1, 1.0001, -5e5]]], np.float32)
    _, failures = finish(engine := ReferenceEngine(cache_of(RECORDS)), submit(engine, placed(plan)))
    assert list(failures) == [0] and "reduce it first" in failures[0]


def test_plain_rows_of_other_slots_keep_their_bits() -> None:
    """A plain row is the same beside a general one, on the same lines of the canvas or on others."""
    plan = BatchPlan.of(np.array([0, 0]), np.array([[60, 40]] * 2, np.int32))
    plan.compose(np.array([0, 0]), np.array([[0, 0], [0, 40]], np.int32), np.array([[60, 80]], np.int32))
    plan.cover(np.zeros(1, np.int32), np.array([[10, 50, 20, 30]], np.int32), np.array([[1, 2, 3]], np.float32))
    canvas = execute(NativeEngine(cache_of(RECORDS), 0), placed(plan))[0]
    expected = canvas[:40].copy()
    expected[10:40, 10:30] = (1, 2, 3)
    assert np.array_equal(canvas[40:], expected)


def test_a_fill_row_has_exactly_its_color() -> None:
    """Clipped to 0 to 255 and rounded, halves upward, whether it is blended or not."""
    plan = BatchPlan.of(np.full(3, FILL), np.full((3, 2), 4, np.int32))
    plan.color[:, :, 3] = [[-5, 300, 0.5], [99.5, 99.49, 254.5], [100, 100, 100]]
    plan.alpha = np.array([1, 1, 0.25], np.float32)
    found, expected = both([], placed(plan))
    assert (found[:, 0, 0] == [[0, 255, 1], [100, 99, 255], [118, 112, 103]]).all() and np.array_equal(found, expected)


def test_an_image_too_large_to_be_turned_is_a_failure_of_its_row() -> None:
    """A matrix that is nearly singular needs more of an image than positions can address: a clear failure."""
    plan = BatchPlan.of(np.zeros(1, np.int64), np.array([[20, 20]], np.int32))
    plan.crop[0] = 0, 0, 1e6, 1e6
    plan.warp = np.array([[[1, 1, -5e5], [1, 1.0001, -5e5]]], np.float32)
    _, failures = finish(engine := NativeEngine(cache_of(RECORDS), 0), submit(engine, placed(plan)))
    assert list(failures) == [0] and "too large to be rotated or sheared" in failures[0]


def test_a_row_that_shows_nothing_is_not_decoded() -> None:
    """A damaged image that is turned off the canvas, or lies between its pixels, is no failure; one pixel of it is."""
    damaged = bytearray(record(jpeg(noise(40, 56), quality=90)))
    del damaged[-300:]
    damaged[16:24] = (len(damaged) - 32).to_bytes(8, "little")
    plan = BatchPlan.of(np.zeros(1, np.int64), np.array([[20, 20]], np.int32))
    plan.crop[0] = 0, 0, 56, 40
    cases = ((1, (100, 0), 0), (1, (-100, 3), 0), (1, (0, 80), 0), (1, (19, 0), 1), (1e-3, (19.4, 19.6), 0))
    for scale, shift, failing in cases:
        matrix = np.column_stack([rotation(30)[:, :2] * scale, shift])
        plan.warp = matrix[None].astype(np.float32)
        engine = NativeEngine(cache_of([bytes(damaged)]), 0, "never")
        _, failures = finish(engine, submit(engine, placed(plan)))
        assert len(failures) == failing, shift


@pytest.mark.parametrize("seed", range(20))
def test_matrices_near_the_limits_of_floats_draw_something(seed: int) -> None:
    """Invertible matrices of any magnitude neither crash nor draw outside: what is not covered stays."""
    rng = np.random.default_rng(seed)
    cache = cache_of(RECORDS)
    for _ in range(20):
        plan = BatchPlan.of(np.zeros(1, np.int64), np.array([[60, 40]], np.int32))
        size = 10.0 ** rng.uniform(-18, 18, (2, 3))
        plan.warp = (rng.choice([-1, 1], (1, 2, 3)) * size[None]).astype(np.float32)
        if rng.random() < 0.5:
            plan.warp[0, 1, :2] = plan.warp[0, 0, :2] * np.float32(1 + 1e-6 * rng.random())
        engine = NativeEngine(cache, 0)
        try:
            ticket = submit(engine, placed(plan))
        except Exception as error:
            assert "has no inverse" in str(error)
            continue
        canvas, failures = finish(engine, ticket)
        assert failures or canvas.shape == (1, 40, 60, 3)


def test_threads_share_nothing_of_warped_rows() -> None:
    """Several threads that draw the same general plans give the bits of one."""
    cache = cache_of(RECORDS)
    plans = [busy_plan(seed) for seed in range(12)]
    alone = [execute(NativeEngine(cache, 0), plan) for plan in plans]
    engine = NativeEngine(cache, 3)
    tickets = [submit(engine, plan) for plan in plans]
    for ticket, expected in zip(tickets, alone, strict=True):
        assert np.array_equal(finish(engine, ticket)[0], expected)


DIGEST = """
import hashlib
from fastload import _core
from tests.engines.test_native_rows import *
print(_core.simd_level(), digest())
"""


def digest() -> str:
    """Of many general plans."""
    cache, pixels = cache_of(RECORDS), hashlib.sha256()
    for seed in range(200):
        pixels.update(execute(NativeEngine(cache, 0), busy_plan(seed)))
    return pixels.hexdigest()


@pytest.mark.long
def test_every_simd_level_gives_the_same_bits() -> None:
    """The vector kernels equal the scalar specification bit for bit, whatever rows are drawn."""
    expected = digest()
    for level in _core.testing.simd_levels():
        run = run_python(DIGEST, FASTLOAD_SIMD=level)
        assert run.stdout.split() == [level, expected], run.stderr
