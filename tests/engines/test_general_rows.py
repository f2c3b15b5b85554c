"""Rows that are turned, blended, drawn over others or have no source, as the reference draws them; DALI refuses."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastload import (
    BatchMixUp,
    ColorJitter,
    FastLoader,
    PlanError,
    RandomAffine,
    RandomAlign,
    RandomFlip,
    RandomHSV,
    RandomZoomOut,
    Resize,
    ScaleJitterCrop,
    ShortestEdge,
    TopLeftAlign,
    Transform,
)
from fastload.engines.native import NativeEngine
from fastload.engines.reference import ReferenceEngine
from fastload.engines.validate import check_simple
from fastload.loader.planner import BatchPlanner
from fastload.loader.sampling import EpochRandom
from fastload.plan.batch_plan import OPTIONAL_ROW_COLUMNS, BatchPlan
from fastload.plan.image_index import ImageIndex
from tests.engines.test_engines import FILL, noise, smooth
from tests.plan.test_geometry import rotation
from tests.support.engines import DALI, execute, open_engine, submit
from tests.support.memory_cache import MemoryCache
from tests.support.records import cache_of, jpeg, record

JPEGS = [jpeg(smooth(40, 60, 1)), jpeg(smooth(50, 30, 2))]
CACHE = cache_of([record(data) for data in JPEGS])
REFERENCE = ReferenceEngine(CACHE)


def pixels_of(number: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(JPEGS[number])), np.float64)


def plan_of(*index: int) -> BatchPlan:
    return BatchPlan.of(np.array(index), np.array([[(60, 40), (30, 50)][i] for i in index], np.int32))


def placed(plan: BatchPlan) -> BatchPlan:
    plan.place(plan.size.max(0), np.zeros_like(plan.size), FILL)
    return plan


def drawn(plan: BatchPlan) -> np.ndarray:
    return execute(REFERENCE, placed(plan)).astype(np.float64)


@given(st.integers(0, 360), st.floats(1, 2.5), st.integers(0, 1))
@settings(max_examples=20, deadline=None)
def test_turned_and_enlarged_rows_are_pillows(degrees, scale, number):
    """Within a level of Pillow's bilinear affine transform, where its four neighbors lie within the source."""
    source = pixels_of(number)
    height, width = source.shape[:2]
    matrix = rotation(degrees, (width / 2, height / 2), scale)
    plan = plan_of(number)
    plan.transform(matrix[None], plan.size)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    image = Image.fromarray(source.astype(np.uint8))
    expected = image.transform(image.size, Image.Transform.AFFINE, inverse[:2].ravel(), Image.Resampling.BILINEAR)
    v, u = np.mgrid[:height, :width] + 0.5
    x, y = np.moveaxis(np.stack([u, v, np.ones_like(u)], -1) @ inverse[:2].T, -1, 0)
    inner = (x > 1) & (y > 1) & (x < width - 1) & (y < height - 1)
    difference = np.abs(drawn(plan)[0] - np.asarray(expected))[inner]
    assert difference.mean() < 1.5 and difference.max() < 8  # Pillow interpolates RGB, in fewer bits


@given(st.integers(1, 359), st.floats(0.3, 2.5), st.integers(0, 1))
@settings(max_examples=20, deadline=None)
def test_turned_rows_of_nearest_pixels_are_pillows(degrees, scale, number):
    """The pixels of Pillow's affine transform by NEAREST, without smoothing when shrinking, but for ties."""
    height, width = pixels_of(number).shape[:2]
    straight = drawn(plan_of(number))[0].astype(np.uint8)
    matrix = rotation(degrees, (width / 2, height / 2), scale)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    expected = Image.fromarray(straight).transform(
        (width, height), Image.Transform.AFFINE, inverse.ravel(), fillcolor=tuple(FILL)
    )
    v, u = np.mgrid[:height, :width] + 0.5
    point = np.stack([u, v, np.ones_like(u)], -1) @ inverse.T
    clear = (np.abs(point - np.rint(point)) > 0.02).all(-1)
    for engine in (NativeEngine(CACHE, 0), REFERENCE):
        plan = plan_of(number)
        plan.use_filter("nearest")
        plan.transform(matrix[None], plan.size)
        difference = np.abs(execute(engine, placed(plan))[0].astype(int) - np.asarray(expected))
        assert difference[clear].max(initial=0) <= 2  # colors are rounded at other places


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_only_move_pixels(turns):
    """A turn by 90 degrees gives the very pixels, elsewhere."""
    plan, straight = plan_of(0), drawn(plan_of(0))[0]
    size = np.array([[40, 60]]) if turns % 2 else plan.size
    corner = {1: (40, 0), 2: (60, 40), 3: (0, 60)}[turns]
    matrix = np.column_stack([np.rint(rotation(90 * turns)[:, :2]), corner])
    plan.transform(matrix[None], size)
    assert np.array_equal(drawn(plan)[0], np.rot90(straight, -turns))


