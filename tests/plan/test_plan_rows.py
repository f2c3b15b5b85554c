"""Rows without a record, layers, parts of plans, and the boxes that transforms see."""

from __future__ import annotations

import numpy as np
import pytest

from fastload.errors import PlanError
from fastload.plan.batch_plan import ADJUST, AUTOCONTRAST, FILL, IDENTITY_COLOR, OPTIONAL_ROW_COLUMNS, BatchPlan
from fastload.plan.image_index import ImageIndex


def plan_of(*size: tuple[int, int]) -> BatchPlan:
    return BatchPlan.of(np.arange(len(size)), np.array(size, np.int32))


def columns_of(plan: BatchPlan) -> dict[str, np.ndarray | None]:
    names = ("index", "slot", "source", "crop", "clip", "flip", "color", "size", *OPTIONAL_ROW_COLUMNS, "tables")
    return {name: getattr(plan, name) for name in names}


def assert_same(plan: BatchPlan, other: BatchPlan) -> None:
    for (name, values), expected in zip(columns_of(plan).items(), columns_of(other).values(), strict=True):
        np.testing.assert_array_equal(values, expected, name)


def test_adjust_draws_over_all_rows_of_its_slots():
    """The new row is the last of its slot, covers its image, and has the values given for its slot."""
    plan = plan_of((10, 20), (30, 40), (50, 60))
    plan.adjust(np.array([2, 0]), hsv=np.array([[0.1, 2, 0, 1, 0], [0.2, 1, 0, 1, 5]]))
    assert plan.index.tolist() == [0, ADJUST, 1, 2, ADJUST]
    assert plan.slot.tolist() == [0, 0, 1, 2, 2]
    assert plan.clip[[1, 4]].tolist() == [[0, 0, 10, 20], [0, 0, 50, 60]]
    assert plan.hsv is not None and plan.table is None
    np.testing.assert_allclose(plan.hsv[[0, 1, 4]], [[0, 1, 0, 1, 0], [0.2, 1, 0, 1, 5], [0.1, 2, 0, 1, 0]], rtol=1e-6)


def test_colors_after_an_adjust_are_changed_after_it():
    """A matrix cannot be merged into rows below a step that is not linear; a slot without one needs no new row."""
    plan = plan_of((8, 8), (8, 8), (8, 8))
    plan.adjust(np.array([0, 2]), table=AUTOCONTRAST)
    color = np.stack([IDENTITY_COLOR * 2, IDENTITY_COLOR * 3, IDENTITY_COLOR])
    plan.recolor(color)
    assert plan.index.tolist() == [0, ADJUST, ADJUST, 1, 2, ADJUST]
    np.testing.assert_array_equal(plan.color[[0, 1, 2, 3, 4]], color[[2, 2, 0, 1, 2]])
    assert plan.table is not None and plan.table.tolist() == [-1, AUTOCONTRAST, -1, -1, -1, AUTOCONTRAST]


def test_an_adjust_moves_with_its_image():
    """Scaling, cropping and mirroring move it like the image below it."""
    plan = plan_of((40, 20))
    plan.adjust(np.array([0]), table=AUTOCONTRAST)
    plan.resize(np.array([[80, 40]]))
    plan.crop_to(np.array([[-10, 5, 60, 50]]))
    plan.flip_horizontally(np.array([True]))
    np.testing.assert_array_equal(plan.clip[0], plan.clip[1])
    np.testing.assert_allclose(plan.matrix[0], plan.matrix[1])


def test_a_blended_slot_becomes_a_layer_with_a_ground():
    """Its rows keep their order, begin with a fill of the whole slot, and layers of one canvas have other numbers."""
    plan = plan_of((10, 10), (10, 10), (6, 8), (6, 8))
    plan.batch = np.array([3, 4, 0, 0], np.int32)
    plan.compose(
        np.array([0, 1, 0, 0]),
        np.array([[0, 0], [0, 0], [2, 1], [0, 0]]),
        np.array([[10, 10], [10, 10]]),
        alpha=np.array([1, 1, 0.5, 0.25]),
        ground=(9, 8, 7),
    )
    assert plan.index.tolist() == [0, FILL, 2, FILL, 3, 1]
    assert plan.slot.tolist() == [0, 0, 0, 0, 0, 1]
    assert plan.alpha is not None and plan.alpha.tolist() == [1, 0.5, 1, 0.25, 1, 1]
    assert plan.layer is not None and plan.layer.tolist() == [0, 1, 1, 2, 2, 0]
    assert plan.clip[1].tolist() == [2, 1, 6, 8]
    assert plan.color[1, :, 3].tolist() == [9, 8, 7]
    assert plan.batch.tolist() == [3, 4]
    plan.join(BatchPlan.of(np.array([5]), np.array([[4, 4]], np.int32)))
    plan.compose(np.array([0, 1, 0]), np.zeros((3, 2), int), plan.size[:2], alpha=np.array([1, 1, 0.5]))
    assert plan.layer.tolist() == [0, 1, 1, 2, 2, 3, 3, 0]


