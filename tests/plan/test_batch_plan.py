"""The plan's geometry: boxes follow every edit exactly, in both directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.errors import PlanError
from fastload.plan.batch_plan import BatchPlan

sizes = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=5)


def plan_of(size) -> BatchPlan:
    return BatchPlan.of(np.arange(len(size)), np.array(size, np.int32))


def boxes_of(rng: np.random.Generator, plan: BatchPlan) -> np.ndarray:
    low = rng.uniform(0, 0.9, plan.source.shape)
    return np.concatenate([low, rng.uniform(low, 1)], 1).astype(np.float32) * np.tile(plan.source, 2)


def edit_at_random(plan: BatchPlan, rng: np.random.Generator, inside: bool) -> np.ndarray:
    """One edit; returns the affine map (B, 2, 2) of slot pixels it should be: rows x, y of factor, shift."""
    before, count = plan.size.astype(np.float64), len(plan.size)
    factor, shift = np.ones((count, 2)), np.zeros((count, 2))
    kind = rng.integers(3)
    if kind == 0:
        size = rng.integers(8, 400, (count, 2))
        plan.resize(size)
        factor = size / before
    elif kind == 1:
        extent = rng.integers(1, before + 1 if inside else 400, size=(count, 2))
        corner = rng.integers(0, before - extent + 1) if inside else rng.integers(-50, 50, (count, 2))
        plan.crop_to(np.concatenate([corner, extent], 1))
        shift = -corner.astype(np.float64)
    else:
        mask = rng.random(count) < 0.5
        plan.flip_horizontally(mask)
        factor[mask, 0], shift[mask, 0] = -1, before[mask, 0]
    return np.stack([factor, shift], 2)


@given(sizes, st.integers(1, 6), st.integers(0, 2**32))
def test_boxes_follow_every_sequence_of_edits(size, edits, seed):
    """After any edits within the image, a box is where moving its corners edit by edit brings it."""
    rng, plan = np.random.default_rng(seed), plan_of(size)
    boxes = boxes_of(rng, plan)
    corners = boxes.reshape(-1, 2, 2).astype(np.float64)
    for _ in range(edits):
        step = edit_at_random(plan, rng, inside=True)
        corners = corners * step[:, None, :, 0] + step[:, None, :, 1]
    expected = np.concatenate([corners.min(1), corners.max(1)], 1)
    largest = np.abs(expected).max() + 1
    np.testing.assert_allclose(plan.map_boxes(boxes, np.arange(len(size))), expected, atol=2e-5 * largest, rtol=1e-4)


@given(sizes, st.integers(0, 6), st.integers(0, 2**32))
def test_unmapping_is_the_inverse_of_mapping(size, edits, seed):
    """Whatever the edits, padding included, source boxes survive the way to the canvas and back."""
    rng, plan = np.random.default_rng(seed), plan_of(size)
    boxes = boxes_of(rng, plan)
    for _ in range(edits):
        edit_at_random(plan, rng, inside=False)
    offset = rng.integers(0, 64, plan.size.shape)
    plan.place((plan.size + offset).max(0), offset, np.zeros(3, np.uint8))
    rows = np.arange(len(plan.index))
    mine = boxes[plan.index]
    mapped = plan.map_boxes(mine, rows)
    tolerance = 1e-5 * (1 + np.abs(mapped).max(initial=0)) / np.abs(plan.matrix[:, [0, 1], [0, 1]]).min(initial=1)
    np.testing.assert_allclose(plan.unmap_boxes(mapped, rows), mine, atol=tolerance)


@given(sizes, st.integers(0, 6), st.integers(0, 2**32))
def test_rows_stay_within_slot_and_source(size, edits, seed):
    """A row never reaches beyond its slot's image, nor beyond its source by more than each rounding of its edges."""
    rng, plan = np.random.default_rng(seed), plan_of(size)
    rounding = np.full(2, 1e-3)
    for _ in range(edits):
        edit_at_random(plan, rng, inside=False)
        rounding += 0.5 * (plan.crop[:, 2:] / plan.clip[:, 2:]).max(0, initial=0)
    far = plan.clip[:, :2] + plan.clip[:, 2:]
    assert (plan.clip[:, :2] >= 0).all() and (plan.clip[:, 2:] >= 1).all()
    assert (far <= plan.size[plan.slot]).all()
    assert (plan.crop[:, :2] >= -rounding).all()
    assert (plan.crop[:, :2] + plan.crop[:, 2:] <= plan.source + rounding).all()