def test_shrinking_is_antialiased():
    """Noise that is turned and shrunk eightfold becomes nearly even, as by the kernel of axis-aligned rows."""
    reference = ReferenceEngine(cache_of([record(jpeg(noise(160, 160)))]))
    plan = BatchPlan.of(np.array([0]), np.array([[160, 160]], np.int32))
    plan.transform(np.array([rotation(45, (80, 80), 1 / 8)]) - [[[0, 0, 70], [0, 0, 70]]], np.array([[20, 20]]))
    inner = execute(reference, placed(plan))[0, 8:12, 8:12].astype(float)
    shrunk = BatchPlan.of(np.array([0]), np.array([[160, 160]], np.int32))
    shrunk.resize(np.array([[20, 20]]))
    assert inner.std() < 1.5 * execute(reference, placed(shrunk)).astype(float).std() < 30


def test_a_matrix_that_is_no_turn_draws_what_an_aligned_row_does():
    """Scaling down through a warp is within rounding of the separable kernel."""
    warped, aligned = plan_of(0), plan_of(0)
    warped.transform(np.array([[[0.5, 1e-7, 0], [0, 0.5, 0]]]), np.array([[30, 20]]))
    aligned.resize(np.array([[30, 20]]))
    assert not warped.is_aligned.any() and np.abs(drawn(warped) - drawn(aligned)).max() <= 1


def test_rows_are_drawn_in_order_with_their_opacity():
    """The later of two overlapping rows lies over the earlier, blended by its alpha; a fill row over both."""
    plan = plan_of(0, 1)
    plan.fade(np.array([1, 0.25]))
    plan.compose(np.array([0, 0]), np.array([[0, 0], [10, 5]]), np.array([[60, 60]]))
    plan.cover(np.array([0]), np.array([[20, 8, 5, 7]]), np.array([[10, 300, 30]]))
    canvas, first, second = drawn(plan)[0], drawn(plan_of(0))[0], drawn(plan_of(1))[0]
    expected = np.broadcast_to(FILL, (60, 60, 3)).astype(float)
    expected[:40, :60] = first
    expected[5:55, 10:40] = 0.25 * second + 0.75 * expected[5:55, 10:40]
    expected[8:15, 20:25] = (10, 255, 30)
    assert np.abs(canvas - expected).max() <= 1 and (canvas[8:15, 20:25] == (10, 255, 30)).all()


def test_what_a_turned_row_does_not_cover_stays():
    """Beyond the source's crop the rows below show, and the fill where there are none."""
    plan = plan_of(0, 0)
    plan.transform(np.stack([np.eye(2, 3), rotation(45, (30, 20), 0.5)]), plan.size)
    plan.compose(np.array([0, 0]), np.zeros((2, 2), np.int32), np.array([[60, 40]]))
    canvas = drawn(plan)[0]
    assert np.array_equal(canvas[:2], drawn(plan_of(0))[0, :2]) and not np.array_equal(canvas, drawn(plan_of(0))[0])


