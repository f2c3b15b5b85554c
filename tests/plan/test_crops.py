"""Crops, padding and zooming: which window they draw, and which boxes are kept."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.plan.batch_plan import FILL
from fastload.plan.image_index import ImageIndex, PlannedBoxes
from fastload.plan.transforms import (
    CenterCrop,
    Pad,
    RandomIoUCrop,
    RandomResizedCrop,
    RandomSizeCrop,
    RandomZoomOut,
    ScaleJitterCrop,
)
from fastload.plan.transforms.crop import part_of_area, suitable
from tests.support.plans import (
    CACHE,
    IMAGES,
    assert_equally_likely,
    assert_share,
    assert_uniform,
    drawn,
    planned,
    same_images,
    source_boxes,
    targets,
)

BOXES = [[10, 10, 60, 90], [100, 20, 190, 60], [150, 100, 170, 130], [0, 0, 200, 150]]


def test_scale_jitter_draws_scale_and_place_uniformly():
    """The scale of an image, and the place of the window of one that is enlarged; one number for both if diagonal."""
    plan = drawn(ScaleJitterCrop((1000, 2000), (0.5, 3.0)), 200, 100, count=4000)
    assert_uniform(plan.matrix[:, 0, 0] / 10, 0.5, 3)
    large = plan.matrix[:, 0, 0] > 15
    share = -plan.matrix[large, :, 2] / (plan.matrix[large][:, [0, 1], [0, 1]] * (200, 100) - (2000, 1000) + 1)
    assert_uniform(share[:, 0], 0, 1)
    assert_uniform(share[:, 1], 0, 1)
    diagonal = drawn(ScaleJitterCrop((1000, 2000), (2.0, 2.0), diagonal=True), 200, 100)
    np.testing.assert_allclose(diagonal.matrix[:, 0, 2] / 2001, diagonal.matrix[:, 1, 2] / 1001, atol=2e-3)


@pytest.mark.parametrize(
    ("width", "height", "corner"),
    [(101, 80, (16, 20)), (103, 81, (16, 20)), (60, 35, (-5, -2)), (200, 37, (65, -1)), (70, 40, (0, 0))],
)
def test_center_crop_rounds_like_torchvision(width, height, corner):
    """Half to even when cropping, and down when padding on the left."""
    plan = planned(CenterCrop((40, 70)), same_images(width, height))
    assert plan.size.tolist() == [[70, 40]]
    np.testing.assert_allclose(plan.matrix[0, :, 2], -np.array(corner), atol=1e-4)


def test_pad_only_enlarges():
    """Larger sides stay, the image is at the upper left or in the middle, and the rest has the fill."""
    plan = planned(Pad((50, 80), fill=(1, 2, 3)), same_images(60, 70))
    assert plan.size.tolist() == [[80, 70]] and plan.clip[1].tolist() == [0, 0, 60, 70]
    assert plan.index[0] == FILL and plan.color[0, :, 3].tolist() == [1, 2, 3]
    assert planned(Pad(99, center=True), same_images(60, 70)).clip.tolist() == [[19, 14, 60, 70]]


def part_of_area_naively(width, height, scale, ratio, areas, aspects):
    """torchvision's rules for one image, given the draws of ten tries: width, height, and whether one fitted."""
    for area, aspect in zip(areas, aspects, strict=True):
        w, h = (round((width * height * area * by) ** 0.5) for by in (aspect, 1 / aspect))
        if 0 < w <= width and 0 < h <= height:
            return w, h, True
    if width / height < ratio[0]:
        return width, round(width / ratio[0]), False
    if width / height > ratio[1]:
        return round(height * ratio[1]), height, False
    return width, height, False


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_resized_crops_take_the_first_part_that_fits(width, height, seed):
    """Ten tries, then the central part, for images of any shape."""
    scale, ratio = (0.3, 1.0), (0.5, 1.5)
    (found,), (fitted,) = part_of_area(np.array([[width, height]]), scale, ratio, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    areas = rng.uniform(*scale, (1, 10))[0]
    aspects = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), (1, 10)))[0]
    w, h, expected = part_of_area_naively(width, height, scale, ratio, areas, aspects)
    assert (*found[2:].tolist(), fitted) == (max(w, 1), max(h, 1), expected)
    x, y = found[:2].tolist()
    assert 0 <= x <= width - w and 0 <= y <= height - h
    if not fitted:
        assert (x, y) == ((width - w) // 2, (height - h) // 2)


def test_resized_crops_draw_area_ratio_and_place_uniformly():
    """The area, the logarithm of the ratio, and the place; the part fills the size asked for."""
    plan = drawn(RandomResizedCrop((30, 40), (0.1, 0.4), (0.5, 2.0), filter="bicubic"), 9000, 9000)
    assert (plan.size == (40, 30)).all() and (plan.clip == (0, 0, 40, 30)).all()
    width, height = plan.crop[:, 2].astype(float), plan.crop[:, 3].astype(float)
    assert_uniform(width * height / 9000**2, 0.1, 0.4)
    assert_uniform(np.log(width / height), np.log(0.5), np.log(2))
    for axis in (0, 1):
        assert_uniform(plan.crop[:, axis] / (9000 - plan.crop[:, axis + 2]), 0, 1)
    assert plan.filter is not None and (plan.filter == 3).all()


def resized_crop_naively(width, height, scale, ratio, rng):
    """x, y, w, h as torchvision documents it, for one image: ten tries, then the middle."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, width - w), rng.randint(0, height - h), w, h
    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    return (width - w) // 2, (height - h) // 2, w, h


@pytest.mark.parametrize(
    ("width", "height", "scale", "ratio"),
    [
        (20, 16, (0.08, 1.0), (3 / 4, 4 / 3)),  # nearly always within ten tries
        (9, 13, (0.35, 1.0), (3 / 4, 4 / 3)),
        (24, 9, (0.45, 1.0), (3 / 4, 4 / 3)),  # the middle, in a third of the images
        (7, 24, (0.4, 0.8), (0.5, 0.9)),
    ],
)
def test_resized_crops_have_the_distribution_of_torchvision(width, height, scale, ratio):
    """Of the windows (x, y, w, h), sizes and places together, including the share of images without a fitting try."""
    count = 40_000
    plan = drawn(RandomResizedCrop(8, scale, ratio), width, height, count=count)
    rng = random.Random(1)
    naive = [resized_crop_naively(width, height, scale, ratio, rng) for _ in range(count)]
    ours = [tuple(window) for window in np.rint(plan.crop).astype(int).tolist()]
    for part in (slice(0, 4), slice(2, 4), slice(0, 1), slice(1, 2)):
        one, other = (Counter(window[part] for window in windows) for windows in (ours, naive))
        common = [window for window in one | other if one[window] + other[window] >= 20]
        pairs = [(one[window], other[window]) for window in common]
        rare = [count - sum(column) for column in zip(*pairs, strict=True)]
        pairs += [tuple(rare)] if sum(rare) >= 20 else []
        freedom = len(pairs) - 1
        chi_squared = sum((a - b) ** 2 / (a + b) for a, b in pairs)
        assert chi_squared < freedom + 4 * math.sqrt(2 * freedom) + 8, (part, chi_squared, freedom)


def test_size_crops_draw_every_size_and_place():
    """Width and height from the minimum to the smaller of the maximum and the side; places are all equally likely."""
    plan = drawn(RandomSizeCrop(3, 6), 8, 4, count=6000)
    assert_equally_likely(plan.size[:, 0], range(3, 7))
    assert_equally_likely(plan.size[:, 1], range(3, 5))
    for width in range(3, 7):
        assert_equally_likely(np.rint(plan.crop[plan.size[:, 0] == width, 0]), range(8 - width + 1))
    assert (drawn(RandomSizeCrop(9, 12), 8, 10).size[:, 0] == 8).all()


def test_zoom_out_draws_factor_and_place_uniformly():
    """A canvas of a factor times both sides with probability p, whose fill only zoomed images have."""
    plan = drawn(RandomZoomOut((1.0, 4.0), fill=9, p=0.7), count=3000)
    zoomed = (plan.size != (9000, 7000)).any(1)
    assert_share(zoomed, 0.7)
    assert_uniform(plan.size[zoomed] / (9000, 7000), 1, 4)
    assert (np.abs(plan.size[:, 0] / 9000 - plan.size[:, 1] / 7000) < 1e-3).all()
    images = plan.index >= 0
    assert (np.bincount(plan.slot) == 1 + zoomed).all() and (plan.color[~images, :, 3] == 9).all()
    room = (plan.size - (9000, 7000))[zoomed]
    enough = room.min(1) > 1000
    share = plan.clip[images][zoomed, :2][enough] / room[enough]
    assert_uniform(share[:, 0], 0, 1)
    assert_uniform(share[:, 1], 0, 1)


def test_zoom_out_rounds_down_and_keeps_boxes():
    """Canvas and corner are cut to whole pixels as in torchvision, and boxes are moved by the corner."""
    plan = planned([])
    rng = np.random.default_rng(0)
    factor, place = rng.uniform(1, 4, 24), rng.random((24, 2))
    RandomZoomOut().zoom(plan, factor, place)
    corners = []
    for i, (width, height) in enumerate(CACHE.sizes.tolist()):
        wide, high = int(width * factor[i]), int(height * factor[i])
        corners.append((int((wide - width) * place[i, 0]), int((high - height) * place[i, 1])))
        assert plan.size[i].tolist() == [wide, high]
    found = targets(plan)
    for i, corner in enumerate(corners):
        np.testing.assert_allclose(
            found.boxes[i, : found.num_boxes[i]], source_boxes(i) + np.tile(corner, 2), atol=1e-3
        )


def iou(box, window) -> float:
    common = np.prod(np.clip(np.minimum(box[2:], window[2:]) - np.maximum(box[:2], window[:2]), 0, None))
    area = np.prod(np.subtract(box[2:], box[:2])) + np.prod(np.subtract(window[2:], window[:2])) - common
    return common / area


def centers_within(boxes, window) -> np.ndarray:
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((center > window[:2]) & (center < window[2:])).all(1)


def test_windows_suit_if_a_centered_box_overlaps_enough():
    """SSD's rule, for each window by itself: boxes with centers outside do not count, however large their overlap."""
    rng = np.random.default_rng(0)
    slot_of = np.sort(rng.integers(0, 6, 30))
    low = rng.uniform(0, 80, (30, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 60, (30, 2))], 1).astype(np.float32)
    corner, extent = rng.integers(0, 60, (500, 2)), rng.integers(1, 60, (500, 2))
    slot, least = rng.choice(np.unique(slot_of), 500), rng.choice([0, 0.1, 0.3, 0.5], 500)
    found = suitable(
        np.concatenate([corner, extent], 1), slot, least, PlannedBoxes(boxes, slot_of, np.arange(30), np.arange(30))
    )
    for k in range(500):
        window = np.concatenate([corner[k], corner[k] + extent[k]]).astype(float)
        mine = boxes[slot_of == slot[k]].astype(float)
        mine = mine[centers_within(mine, window)]
        assert found[k] == (len(mine) > 0 and max(iou(box, window) for box in mine) >= least[k])
    assert 50 < found.sum() < 450


