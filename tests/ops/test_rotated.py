"""Rotated boxes as corners and as center, sides and angle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastload import corners_to_xywha, xywha_to_corners

seeds = st.integers(0, 2**32 - 1)


def random_boxes(seed: int, number: int = 40) -> torch.Tensor:
    """Rotated boxes in le90, none of which is nearly a square."""
    random = torch.Generator().manual_seed(seed)
    center = torch.rand(number, 2, generator=random, dtype=torch.float64) * 2000 - 500
    long = torch.rand(number, 1, generator=random, dtype=torch.float64) * 400 + 2
    short = long * (torch.rand(number, 1, generator=random, dtype=torch.float64) * 0.9 + 0.02)
    angle = (torch.rand(number, 1, generator=random, dtype=torch.float64) - 0.5) * math.pi * 0.999
    return torch.cat([center, long, short, angle], 1)


def least_area(corners: torch.Tensor) -> float:
    """The area of the smallest of many rectangles around corners (4, 2), turned in steps of 1/40 degree."""
    angle = torch.arange(0, math.pi / 2, math.pi / 7200, dtype=torch.float64)
    x, y = corners.double().T
    reach = [
        angle.cos()[:, None] * x + angle.sin()[:, None] * y,
        angle.cos()[:, None] * y - angle.sin()[:, None] * x,
    ]
    width, height = (values.amax(1) - values.amin(1) for values in reach)
    return float((width * height).min())


@given(seeds, st.permutations(range(4)))
def test_boxes_come_back(seed, order):
    """From their corners in any order, in double and in single precision."""
    boxes = random_boxes(seed)
    torch.testing.assert_close(corners_to_xywha(xywha_to_corners(boxes)[:, order]), boxes, atol=1e-6, rtol=0)
    single = boxes.float()
    again = corners_to_xywha(xywha_to_corners(single)[:, order])
    assert again.dtype == torch.float32
    torch.testing.assert_close(again[:, :4], single[:, :4], atol=2e-3, rtol=0)
    turned = (again[:, 4] - single[:, 4]).abs()
    assert (torch.minimum(turned, math.pi - turned) * single[:, 2] < 5e-3).all()


@given(seeds)
def test_the_rectangle_is_the_smallest_around_any_corners(seed):
    """It holds all four, and none turned in small steps has a smaller area; sides and angles are in their ranges."""
    random = torch.Generator().manual_seed(seed)
    corners = torch.randn(6, 4, 2, generator=random, dtype=torch.float64) * 100
    found = corners_to_xywha(corners)
    assert (found[:, 2] >= found[:, 3]).all() and (found[:, 4].abs() <= math.pi / 2).all()
    for box, points in zip(found, corners, strict=True):
        area = float(box[2] * box[3])
        assert area <= least_area(points) * (1 + 1e-9)
        axes = torch.stack([torch.stack([box[4].cos(), box[4].sin()]), torch.stack([-box[4].sin(), box[4].cos()])])
        assert ((points - box[:2]) @ axes.T).abs().le(box[2:4] / 2 + 1e-6).all()


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        ([[0, 0], [4, 0], [4, 2], [0, 2]], [2, 1, 4, 2, 0]),
        ([[0, 0], [2, 0], [2, 4], [0, 4]], [1, 2, 4, 2, -math.pi / 2]),
        ([[0, 1], [1, 0], [4, 3], [3, 4]], [2, 2, 3 * math.sqrt(2), math.sqrt(2), math.pi / 4]),  # down to the right
        ([[0, 3], [3, 0], [4, 1], [1, 4]], [2, 2, 3 * math.sqrt(2), math.sqrt(2), -math.pi / 4]),
        ([[5, 5]] * 4, [5, 5, 0, 0, 0]),
        ([[0, 0]] * 4, [0, 0, 0, 0, 0]),
        ([[1, 1], [3, 1], [3, 1], [1, 1]], [2, 1, 2, 0, 0]),
    ],
)
def test_the_convention(corners, box):
    """The longer side first, and its angle from the x axis, clockwise on the screen; what has no area has no sides."""
    found = corners_to_xywha(torch.tensor(corners).float())
    torch.testing.assert_close(found, torch.tensor(box).float())
    assert -math.pi / 2 - 1e-6 <= found[4] < math.pi / 2 - 1e-7


def test_corners_begin_at_the_upper_left():
    """And go around clockwise; any leading shape is kept, none included."""
    assert xywha_to_corners(torch.tensor([2.0, 1, 4, 2, 0])).tolist() == [[0, 0], [4, 0], [4, 2], [0, 2]]
    assert xywha_to_corners(torch.zeros(3, 0, 5)).shape == (3, 0, 4, 2)
    assert corners_to_xywha(torch.zeros(3, 0, 4, 2)).shape == (3, 0, 5)
    assert corners_to_xywha(torch.zeros(2, 3, 4, 2)).shape == (2, 3, 5)
