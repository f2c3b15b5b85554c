"""Scaling of whole images: sizes, filters and padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.plan.batch_plan import FILL, FILTERS
from fastload.plan.transforms import LetterBox, LongestEdge, RandomResize, Resize, ShortestEdge
from tests.support.plans import CACHE, assert_equally_likely, drawn, planned, same_images, source_boxes, targets


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 900), st.integers(1, 900))
def test_letter_box_has_the_size_and_scale_of_yolox(width, height, wide, high):
    """Sizes are rounded down in double precision, boxes scaled exactly; the image is at the upper left."""
    plan = planned(LetterBox((high, wide), fill=None), same_images(width, height))
    scale = min(high / height, wide / width)
    assert plan.size.tolist() == [[wide, high]]
    if len(plan.index):
        assert plan.clip[0, :2].tolist() == [0, 0]
        shown = (max(int(width * scale), 1), max(int(height * scale), 1))
        assert all(side <= most for side, most in zip(plan.clip[0, 2:].tolist(), shown, strict=True))
        np.testing.assert_allclose(plan.matrix[0], [[scale, 0, 0], [0, scale, 0]], rtol=1e-4, atol=1e-3)
    else:
        assert min(width * scale, height * scale) <= 0.5  # too thin to be seen


def test_letter_box_centers_and_fills():
    """Padding is 114 unless told otherwise, and on both sides if centered; boxes move with the image."""
    plan = planned(LetterBox(100, center=True))
    assert (plan.index[::2] == FILL).all() and (plan.color[::2, :, 3] == 114).all()
    found = targets(plan)
    for i, (width, height) in enumerate(CACHE.sizes.tolist()):
        scale = min(100 / width, 100 / height)
        corner = [(100 - int(side * scale)) // 2 for side in (width, height)]
        boxes = source_boxes(i) * scale + np.tile(corner, 2)
        np.testing.assert_allclose(found.boxes[i, : found.num_boxes[i]], boxes, atol=0.01)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 900))
def test_longest_edge_keeps_the_aspect_ratio(width, height, size):
    """The longer edge has the size, the shorter one is rounded half up, to at least 1."""
    plan = planned(LongestEdge(size), same_images(width, height))
    shorter = max(int(size * min(width, height) / max(width, height) + 0.5), 1)
    assert max(plan.size[0]) == size and abs(min(plan.size[0]) - shorter) <= (size * min(width, height) % 1 == 0.5)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 900), st.one_of(st.none(), st.integers(901, 1333)))
def test_shortest_edge_rounds_down_as_torchvision(width, height, size, most):
    """`Resize(size, max_size)`: the longer edge first, then the shorter one if the longer one is limited."""
    plan = planned(ShortestEdge(size, most, round_down=True), same_images(width, height))
    short, long = size, int(size * max(width, height) / min(width, height))
    if most is not None and long > most:
        short, long = int(most * short / long), most
    expected = [short, long] if width <= height else [long, short]
    assert plan.size.tolist() == [[max(side, 1) for side in expected]]


@pytest.mark.parametrize("name", FILTERS)
def test_the_last_filter_counts(name):
    """Resampling happens once, by the filter that was asked for last; bilinear needs no column."""
    plan = planned(Resize(9, filter=name), same_images(20, 20))
    assert (plan.filter is None) == (name == "bilinear")
    assert plan.filter is None or plan.filter.tolist() == [FILTERS.index(name)]
    Resize(8)(plan, np.random.default_rng(0), same_images(20, 20))
    assert plan.filter is None or plan.filter.tolist() == [0]


def test_sizes_are_drawn_for_batches_or_images():
    """Every size is as likely as it is frequent; images of a batch have one size unless told otherwise."""
    plan = drawn(RandomResize([8, 8, (4, 6)]), 50, 50, count=6000, batch=3)
    of_batches = plan.size.reshape(-1, 3, 2)
    assert (of_batches == of_batches[:, :1]).all()
    assert {tuple(size) for size in plan.size.tolist()} == {(8, 8), (6, 4)}
    single = drawn(RandomResize([8, 9, 10], per_batch=False), 50, 50, count=3000)
    assert_equally_likely(single.size[:, 0], [8, 9, 10])
    assert abs((of_batches[:, 0, 0] == 8).mean() - 2 / 3) < 0.06
