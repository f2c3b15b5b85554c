"""Transforms: what they do to sizes, pixels' places, colours and boxes."""

from __future__ import annotations

import colorsys
import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload import ColorJitter, Mosaic, RandomFlip, Resize, ScaleJitterCrop, ShortestEdge, Transform
from fastload.errors import ArgumentError
from fastload.plan.batch_plan import FILL, BatchPlan
from fastload.plan.image_index import ImageIndex

RECORDS = ImageIndex(np.arange(50) + 1000, np.tile(np.array([[640, 480], [300, 500]], np.int32), (25, 1)))


def planned(transform: Transform, count: int = 8, seed: int = 0, size=None) -> BatchPlan:
    size = RECORDS.size[:count] if size is None else np.array(size, np.int32)
    plan = BatchPlan.of(np.arange(len(size)), size)
    transform(plan, np.random.default_rng(seed), RECORDS)
    return plan


def detectron2_shape(height: int, width: int, size: int, max_size: int) -> tuple[int, int]:
    """The published rounding, written out for one image: (width, height)."""
    scale = size / min(height, width)
    high, wide = (size, scale * width) if height < width else (scale * height, size)
    if max(high, wide) > max_size:
        shrink = max_size / max(high, wide)
        high, wide = high * shrink, wide * shrink
    return max(int(wide + 0.5), 1), max(int(high + 0.5), 1)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 900), st.integers(1, 1400))
def test_shortest_edge_rounds_like_detectron2(width, height, size, max_size):
    """The size is detectron2's, but where binary fractions land exactly on a half."""
    plan = planned(ShortestEdge(size, max_size), size=[(width, height)])
    expected = detectron2_shape(height, width, size, max_size)
    assert np.abs(plan.size[0] - expected).max() <= 1
    scale = min(size / min(width, height), max_size / max(width, height))
    exact = np.array([width, height]) * scale
    if np.abs(exact % 1 - 0.5).min() > 1e-6:
        assert tuple(plan.size[0]) == expected


def test_shortest_edge_draws_a_size_per_image_or_per_batch():
    """Of several sizes each image has its own, unless the batch is to have one."""
    assert {min(size) for size in planned(ShortestEdge([100, 200]), 40).size.tolist()} == {100, 200}
    assert all(
        len(set(planned(ShortestEdge([100, 200], per_batch=True), 40, seed).size.min(1))) == 1 for seed in range(9)
    )


def test_resize_sets_height_and_width():
    """Resize takes (height, width), or one number for a square."""
    assert (planned(Resize((30, 40))).size == (40, 30)).all()
    assert (planned(Resize(64)).size == 64).all()


def test_flip_mirrors_about_the_share_asked_for():
    """Probabilities are kept: never, always, and about a quarter."""
    assert not planned(RandomFlip(0), 50).flip.any() and planned(RandomFlip(1), 50).flip.all()
    assert 800 < planned(RandomFlip(0.25), size=[(9, 9)] * 4000).flip.sum() < 1200


def test_scale_jitter_crop_stays_within_its_size_and_covers_its_range():
    """Crops never exceed the size; scales span the range; crops of enlarged images reach all their parts."""
    plan = planned(ScaleJitterCrop((200, 300), (0.1, 2.0)), size=[(600, 400)] * 2000)
    assert (plan.size <= (300, 200)).all()
    scale = plan.matrix[:, 0, 0] * 600 / 300
    assert scale.min() < 0.15 and scale.max() > 1.95 and 0.9 < np.median(scale) < 1.2
    large = scale > 1.8
    left, right = plan.crop[large, 0] / 600, (plan.crop[large, 0] + plan.crop[large, 2]) / 600
    assert left.min() < 0.02 and right.max() > 0.98
    small = scale < 0.9
    assert (plan.crop[small] == (0, 0, 600, 400)).all()


@pytest.mark.parametrize("size", [256, (200, 300)])
def test_mosaic_shows_four_images_around_a_point(size):
    """Four images over a ground, the asked-for one first, meet at a point; none overlaps or reaches beyond the edge."""
    height, width = (2 * size, 2 * size) if isinstance(size, int) else (2 * size[0], 2 * size[1])
    plan = planned(Mosaic(size), 6)
    assert (plan.size == (width, height)).all() and np.bincount(plan.slot).tolist() == [5] * 6
    assert (plan.index[::5] == FILL).all() and (plan.clip[::5] == (0, 0, width, height)).all()
    assert plan.index[1::5].tolist() == list(range(6)) and (plan.index[2::5] >= 1000).all()
    for slot in range(6):
        covered = np.zeros((height, width), int)
        for x, y, w, h in plan.clip[5 * slot + 1 : 5 * slot + 5]:
            covered[y : y + h, x : x + w] += 1
            assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        assert covered.max() == 1
        upper_left, lower_right = plan.clip[slot * 5 + 1], plan.clip[slot * 5 + 4]
        assert (upper_left[:2] + upper_left[2:] == lower_right[:2]).all()
        assert (np.abs(lower_right[:2] / (width, height) - 0.5) <= 0.26).all()