def test_a_blended_image_cannot_be_a_part_of_a_blend():
    """Layers do not nest."""
    plan = plan_of((10, 10), (10, 10))
    plan.compose(np.array([0, 0]), np.zeros((2, 2), int), np.array([[10, 10]]), alpha=np.array([1, 0.5]))
    with pytest.raises(PlanError, match="already blended"):
        plan.compose(np.array([0]), np.zeros((1, 2), int), np.array([[10, 10]]), alpha=np.array([0.5]))


def test_what_is_taken_and_put_back_is_unchanged():
    """Rows, tables and sizes are those from before, whatever is taken, in any order."""
    plan = plan_of((10, 20), (30, 40), (50, 60), (70, 80))
    plan.adjust(np.array([3, 1]), table=np.arange(2 * 768).reshape(2, 3, 256).astype(np.uint8))
    plan.adjust(np.array([1]), hsv=np.array([[0.5, 1, 0, 1, 0]]))
    before = plan.take(np.arange(4))
    for slots in ([2, 1], [3], [0, 1, 2, 3], [1]):
        plan.put(np.array(slots), plan.take(np.array(slots)))
    assert plan.tables is not None and len(plan.tables) == 2
    assert_tables_equal(plan, before)
    plan.table = before.table
    plan.tables = before.tables
    assert_same(plan, before)


def assert_tables_equal(plan: BatchPlan, other: BatchPlan) -> None:
    for one in (plan, other):
        assert one.table is not None and one.tables is not None
    np.testing.assert_array_equal(plan.tables[plan.table[plan.table >= 0]], other.tables[other.table[other.table >= 0]])


def test_a_part_is_edited_alone():
    """Edits of what was taken change its slots only, and only once it is put back."""
    plan = plan_of((10, 20), (30, 40), (50, 60))
    part = plan.take(np.array([2, 0]))
    assert part.index.tolist() == [2, 0]
    part.resize(np.array([[5, 6], [7, 8]]))
    part.cover(np.array([1]), np.array([[0, 0, 3, 3]]), np.zeros((1, 3)))
    assert plan.size.tolist() == [[10, 20], [30, 40], [50, 60]]
    plan.put(np.array([2, 0]), part)
    assert plan.size.tolist() == [[7, 8], [30, 40], [5, 6]]
    assert plan.index.tolist() == [0, FILL, 1, 2]
    assert plan.clip.tolist() == [[0, 0, 7, 8], [0, 0, 3, 3], [0, 0, 30, 40], [0, 0, 5, 6]]


def test_boxes_while_planning():
    """They are mapped and clipped like targets; hidden ones and those beyond `centers` are left out."""
    boxes = np.array([[0, 0, 4, 4], [2, 2, 10, 10], [0, 0, 2, 2], [5, 5, 9, 10]], np.float32)
    images = ImageIndex(np.arange(2), np.array([[10, 10], [10, 10]], np.int32), np.array([0, 3, 4]), boxes)
    plan = images.plan(np.array([1, 0]))
    plan.crop_to(np.array([[0, 0, 10, 10], [2, 2, 8, 8]]))
    plan.flip_horizontally(np.array([True, False]))
    shown = images.boxes(plan)
    assert shown.number.tolist() == [3, 0, 1]
    assert shown.slot.tolist() == [0, 1, 1]
    assert shown.box.tolist() == [[1, 5, 5, 10], [0, 0, 2, 2], [0, 0, 8, 8]]
    plan.crop_to(np.array([[0, 0, 10, 10], [1, 1, 7, 7]]))
    plan.keep_centered(np.array([False, True]))
    assert images.boxes(plan).number.tolist() == [3, 1]


def test_without_annotations_there_are_no_boxes():
    images = ImageIndex(np.arange(1), np.array([[10, 10]], np.int32))
    assert len(images.boxes(images.plan(np.array([0]))).box) == 0