def general_plans():
    turned, blended, covered, overlapping = plan_of(0, 1), plan_of(0, 1), plan_of(0, 1), plan_of(0, 1)
    turned.transform(np.stack([np.eye(2, 3), rotation(10)]), turned.size)
    blended.fade(np.array([1, 0.5]))
    covered.cover(np.array([0]), np.array([[1, 1, 2, 2]]), np.zeros((1, 3)))
    overlapping.compose(np.array([0, 0]), np.array([[0, 0], [59, 39]]), np.array([[90, 90]]))
    return {"turned": turned, "blended": blended, "covered": covered, "overlapping": overlapping}


@pytest.mark.parametrize("kind", ["turned", "blended", "covered", "overlapping"])
@pytest.mark.parametrize("name", [DALI])
def test_dali_refuses_such_plans(name, kind):
    """With an error that says which engine draws them, before anything is decoded; the next plan works."""
    engine, plan = open_engine(name, CACHE, 1), placed(general_plans()[kind])
    with pytest.raises(PlanError, match='engine="native"'):
        submit(engine, plan)
    execute(engine, placed(plan_of(0, 1)))


REFUSED = {  # by DALI, after transforms that it draws: what the transform needs
    "RandomAffine": (RandomAffine(degrees=30), "does not rotate or shear"),
    "BatchMixUp": (BatchMixUp(p=1.0), "does not blend"),
    "Resize": (Resize(20, filter="nearest"), 'the filter "nearest"'),
    "RandomHSV": (RandomHSV(), "changes colors by matrices only"),
    "RandomZoomOut": (RandomZoomOut(fill=9, p=1.0), "does not fill"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_transform_that_dali_cannot_draw_is_named(name):
    """The error comes while planning, with the transform as it was written; simple transforms around it pass."""
    transform, reason = REFUSED[name]
    cache = MemoryCache(4)
    images = ImageIndex(np.arange(4), cache.sizes, cache.box_offsets, cache.boxes)
    edits = [ScaleJitterCrop(64), Resize(40), RandomFlip(), ColorJitter(0.2, 0.2, 0.2, 0.1), transform, RandomFlip()]
    planner = BatchPlanner(cache, images, edits, TopLeftAlign(), supported=check_simple)
    (error,) = planner.plan(EpochRandom(0, 0), 0, [np.arange(4)])
    assert isinstance(error, PlanError)
    assert str(error).startswith(f"{transform!r}: ") and reason in str(error) and 'engine="native"' in str(error)
    planner = BatchPlanner(cache, images, [*edits[:4], edits[5]], TopLeftAlign(), supported=check_simple)
    assert not isinstance(planner.plan(EpochRandom(0, 0), 0, [np.arange(4)])[0], Exception)


def test_rows_side_by_side_are_not_refused():
    """Rows may touch, and rows of different slots may lie at the same place."""
    plan = plan_of(0, 1, 1)
    plan.compose(np.array([0, 0, 1]), np.array([[0, 0], [60, 0], [0, 0]]), np.array([[90, 50], [90, 50]]))
    for name in ("native", "reference"):
        execute(open_engine(name, CACHE, 1), placed(plan))
        plan.clip[:, :2] -= plan.offset[plan.slot]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("warp", [[[1, 2, 0], [2, 4, 0]]]),
        ("warp", [[[1, np.inf, 0], [0, 1, 0]]]),
        ("warp", [[[np.inf, 0, 0], [0, 1, 0]]]),
        ("warp", [[[0, 0, 0], [0, 0, 0]]]),
        ("warp", [[[1e-30, 0, 0], [0, 1e-30, np.nan]]]),
        ("alpha", [1.5]),
        ("alpha", [-0.01]),
        ("alpha", [np.nan]),
        ("layer", [-1]),
        ("layer", [1]),
        ("index", [-3]),
        ("warp", [[[1, 0, 0], [0, np.nan, 0]]]),
        ("hsv", [[np.nan, 1, 0, 1, 0]]),
        ("hsv", [[0, -0.1, 0, 1, 0]]),
        ("hsv", [[0, 1, 9, 1, 0]]),
        ("hsv", [[0, 1, 0, 1, np.inf]]),
        ("table", [0]),
        ("table", [-4]),
        ("tables", np.zeros((3, 256))),
        ("tables", np.zeros((1, 3, 255))),
        ("filter", [4]),
        ("crop", [[0, 0, 2e6, 5]]),
        ("crop", [[1e38, 0, 5, 5]]),
        ("crop", [[0, 0, 1e-44, 5]]),
        ("color", [np.full((3, 4), np.nan)]),
        ("canvases", [[65536, 40]]),
        ("canvases", [[60, 0]]),
    ],
)
def test_what_cannot_be_drawn_is_refused(column, value):
    """By both engines, with the same words: no inverse, an opacity beyond 0 to 1, a layer without a ground."""
    plan = placed(plan_of(0))
    dtype = np.uint8 if column == "tables" else OPTIONAL_ROW_COLUMNS.get(column, getattr(plan, column)).dtype
    setattr(plan, column, np.array(value, dtype))
    reasons = []
    for engine in (REFERENCE, NativeEngine(CACHE, 0)):
        with pytest.raises(PlanError, match="cannot be executed") as refusal:
            submit(engine, plan)
        reasons.append(str(refusal.value))
    assert reasons[0] == reasons[1]