def test_map_boxes_is_the_sampling_formula_at_pixel_edges():
    """Mapping agrees with the class's statement of which source point a destination pixel samples."""
    plan = plan_of([(100, 50)])
    plan.resize(np.array([[40, 30]]))
    plan.crop_to(np.array([[10, 5, 20, 15]]))
    plan.flip_horizontally(np.array([True]))
    u = 3.0  # the left edge of the third pixel; its mirror image counts from the right
    source_x = plan.crop[0, 0] + (plan.clip[0, 2] - u) * plan.crop[0, 2] / plan.clip[0, 2]
    box = np.array([[source_x, 20, source_x + 1, 21]], np.float32)
    assert plan.map_boxes(box, np.array([0]))[0, 2] == pytest.approx(u, abs=1e-4)


def test_a_row_outside_the_window_is_dropped_and_its_slot_stays():
    """A window that shows nothing of an image leaves a slot of padding."""
    plan = plan_of([(20, 20), (20, 20)])
    plan.crop_to(np.array([[30, 30, 10, 10], [0, 0, 10, 10]]))
    assert plan.index.tolist() == [1] and plan.slot.tolist() == [1] and len(plan.size) == 2


def test_merge_assembles_slots_in_order():
    """Merged slots keep their size at the given corners, and rows are sorted by the new slots."""
    plan = plan_of([(10, 10), (20, 20)])
    plan.join(BatchPlan.of(np.array([7, 8]), np.array([[5, 6], [7, 8]], np.int32)))
    corner = np.array([[0, 0], [0, 0], [10, 0], [20, 0]], np.int32)
    plan.compose(np.array([0, 1, 0, 1]), corner, np.array([[30, 30], [40, 40]]))
    assert plan.index.tolist() == [0, 7, 1, 8] and plan.slot.tolist() == [0, 0, 1, 1]
    assert plan.clip.tolist() == [[0, 0, 10, 10], [10, 0, 5, 6], [0, 0, 20, 20], [20, 0, 7, 8]]
    assert plan.size.tolist() == [[30, 30], [40, 40]]


def test_recolor_composes():
    """Two colour edits act like one after the other."""
    rng = np.random.default_rng(0)
    plan, rgb = plan_of([(4, 4)]), rng.uniform(0, 255, 3)
    first, second = rng.uniform(-1, 1, (2, 1, 3, 4)).astype(np.float32)
    plan.recolor(first)
    plan.recolor(second)
    once = first[0, :, :3] @ rgb + first[0, :, 3]
    np.testing.assert_allclose(
        plan.color[0, :, :3] @ rgb + plan.color[0, :, 3], second[0, :, :3] @ once + second[0, :, 3], rtol=1e-5
    )


@pytest.mark.parametrize("offset", [(-1, 0), (0, 11)])
def test_place_refuses_images_beyond_the_canvas(offset):
    """A collator's wrong offset is an error, not a write outside the canvas."""
    with pytest.raises(PlanError, match=r"do not lie within canvases of \[\[32, 20\]\]"):
        plan_of([(10, 10)]).place((32, 20), np.array([offset]), np.zeros(3, np.uint8))


def test_sizes_below_one_pixel_are_refused():
    """Resizing or cutting to nothing is an error that names the sizes."""
    with pytest.raises(PlanError, match="each needs at least 1 pixel"):
        plan_of([(10, 10)]).resize(np.array([[0, 5]]))
    with pytest.raises(PlanError, match="each needs at least 1 pixel"):
        plan_of([(10, 10)]).crop_to(np.array([[0, 0, 5, 0]]))