def naive_iou_crop(width, height, boxes, options, rng):
    """The loop that the paper describes, for one image: the window, or the whole image."""
    while True:
        least = rng.choice(options)
        if least >= 1:
            return np.array([0, 0, width, height])
        for _ in range(40):
            w, h = (int(side * (0.3 + 0.7 * rng.random())) for side in (width, height))
            if not 0.5 <= w / h <= 2:
                continue
            x, y = int((width - w) * rng.random()), int((height - h) * rng.random())
            window = np.array([x, y, x + w, y + h])
            mine = boxes[centers_within(boxes, window)]
            if len(mine) and max(iou(box, window) for box in mine) >= least:
                return window


@pytest.mark.parametrize("options", [(0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0), (0.7, 1.0), (0.9, 0.9, 1.0)])
def test_iou_crops_have_the_distribution_of_the_published_loop(options):
    """The share of whole images and the windows' distributions agree with a loop over trials (two-sample test)."""
    count = 1500
    plan = planned(RandomIoUCrop(sampler_options=options), same_images(200, 150, BOXES, count=count))
    rng = np.random.default_rng(1)
    boxes = np.array(BOXES, float)
    expected = np.array([naive_iou_crop(200, 150, boxes, options, rng) for _ in range(count)])
    x, y, w, h = np.rint(plan.crop).astype(int).T
    found = np.stack([x, y, x + w, y + h], 1)
    for column in range(4):
        levels = np.union1d(found[:, column], expected[:, column])
        one, other = (np.searchsorted(np.sort(v[:, column]), levels, "right") / count for v in (found, expected))
        assert np.abs(one - other).max() < 1.95 * np.sqrt(2 / count)
    whole = [(v == (0, 0, 200, 150)).all(1).mean() for v in (found, expected)]
    assert abs(whole[0] - whole[1]) < 4 * np.sqrt(0.5 / count)