class Turn(Transform):
    """Rotates by 30 degrees about the middle."""

    def __call__(self, plan, rng, images):
        plan.transform(np.stack([rotation(30, size / 2) for size in plan.size]), plan.size)


def test_a_loader_turns_images_boxes_and_predictions_alike():
    """Boxes enclose the turned corners, clipped; `to_original` takes points of the canvas back through the matrix."""
    cache = MemoryCache(6)
    data = FastLoader(cache, 3, transforms=[ShortestEdge(80), Turn()], collate_fn=RandomAlign())
    for batch in data:
        targets = batch.targets
        assert not targets.matrix.isnan().any() and targets.scale.isnan().all() and not targets.flip.any()
        for i, index in enumerate(cache.index_of(targets.image_id.tolist())):
            matrix, n = targets.matrix[i].double().numpy(), targets.num_boxes[i]
            x0, y0, x1, y1 = cache.boxes[cache.box_offsets[index] : cache.box_offsets[index + 1]].T
            corners = (
                np.stack([[x0, y0], [x1, y0], [x0, y1], [x1, y1]]).transpose(2, 0, 1) @ matrix[:, :2].T + matrix[:, 2]
            )
            whole = np.concatenate([corners.min(1), corners.max(1)], 1)
            found = targets.boxes[i, :n].numpy()
            assert all((np.abs(box - whole).max(1) < 0.01).any() or inside(box, whole) for box in found)
            if not n:
                continue
            angle = np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0]))
            assert angle == pytest.approx(30, abs=0.01)
            point = targets.to_original(targets.boxes[i, :1, [0, 1, 0, 1]], i)[0].numpy()
            again = matrix[:, :2] @ point[:2] + matrix[:, 2]
            np.testing.assert_allclose(again, targets.boxes[i, 0, :2].numpy(), atol=0.01)


def inside(box: np.ndarray, whole: np.ndarray) -> bool:
    """Whether a box lies within one of several."""
    return bool(((box[:2] >= whole[:, :2] - 0.01) & (box[2:] <= whole[:, 2:] + 0.01)).all(1).any())


def test_a_row_without_a_source_has_no_boxes_and_is_no_source():
    """Erasing a part of an image leaves its boxes, its matrix and `num_sources`."""

    class Erase(Transform):
        def __call__(self, plan, rng, images):
            plan.cover(
                np.arange(len(plan.size)), np.tile([1, 1, 3, 3], (len(plan.size), 1)), np.zeros((len(plan.size), 3))
            )

    cache = MemoryCache(4)
    erased, plain = (list(FastLoader(cache, 2, transforms=t)) for t in ([Erase()], []))
    for (_, with_holes), (_, without) in zip(erased, plain, strict=True):
        assert with_holes.num_sources == (1, 1) and with_holes.boxes.equal(without.boxes)
        assert with_holes.matrix.equal(without.matrix)
