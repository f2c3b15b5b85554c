"""Mosaics, blends and covers: which images and parts they draw, in which layers, and whose boxes are kept."""

from __future__ import annotations

import numpy as np
import pytest

from fastload.errors import ArgumentError, PlanError
from fastload.plan.batch_plan import FILL
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms import (
    BatchMixUp,
    CutMix,
    GridMosaic,
    MixUp,
    Mosaic,
    MosaicAffine,
    RandomAffine,
    RandomErasing,
    RandomHSV,
    Resize,
)
from tests.support.plans import (
    CACHE,
    IMAGES,
    assert_share,
    assert_uniform,
    clipped,
    drawn,
    moved,
    planned,
    same_images,
    source_boxes,
    targets,
)

TWENTY_FOUR = np.arange(24)


def assert_boxes_near(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """The same boxes in the same order, but those of less than three pixels, which rounding may drop."""
    found, expected = (v[(v[:, 2:] - v[:, :2] > 3).all(1)] for v in (np.asarray(found), expected))
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_the_point_of_a_mosaic_is_uniform():
    """In the middle half of both axes, in whole pixels; the others are any images, and images without it stay."""
    plan = drawn(Mosaic((7000, 9000), p=0.6), count=3000)
    mosaic = (plan.size == (18000, 14000)).all(1)
    assert_share(mosaic, 0.6)
    first = np.diff(np.where(plan.index >= 0, plan.slot, -1), prepend=-1) > 0  # a fill may come before
    corner = (plan.clip[:, :2] + plan.clip[:, 2:])[first & mosaic[plan.slot]]
    assert_uniform(corner[:, 0] + 0.5, 4500, 13500)
    assert_uniform(corner[:, 1] + 0.5, 3500, 10500)
    others = plan.index[~first & (plan.index >= 0)]
    assert_uniform(others + np.random.default_rng(0).random(len(others)), 0, 3000)


def mosaic_naively(records, point, size):
    """YOLOX's mosaic of four records: the visible part (x0, y0, x1, y1) of each image, and its boxes."""
    (x, y), (wide, high) = point, size
    parts, boxes = [], []
    for k, record in enumerate(records):
        width, height = CACHE.sizes[record].tolist()
        scale = min(high / height, wide / width)
        w, h = int(width * scale), int(height * scale)
        left, top = x - w if k % 2 == 0 else x, y - h if k < 2 else y
        low, high_edge = ((max(left, 0), max(top, 0)), (min(left + w, 2 * wide), min(top + h, 2 * high)))
        parts.append([*low, *high_edge])
        boxes.append(source_boxes(record) * scale + np.tile([left, top], 2))
    return parts, boxes


def test_a_mosaic_is_that_of_yolox():
    """Four letterboxed images with one corner on the point; boxes within a pixel of the published ones."""
    rng = np.random.default_rng(0)
    others, point = rng.integers(24, size=(24, 3)), rng.integers((40, 25), (119, 74), (24, 2)).astype(np.int32)
    plan = planned([])
    Mosaic((50, 80)).arrange(plan, IMAGES, others, point)
    rows = plan.index >= 0
    assert (np.flatnonzero(~rows) == np.arange(0, 120, 5)).all()
    clips = plan.clip[rows].reshape(24, 4, 4).copy()
    assert (plan.index[rows].reshape(24, 4) == np.column_stack([TWENTY_FOUR, others])).all()
    found = targets(plan)
    for i in TWENTY_FOUR:
        parts, boxes = mosaic_naively([i, *others[i]], point[i], (80, 50))
        parts = np.array(parts)
        assert clips[i].tolist() == np.concatenate([parts[:, :2], parts[:, 2:] - parts[:, :2]], 1).tolist()
        expected = clipped(np.concatenate(boxes), 160, 100)
        assert_boxes_near(found.boxes[i, : found.num_boxes[i]], expected, 1)


def test_the_affine_step_of_a_mosaic_moves_the_boxes_of_all_its_images():
    """Mosaic and MosaicAffine in a row are the published steps: boxes clipped to the mosaic, mapped, clipped."""
    rng = np.random.default_rng(5)
    others, point = rng.integers(24, size=(24, 3)), rng.integers((40, 25), (119, 74), (24, 2)).astype(np.int32)
    plan = planned([])
    Mosaic((50, 80)).arrange(plan, IMAGES, others, point)
    affine = np.tile([0.1, 0.9, 5, 7], (24, 1))
    MosaicAffine((50, 80)).transform(plan, affine[:, 0], affine[:, 2:], affine[:, 1], np.zeros((24, 2)))
    cos, sin = 0.9 * np.cos(0.1), 0.9 * np.sin(0.1)
    matrix = np.array([[cos, sin, 5], [-sin, cos, 7]])
    found = targets(plan)
    for i in TWENTY_FOUR:
        _, boxes = mosaic_naively([i, *others[i]], point[i], (80, 50))
        whole = clipped(np.concatenate(boxes), 160, 100)
        expected = clipped(moved(whole, matrix), 80, 50)
        visible = (whole[:, 2:] > whole[:, :2]).all(1)
        mine = np.asarray(found.boxes[i, : found.num_boxes[i]])
        for box in expected[visible]:
            if (box[2:] - box[:2] > 3).all():
                assert np.abs(mine - box).max(1).min() < 1.5


def test_a_grid_mosaic_has_cells_of_the_largest_image():
    """DEIM's: shorter edges of one size, longer ones rounded down, images at the upper left of equal cells."""
    rng = np.random.default_rng(0)
    others = rng.integers(24, size=(24, 3))
    plan = planned([])
    GridMosaic(31).arrange(plan, IMAGES, others)
    found_size, clips = plan.size.copy(), plan.clip[plan.index >= 0].reshape(24, 4, 4).copy()
    found = targets(plan)
    for i in TWENTY_FOUR:
        records = [i, *others[i]]
        sizes = np.array([[int(31 * s / min(CACHE.sizes[r])) for s in CACHE.sizes[r].tolist()] for r in records])
        cell = sizes.max(0)
        assert found_size[i].tolist() == (2 * cell).tolist() and (clips[i, :, 2:] == sizes).all()
        corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * cell
        boxes = [
            source_boxes(r) * np.tile(size / CACHE.sizes[r], 2) + np.tile(corner, 2)
            for r, size, corner in zip(records, sizes, corners, strict=True)
        ]
        np.testing.assert_allclose(found.boxes[i, : found.num_boxes[i]], np.concatenate(boxes), atol=0.01)
    positions = planned(GridMosaic(8), same_images(9, 9, count=2000)).index.reshape(-1, 5)[:, 2:]
    assert_uniform(positions + rng.random(positions.shape), 0, 2000)


def test_mix_up_draws_scale_mirror_and_place_uniformly(monkeypatch):
    """The other image is any with boxes; images whose sources have none are not blended."""
    found = {}

    def record(self, plan, images, slots, others, jitter, flip, place):
        found.update(slots=slots, others=others, jitter=jitter, flip=flip, place=place)

    monkeypatch.setattr(MixUp, "mix", record)
    counts = np.tile([0, 2, 1, 0], 500)
    images = ImageIndex(
        np.arange(2000), np.full((2000, 2), 50, np.int32), np.concatenate([[0], counts.cumsum()]),
        np.tile(np.array([[1, 2, 9, 8]], np.float32), (1500, 1)),
    )  # fmt: skip
    planned(MixUp((0.4, 1.6), p=0.8), images)
    assert (counts[found["slots"]] > 0).all() and (counts[found["others"]] > 0).all()
    assert_share(np.isin(np.flatnonzero(counts), found["slots"]), 0.8)
    rank = np.searchsorted(images.with_boxes, found["others"])
    assert_uniform(rank + np.random.default_rng(0).random(len(rank)), 0, 1000)
    assert_uniform(found["jitter"], 0.4, 1.6)
    assert_share(found["flip"], 0.5)
    assert_uniform(found["place"], 0, 1)


def test_mix_up_blends_the_published_layers():
    """Letterboxed with 114, scaled, mirrored, black beyond, cropped, at half opacity; the boxes of both are kept."""
    rng = np.random.default_rng(0)
    plan = planned(Resize((40, 60)))
    others = rng.choice(IMAGES.with_boxes, 24)
    jitter, flip, place = rng.uniform(0.5, 1.5, 24), rng.random(24) < 0.5, rng.random((24, 2))
    MixUp().mix(plan, IMAGES, TWENTY_FOUR, others, jitter, flip, place)
    assert plan.index.reshape(24, 4).tolist() == [[i, FILL, FILL, other] for i, other in enumerate(others)]
    assert plan.layer is not None and plan.alpha is not None
    assert plan.layer.reshape(24, 4).tolist() == [[0, i, i, i] for i in range(1, 25)]
    assert plan.alpha.reshape(24, 4).tolist() == [[1, 0.5, 1, 1]] * 24
    assert (plan.color.reshape(24, 4, 3, 4)[:, 1:3, :, 3] == [[0], [114]]).all()
    assert (plan.clip[1::4] == (0, 0, 60, 40)).all()
    gray = plan.clip[2::4].copy()
    found = targets(plan)
    for i in TWENTY_FOUR:
        width, height = CACHE.sizes[others[i]].tolist()
        letter = min(40 / height, 60 / width)
        wide, high = int(60 * jitter[i]), int(40 * jitter[i])
        x, y = int(place[i, 0] * max(wide - 60, 0)), int(place[i, 1] * max(high - 40, 0))
        assert gray[i].tolist() == [0, 0, min(wide - x, 60), min(high - y, 40)]
        boxes = clipped(source_boxes(others[i]) * letter * jitter[i], wide, high)
        if flip[i]:
            boxes[:, [0, 2]] = wide - boxes[:, [2, 0]]
        boxes = clipped(boxes - (x, y, x, y), 60, 40)
        own = source_boxes(i) * np.tile((60, 40) / CACHE.sizes[i], 2)
        assert_boxes_near(found.boxes[i, : found.num_boxes[i]], np.concatenate([own, boxes]), 1)
    assert "mix_weight" not in found.columns


def test_a_blended_image_takes_further_edits():
    """Colors, turns and resizes after a blend keep its layers in order, each beginning with its ground."""
    plan = planned([Resize(64), MixUp(), RandomHSV(), RandomAffine(20, fill=7), MixUp(), Resize(32)])
    assert plan.layer is not None
    for slot in range(24):
        rows = np.flatnonzero(plan.slot == slot)
        layers = plan.layer[rows]
        starts = np.flatnonzero(np.diff(layers, prepend=0) != 0)
        for start in starts[layers[starts] > 0]:
            assert plan.index[rows[start]] == FILL
        runs = layers[np.concatenate([[0], np.flatnonzero(np.diff(layers)) + 1])]
        assert len(set(runs[runs > 0].tolist())) == (runs > 0).sum()


@pytest.mark.parametrize("batch", [None, 8, 5])
def test_batch_mix_up_takes_the_image_before_in_the_batch(batch):
    """The first of a batch gets the last; shares are opacities and weights; boxes of both are kept."""
    plan = planned(Resize(40), batch=batch)
    share = np.random.default_rng(0).uniform(0.45, 0.55, 24)
    length = batch or 24
    BatchMixUp().mix(plan, share)
    before = [(i - i % length) + (i % length - 1) % min(length, 24 - (i - i % length)) for i in range(24)]
    assert plan.index.reshape(24, 3).tolist() == [[i, FILL, before[i]] for i in range(24)]
    assert plan.alpha is not None
    np.testing.assert_allclose(plan.alpha.reshape(24, 3)[:, 1], 1 - share, rtol=1e-6)
    found = targets(plan)
    for i in range(24):
        mine, theirs = (source_boxes(k) * np.tile(40 / CACHE.sizes[k], 2) for k in (i, before[i]))
        n = found.num_boxes[i]
        np.testing.assert_allclose(found.boxes[i, :n], np.concatenate([mine, theirs]), atol=1e-3)
        weight = np.repeat([share[i], 1 - share[i]], [len(mine), len(theirs)])
        np.testing.assert_allclose(found.columns["mix_weight"][i, :n], weight, rtol=1e-6)
        assert not found.columns["mix_weight"][i, n:].any()


def test_batch_mix_up_draws_for_batches():
    """A batch is mixed with probability p, with one share that is uniform."""
    plan = drawn(BatchMixUp((0.3, 0.7), p=0.4), 9, 9, count=9000, batch=3)
    mixed = np.bincount(plan.slot).reshape(-1, 3) == 3
    assert (mixed == mixed[:, :1]).all()
    assert_share(mixed[:, 0], 0.4)
    assert plan.alpha is not None
    alpha = plan.alpha[plan.index == FILL].reshape(-1, 3)
    assert (alpha == alpha[:, :1]).all()
    assert_uniform(alpha[:, 0], 0.3, 0.7)


def test_batch_mix_up_leaves_batches_of_one_image_and_refuses_other_sizes():
    """There is no image before the only one; images of several sizes cannot be blended, nor can blends."""
    assert len(planned(BatchMixUp(p=1), batch=1).index) == 24
    with pytest.raises(ArgumentError, match="BatchMixUp needs images of one size"):
        planned(BatchMixUp(p=1))
    with pytest.raises(PlanError, match="already blended"):
        planned([Resize(9), BatchMixUp(p=1), BatchMixUp(p=1)])


def test_cut_mix_draws_area_center_and_image():
    """The area is 1 - Beta, its center uniform; the other image is any, scaled to the image without its aspect."""
    plan = drawn(CutMix(p=0.7), 9000, 9000, count=3000)
    cut = np.bincount(plan.slot) == 2
    assert_share(cut, 0.7)
    second = np.flatnonzero(np.diff(plan.slot, prepend=-1) == 0)
    clip = plan.clip[second]
    inner = ((clip[:, :2] > 0) & (clip[:, :2] + clip[:, 2:] < 9000)).all(1)
    assert np.abs(clip[inner, 2] - clip[inner, 3]).max() == 0
    others = plan.index[second]
    assert_uniform(others + np.random.default_rng(0).random(len(others)), 0, 3000)
    np.testing.assert_allclose(plan.crop[second], clip, atol=1e-2)
    center = clip[:, :2] + clip[:, 2:] / 2
    assert_uniform(np.concatenate([center[(clip[:, 2:] < 900).all(1)]]), 0, 9000)


def test_the_area_of_cut_mix_has_the_distribution_of_the_paper():
    """One minus a draw of Beta(alpha, alpha), cut at the edges, as a loop over images draws it."""
    plan = drawn(CutMix(2.0, p=1), 900, 600, count=3000)
    second = np.flatnonzero(np.diff(plan.slot, prepend=-1) == 0)
    areas = np.zeros(3000)
    areas[plan.slot[second]] = plan.clip[second, 2:].prod(1)
    rng = np.random.default_rng(7)
    expected = []
    for share in 1 - rng.beta(2, 2, 3000):
        wide, high = int(900 * 0.5 * share**0.5), int(600 * 0.5 * share**0.5)
        x, y = rng.integers(900), rng.integers(600)
        expected.append((min(x + wide, 900) - max(x - wide, 0)) * (min(y + high, 600) - max(y - high, 0)))
    levels = np.union1d(areas, expected)
    one, other = (np.searchsorted(np.sort(values), levels, "right") / 3000 for values in (areas, expected))
    assert np.abs(one - other).max() < 1.95 * np.sqrt(2 / 3000)


def test_cut_mix_keeps_boxes_of_both():
    """Those of the image whole, and those of the other one within the rectangle."""
    plan = planned(CutMix(p=1, min_visible=0.3))
    others, clips = {}, {}
    for row in np.flatnonzero(np.diff(plan.slot, prepend=-1) == 0):
        others[int(plan.slot[row])], clips[int(plan.slot[row])] = int(plan.index[row]), plan.clip[row].copy()
    found = targets(plan)
    assert len(others) > 12
    for i, other in others.items():
        x, y, w, h = clips[i].tolist()
        whole = source_boxes(other) * np.tile(CACHE.sizes[i] / CACHE.sizes[other], 2)
        boxes = np.clip(whole, (x, y, x, y), (x + w, y + h, x + w, y + h))
        sides = boxes[:, 2:] - boxes[:, :2]
        share = sides.prod(1) / (whole[:, 2:] - whole[:, :2]).prod(1)
        kept = (np.abs(boxes - whole).max(1) <= 1 / 64) | ((sides >= 1).all(1) & (share >= 0.3))
        expected = np.concatenate([source_boxes(i), boxes[kept]])
        np.testing.assert_allclose(found.boxes[i, : found.num_boxes[i]], expected, atol=0.01)


def test_erasing_draws_area_ratio_place_and_color():
    """A fill of a random part in the share asked for; one color, or one for each rectangle."""
    plan = drawn(RandomErasing(0.7, (0.02, 0.2), (0.5, 2.0), value="random"), 9000, 9000, count=3000)
    erased = np.bincount(plan.slot) == 2
    assert_share(erased, 0.7)
    fills = plan.index == FILL
    width, height = plan.clip[fills, 2].astype(float), plan.clip[fills, 3].astype(float)
    assert_uniform(width * height / 9000**2, 0.02, 0.2)
    assert_uniform(np.log(height / width), np.log(0.5), np.log(2))
    for axis in (0, 1):
        assert_uniform(plan.clip[fills, axis] / (9000 - plan.clip[fills, axis + 2]), 0, 1)
    colors = plan.color[fills, :, 3]
    assert_uniform(colors + np.random.default_rng(0).random(colors.shape), 0, 256)
    assert (plan.color[fills, :, :3] == np.eye(3)).all()
    one = drawn(RandomErasing(1, value=(1, 2, 3)), 90, 90)
    assert (one.color[one.index == FILL, :, 3] == (1, 2, 3)).all()


def test_erasing_never_covers_a_whole_side():
    """Of a strip of one pixel nothing is erased, and boxes stay."""
    assert (drawn(RandomErasing(1), 1, 100).index >= 0).all()
    plan = drawn(RandomErasing(1, (0.3, 1.0)), 5, 5)
    fills = plan.index == FILL
    assert fills.any() and (plan.clip[fills, 2:] < 5).all()
    plan = planned(RandomErasing(1))
    found = targets(plan)
    assert list(found.num_boxes) == [len(source_boxes(i)) for i in range(24)]