def test_mosaic_follows_other_edits():
    """Flip and crop of a mosaic move its parts together."""
    plan = planned(Mosaic(64), 3)
    mirrored = copy.deepcopy(plan)
    mirrored.flip_horizontally(np.ones(3, bool))
    assert (mirrored.clip[:, 0] == 128 - plan.clip[:, 0] - plan.clip[:, 2]).all() and mirrored.flip.all()


def apply_color(plan: BatchPlan, rgb) -> np.ndarray:
    return plan.color[:, :, :3] @ np.array(rgb, np.float64) + plan.color[:, :, 3]


def test_brightness_contrast_and_saturation_are_the_textbook_formulas():
    """Each alone is its formula with one factor from its range."""
    rgb = np.array([200.0, 100.0, 50.0])
    bright = apply_color(planned(ColorJitter(brightness=0.4), size=[(4, 4)] * 500), rgb) / rgb
    assert (
        np.ptp(bright, axis=1).max() < 1e-5
        and bright.min() < 0.65
        and bright.max() > 1.35
        and np.abs(bright - 1).max() <= 0.4
    )
    contrast = (apply_color(planned(ColorJitter(contrast=0.4)), rgb) - 128) / (rgb - 128)
    assert np.ptp(contrast, axis=1).max() < 1e-5
    grey = rgb @ (0.299, 0.587, 0.114)
    saturation = (apply_color(planned(ColorJitter(saturation=1.0)), rgb) - grey) / (rgb - grey)
    assert np.ptp(saturation, axis=1).max() < 1e-4 and saturation.min() >= 0 and saturation.max() <= 2


def test_hue_turns_colours_and_leaves_greys():
    """Greys are fixed, the mean of the channels too, and a third of a turn makes red green or blue."""
    plan = planned(ColorJitter(hue=0.5), size=[(4, 4)] * 300)
    np.testing.assert_allclose(apply_color(plan, (77, 77, 77)), 77, atol=1e-3)
    np.testing.assert_allclose(apply_color(plan, (200, 100, 50)).mean(1), 350 / 3, atol=1e-3)
    turned = apply_color(plan, (250, 0, 0))
    hues = [colorsys.rgb_to_hsv(*np.clip(c / 255, 0, 1))[0] for c in turned]
    assert min(hues) < 0.1 and max(hues) > 0.9 and any(0.3 < hue < 0.36 for hue in hues)


def test_no_jitter_is_the_identity():
    """All zero leaves colours exactly as they are."""
    np.testing.assert_allclose(planned(ColorJitter()).color, np.eye(3, 4)[None].repeat(8, 0), atol=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShortestEdge([]),
        lambda: ShortestEdge(0),
        lambda: ShortestEdge(0.5),
        lambda: ShortestEdge(512, 0),
        lambda: Resize((3, 4, 5)),
        lambda: Resize(0),
        lambda: Resize(2.5),
        lambda: RandomFlip(1.5),
        lambda: ScaleJitterCrop(512, (2.0, 0.1)),
        lambda: ColorJitter(hue=0.6),
        lambda: ColorJitter(brightness=-1),
        lambda: Mosaic(0),
    ],
)
def test_wrong_settings_are_refused(make):
    """Nonsense is an error where it is written, not in mid-epoch."""
    with pytest.raises(ArgumentError):
        make()


@pytest.mark.parametrize(
    "transform",
    [ShortestEdge([1, 2], 5), Resize((3, 4)), RandomFlip(0.3), ScaleJitterCrop(64), ColorJitter(0.1), Mosaic(64)],
)
def test_transforms_print_and_pickle(transform):
    """A transform's repr is how it is written, and it survives pickling."""
    assert eval(repr(transform)) == transform
    same = planned(pickle.loads(pickle.dumps(transform)), seed=4)
    assert np.array_equal(same.clip, planned(transform, seed=4).clip)


def test_the_base_class_asks_to_be_overridden():
    """A Transform without __call__ says what is missing."""
    with pytest.raises(NotImplementedError, match="does not override __call__"):
        planned(Transform())
