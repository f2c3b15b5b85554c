"""One geometry: every edit of a plan is a matrix, in Python and in the core alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastload import PlanError
from fastload._core import testing
from fastload.plan import geometry
from fastload.plan.batch_plan import FILL, BatchPlan

seeds = st.integers(0, 2**32)


def rotation(degrees: float, center: tuple[float, float] = (0, 0), scale: float = 1) -> np.ndarray:
    """A map (2, 3) that turns about a point and enlarges."""
    turn = scale * np.exp(1j * np.deg2rad(degrees))
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.column_stack([linear, np.array(center) - linear @ center])


def random_map(rng: np.random.Generator) -> np.ndarray:
    return (
        rotation(rng.uniform(0, 360), rng.uniform(0, 50, 2), rng.uniform(0.3, 3)) + rng.normal(0, 0.1, (2, 3))
    ).astype(np.float32)


def matrix3(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([matrix, [0, 0, 1]])


def whole(*sizes: tuple[int, int]) -> BatchPlan:
    return BatchPlan.of(np.arange(len(sizes)), np.array(sizes, np.int32))


@given(seeds)
def test_the_core_maps_boxes_as_python_does(seed):
    """Forward and back, through any map, to the bit."""
    rng = np.random.default_rng(seed)
    matrix, boxes = random_map(rng), np.sort(rng.uniform(-900, 900, (20, 2, 2)), 1).reshape(-1, 4).astype(np.float32)
    many = np.broadcast_to(matrix, (20, 2, 3))
    assert np.array_equal(testing.map_boxes(matrix, boxes), geometry.map_boxes(many, boxes))
    assert np.array_equal(testing.unmap_boxes(matrix, boxes), geometry.unmap_boxes(many, boxes))


@given(seeds, st.booleans())
def test_the_core_makes_the_matrix_of_an_aligned_row_as_python_does(seed, flip):
    """To the bit, mirrored or not."""
    rng = np.random.default_rng(seed)
    crop = np.concatenate([rng.uniform(0, 900, 2), rng.uniform(0.1, 900, 2)]).astype(np.float32)
    clip = np.concatenate([rng.integers(0, 900, 2), rng.integers(1, 900, 2)]).astype(np.int32)
    found = testing.aligned_matrix(crop, clip, flip)
    assert np.array_equal(found, geometry.aligned_matrix(crop[None], clip[None], np.array([flip]))[0])


@given(seeds)
def test_points_come_back_through_the_same_matrix(seed):
    """`unmap_points` undoes `map_points`, for NumPy arrays and torch tensors with the same figures."""
    rng = np.random.default_rng(seed)
    matrix, points = random_map(rng), rng.uniform(-900, 900, (30, 2)).astype(np.float32)
    if abs(np.linalg.det(matrix[:, :2])) < 0.05:
        return
    mapped = geometry.map_points(matrix, points)
    np.testing.assert_allclose(mapped, points @ matrix[:, :2].T + matrix[:, 2], atol=2e-3)
    np.testing.assert_allclose(geometry.unmap_points(matrix, mapped), points, atol=0.1)
    tensors = torch.from_numpy(matrix), torch.from_numpy(mapped)
    assert np.array_equal(geometry.unmap_points(*tensors).numpy(), geometry.unmap_points(matrix, mapped))


@given(seeds, st.lists(st.sampled_from(["resize", "crop", "flip", "transform"]), max_size=5))
def test_every_edit_is_its_matrix(seed, edits):
    """A turned row's matrix is the product of what each further edit does to a point."""
    rng, plan = np.random.default_rng(seed), whole((60, 40), (31, 77))
    expected = [np.eye(3), np.eye(3)]
    for edit in ["transform", *edits]:
        size = plan.size.astype(float)
        if edit == "resize":
            to = rng.integers(20, 90, (2, 2))
            plan.resize(to)
            maps = [np.diag([*(new / old), 1]) for new, old in zip(to, size, strict=True)]
        elif edit == "crop":
            corner, extent = rng.integers(-5, 5, (2, 2)), rng.integers(20, 90, (2, 2))
            plan.crop_to(np.concatenate([corner, extent], 1))
            maps = [np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]]) for x, y in corner]
        elif edit == "flip":
            mask = rng.random(2) < 0.5
            plan.flip_horizontally(mask)
            maps = [
                np.array([[-1, 0, w], [0, 1, 0], [0, 0, 1]]) if m else np.eye(3)
                for m, (w, _) in zip(mask, size, strict=True)
            ]
        else:
            matrices = np.stack([random_map(rng) for _ in range(2)])
            plan.transform(matrices, rng.integers(20, 90, (2, 2)))
            maps = [matrix3(matrix) for matrix in matrices]
        expected = [m @ before for m, before in zip(maps, expected, strict=True)]
    for matrix, slot in zip(plan.matrix, plan.slot, strict=True):
        np.testing.assert_allclose(matrix, expected[slot][:2], atol=1e-5 * (100 + np.abs(expected[slot]).max()))


