"""The core's masks: polygons have the pixels of pycocotools, run lengths those of the nearest source pixel."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload.plan.batch_plan import BatchPlan
from fastload.sources.run_lengths import compress, encode
from tests.support.masks import draw, fill_rings, plan_of, shapes_of, warp_mask
from tests.support.native_programs import POOL, build_program

SIZE = (90, 70)
# Multiples of 1/8 are exact in float32, and those of 1/10 lie on the edges of the fifths that corners are rounded to.
eighths = st.integers(-400, 1200).map(lambda n: n / 8)
tenths = st.integers(-300, 1200).map(lambda n: n / 10)
anywhere = st.floats(-3e4, 3e4, width=32)
corners = st.tuples(st.one_of(eighths, tenths, anywhere), st.one_of(eighths, tenths, anywhere))
rings = st.lists(corners, min_size=3, max_size=12)


def masks_of(polygons, plan=None, **options) -> np.ndarray:
    masks, _, failures = draw(shapes_of(polygons), len(polygons), plan or plan_of(SIZE), **options)
    assert not failures
    return masks.astype(bool)


def as_stored(ring) -> np.ndarray:
    """A ring in double precision as the core takes it: as two decimals if that is how it was written."""
    stored = np.float32(ring)
    rounded = np.rint(stored.astype(np.float64) * 100) / 100
    return np.where(rounded.astype(np.float32) == stored, rounded, stored.astype(np.float64))


@settings(max_examples=400, deadline=None)
@given(st.lists(rings, min_size=1, max_size=3))
def test_polygons_are_those_of_pycocotools(polygon):
    """Bit for bit: self-crossing, degenerate, partly or wholly outside, and the union of several."""
    assert (masks_of([polygon])[0] == fill_rings([as_stored(ring) for ring in polygon], SIZE)).all()


@settings(max_examples=100, deadline=None)
@given(
    rings,
    st.tuples(*[st.floats(-2, 2, width=32)] * 4).filter(lambda m: abs(m[0] * m[3] - m[1] * m[2]) > 0.01),
    st.tuples(*[st.floats(-60, 120, width=32)] * 2),
    st.sampled_from([1, 2, 3, 4, 7]),
)
def test_polygons_move_by_the_matrix(ring, linear, shift, stride):
    """They are the polygons of moved points, also at a stride, within what the row shows."""
    plan = BatchPlan.of(np.array([0]), np.array([[500, 400]], np.int32))
    matrix = np.array([[*linear[:2], shift[0]], [*linear[2:], shift[1]]], np.float32)
    plan.warp, plan.size = matrix[None], np.array([SIZE], np.int32)
    plan.crop[:] = -1e5, -1e5, 2e5, 2e5
    plan.clip[:] = 0, 0, *SIZE
    plan.place(SIZE, np.zeros((1, 2), np.int32), np.zeros(3, np.uint8))
    (a, b, c), (d, e, f) = matrix.astype(np.float64) / stride
    x, y = as_stored(ring).T
    moved = np.stack([a * x + b * y + c, d * x + e * y + f], 1)
    width, height = (-(-side // stride) for side in SIZE)
    expected = fill_rings([moved], (width, height))
    expected[:, np.arange(width) * stride + stride // 2 >= SIZE[0]] = False
    expected[np.arange(height) * stride + stride // 2 >= SIZE[1]] = False
    assert (masks_of([[ring]], plan, stride=stride)[0] == expected).all()


def test_odd_rings():
    """Rings that enclose nothing or have no sound coordinates cover nothing; huge ones take no time."""
    square = [[10, 5], [20, 5], [20, 8], [10, 8]]
    for ring in ([], square[:1], square[:2], [[5, 5]] * 9, [[np.nan, 5], *square], [[np.inf, 5], *square]):
        masks = masks_of([[ring], [ring, square]])
        assert not masks[0].any() and masks[1].sum() == 30
    huge = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    for scale in (1e3, 1e6, 1e9, 1e30, 3e38):
        assert masks_of([[huge * scale]]).all(), scale
    spikes = np.random.default_rng(0).uniform(-1e30, 1e30, (2000, 2))
    masks_of([[spikes]] * 20)


def random_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    masks = [rng.random((50, 60)) < share for share in (0, 0.01, 0.5, 0.99, 1)]
    return [*masks, np.eye(50, 60, dtype=bool), np.tri(50, 60, dtype=bool), np.indices((50, 60))[1] % 2 == 0]


def run_lengths_of(mask: np.ndarray, plan: BatchPlan, **options) -> np.ndarray:
    masks, drawn, failures = draw(shapes_of([[]], [encode(mask)], mask.shape[::-1]), 1, plan, **options)
    assert not failures
    rows, columns = np.nonzero(masks[0])
    assert drawn.extents is not None
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, len(rows)) if len(rows) else (0,) * 5
    assert drawn.extents[0].tolist() == [*box]
    return masks[0].astype(bool)


@pytest.mark.parametrize("mask", random_masks(), ids=lambda mask: str(mask.sum()))
def test_run_lengths_come_back(mask):
    """Without a transform, the mask is the one that was encoded, also on a larger canvas."""
    assert (run_lengths_of(mask, plan_of((60, 50))) == mask).all()
    larger = run_lengths_of(mask, plan_of((60, 50), (96, 64)))
    assert (larger[:50, :60] == mask).all() and larger.sum() == mask.sum()


MATRICES = [
    [[-1, 0, 60], [0, 1, 0]],
    [[0.7, 0, 5], [0, 1.3, -4]],
    [[-1.5, 0, 80], [0, -0.6, 40]],
    [[0, -1, 55], [1, 0, 3]],
    [[0.8, -0.4, 20], [0.4, 0.8, -10]],
    [[1, 0, 500], [0, 1, 0]],
]


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_run_lengths_show_the_nearest_pixel(matrix, stride):
    """Mirrored, scaled, turned and beyond the canvas."""
    plan = BatchPlan.of(np.array([0]), np.array([[60, 50]], np.int32))
    moved = np.array(matrix, np.float32)
    plan.warp, plan.size = moved[None], np.array([SIZE], np.int32)
    plan.crop[:], plan.clip[:] = (-1e5, -1e5, 2e5, 2e5), (0, 0, *SIZE)
    plan.place(SIZE, np.zeros((1, 2), np.int32), np.zeros(3, np.uint8))
    width, height = (-(-side // stride) for side in SIZE)
    for mask in random_masks():
        expected = warp_mask(mask, moved.astype(np.float64) / stride, (width, height))
        expected[:, np.arange(width) * stride + stride // 2 >= SIZE[0]] = False
        expected[np.arange(height) * stride + stride // 2 >= SIZE[1]] = False
        assert (run_lengths_of(mask, plan, stride=stride) == expected).all()


@pytest.mark.parametrize(
    "data",
    [b"1", b"\x10", b"~", b"PPPP", b"P" * 20 + b"0", b"1O1", b"5", compress(np.array([1, 2, 3])), b"o" * 12 + b"0"],
)
def test_damaged_run_lengths_name_their_box(data):
    """Bytes that are no run lengths, or those of another size, are a failure of their row."""
    _, _, failures = draw(shapes_of([[], []], [encode(np.ones((2, 2), bool)), data], (2, 2)), 2, plan_of((2, 2)))
    assert failures == {0: "box 1 has no mask: its run lengths are not those of a mask of 2 x 2 pixels"}


def test_many_instances():
    """2,000 objects of one image, each with its own mask."""
    rng = np.random.default_rng(1)
    polygons = [[rng.uniform(-20, 120, (30, 2))] for _ in range(2000)]
    masks = masks_of(polygons)
    for k in range(0, 2000, 97):
        assert (masks[k] == fill_rings([as_stored(polygons[k][0])], SIZE)).all()


def test_damaged_shapes_under_sanitizers(tmp_path):
    """20,000 batches of damaged polygons, run lengths, offsets and rows: no report, and some of both are drawn."""
    program = build_program("masks", tmp_path, POOL)
    run = subprocess.run([program, "20000", "1"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-5000:]
    drawn, refused = (int(word) for word in run.stdout.split() if word.isdigit())
    assert min(drawn, refused) > 1000