def test_iou_crops_drop_boxes_with_centers_outside():
    """Others are clipped to the window; targets agree with what later transforms see."""
    plan = planned(RandomIoUCrop(sampler_options=(0.0, 1.0)), seed=2)
    crop = np.rint(plan.crop).astype(int)
    seen, cropped = IMAGES.boxes(plan), 0
    found = targets(plan)
    for i in range(24):
        window = np.concatenate([crop[i, :2], crop[i, :2] + crop[i, 2:]])
        mine = source_boxes(i)
        if (crop[i, 2:] != CACHE.sizes[i]).any():
            mine, cropped = mine[centers_within(mine, window)], cropped + 1
        low, high = np.tile(window[:2], 2), np.tile(window[2:], 2)
        expected = np.clip(mine, low, high) - low
        np.testing.assert_allclose(found.boxes[i, : found.num_boxes[i]], expected, atol=1e-3)
        np.testing.assert_allclose(seen.box[seen.slot == i], expected, atol=1e-3)
        assert len(expected) or not len(source_boxes(i))  # a window always has the center of a box
    assert cropped > 5


def test_iou_crops_leave_images_without_boxes_and_those_not_drawn():
    """Windows need a box; `p` is the probability of trying."""
    empty = ImageIndex(np.arange(5), np.full((5, 2), 50, np.int32))
    assert (planned(RandomIoUCrop(), empty).size == 50).all()
    assert (planned(RandomIoUCrop(), same_images(50, 50, count=5)).size == 50).all()
    images = same_images(200, 150, BOXES, count=3000)
    plan = planned(RandomIoUCrop(sampler_options=(0.0, 0.0, 1.0), p=0.6), images)
    assert_share((plan.size != (200, 150)).any(1), 0.6 * 2 / 3)


def test_iou_crops_of_two_trials_may_fail_and_draw_again():
    """Trials per minimum are counted: with fewer of them more images stay whole."""
    images = same_images(200, 150, [[10, 10, 60, 90]], count=2000)
    whole = [
        (planned(RandomIoUCrop(sampler_options=(0.5, 1.0), trials=trials), images).size == (200, 150)).all(1).mean()
        for trials in (2, 400)
    ]
    assert whole[0] > whole[1] + 0.05