@given(seeds)
def test_a_warped_neighbor_changes_no_bit_of_an_aligned_row(seed):
    """Rows of a slot whose matrix is the identity keep crop, clip and flip as if nothing was turned."""
    rng, plan, alone = np.random.default_rng(seed), whole((60, 40), (31, 77)), whole((60, 40), (31, 77))
    mask, box = rng.random(2) < 0.5, np.concatenate([rng.integers(0, 9, (2, 2)), rng.integers(9, 30, (2, 2))], 1)
    plan.transform(np.stack([np.eye(2, 3), rotation(30, (15, 38))]), plan.size)
    for each in (plan, alone):
        each.flip_horizontally(mask)
        each.crop_to(box)
        each.resize(np.full((2, 2), 50))
        each.place((50, 50), np.zeros((2, 2), np.int32), np.zeros(3, np.uint8))
    for name in ("index", "crop", "clip", "flip"):
        assert np.array_equal(getattr(plan, name)[0], getattr(alone, name)[0])
    assert np.array_equal(plan.matrix[0], alone.matrix[0]) and not plan.is_aligned[1:].any()


def test_the_clip_of_a_turned_row_holds_what_is_shown():
    """A rotation about the center keeps the clip within the image, and around the whole source where there is room."""
    plan = whole((40, 20))
    plan.transform(np.stack([rotation(90, (20, 20))]), np.array([[40, 40]]))
    assert plan.clip.tolist() == [[20, 0, 20, 40]] and plan.size.tolist() == [[40, 40]]
    plan.transform(np.stack([np.array([[1, 0, 100], [0, 1, 0]])]), np.array([[40, 40]]))
    assert len(plan.index) == 0  # it is beyond the image


def test_covers_and_fades():
    """A fill row goes over its slot's rows; opacity multiplies; both survive composing, splitting and placing."""
    plan = whole((10, 10), (10, 10), (10, 10))
    plan.fade(np.array([1, 0.5, 1]))
    plan.fade(np.array([1, 0.5, 1]))
    plan.cover(np.array([1]), np.array([[2, 3, 4, 5]]), np.array([[7, 8, 9]]))
    assert plan.index.tolist() == [0, 1, FILL, 2] and plan.alpha.tolist() == [1, 0.25, 1, 1]
    plan.compose(np.array([0, 0, 1]), np.zeros((3, 2), np.int32), np.full((2, 2), 10))
    assert plan.slot.tolist() == [0, 0, 0, 1]
    plan.place((20, 20), np.array([[5, 5], [0, 0]]), np.zeros(3, np.uint8))
    first, second = plan.split([1, 2])
    assert first.clip.tolist() == [[5, 5, 10, 10], [5, 5, 10, 10], [7, 8, 4, 5]] and first.alpha.tolist() == [
        1,
        0.25,
        1,
    ]
    assert second.index.tolist() == [2] and first.color[2, :, 3].tolist() == [7, 8, 9]


def test_sizes_below_a_pixel_are_refused_of_a_transform():
    """As of every other edit."""
    with pytest.raises(PlanError, match="each needs at least 1 pixel"):
        whole((4, 4)).transform(np.stack([rotation(5)]), np.array([[0, 4]]))
