"""Keypoints in batches, against a reference that maps one point at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastload import Cache, FastLoader
from fastload.annotations import Column, keypoints_column
from fastload.batch import Targets, targets_of
from fastload.cache.format.layout import Encoding
from fastload.cache.write.build import BuildOptions
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
from fastload.plan.align import RandomAlign, TopLeftAlign
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from tests.cache.test_ragged_columns import build, sample
from tests.plan.test_all_transforms import ALL, ONE_SIZE, made
from tests.plan.test_geometry import random_map
from tests.support.datasets import encoded, jpeg, pixels

PAIRS = ((1, 2), (4, 3))
ORDER = [0, 2, 1, 4, 3]
SIZES = ((64, 48), (40, 60), (50, 50))  # width, height
EDGE = 0.01  # pixels: nearer to an edge, rounding decides whether a point is visible
COLUMNS = (
    keypoints_column(5, PAIRS),
    Column("trace", "float32", shape=(3,), moves="points", ragged=True),
    Column("which", "int64"),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    """Images of three sizes with 0 to 3 objects, whose keypoints lie anywhere, some outside or unlabeled."""
    folder, rng, number, samples = tmp_path_factory.mktemp("keypoints"), np.random.default_rng(0), 0, []
    for i in range(12):
        size = SIZES[i % 3]
        path: Path = folder / f"{i}.jpg"
        path.write_bytes(encoded(Image.fromarray(pixels(*size))))
        count = i % 4
        corner = rng.uniform(0, 0.6, (count, 2)) * size
        boxes = np.concatenate([corner, corner + rng.uniform(0.2, 0.4, (count, 2)) * size], 1)
        points = rng.uniform(-0.1, 1.1, (count, 5, 2)) * size
        points[:, 0] = size  # the very corner
        seen = rng.integers(0, 3, (count, 5, 1))
        keypoints = np.concatenate([points, seen], 2) * (seen > 0)
        numbers = list(range(number, number + count))
        number += count
        trace = [each[:k] for k, each in enumerate(keypoints)]
        samples.append(sample(path, boxes.tolist(), i, keypoints=keypoints, which=numbers, trace=trace))
    return build(samples, folder / "keypoints.lmdb", columns=COLUMNS)


def shown_points(plan: BatchPlan, row: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (K, 3) as a row of a placed plan shows them, and (K) whether rounding could decide otherwise."""
    x, y, w, h = plan.crop[row].astype(float)
    left, top, width, height = plan.clip[row].astype(float)
    shown, unsure = np.zeros_like(points, float), np.zeros(len(points), bool)
    turned = plan.warp is not None and not np.isnan(plan.warp[row]).any()
    for k, (px, py, v) in enumerate(points.astype(float)):
        if turned:
            a = plan.warp[row].astype(float)
            at = a @ [px, py, 1]
        else:
            along = (px - x) / w
            at = [left + width * (1 - along if plan.flip[row] else along), top + height * (py - y) / h]
        margin = min(
            px - x, x + w - px, py - y, y + h - py,
            at[0] - left, left + width - at[0], at[1] - top, top + height - at[1],
        )  # fmt: skip
        unsure[k] = v > 0 and abs(margin) < EDGE
        if v > 0 and margin >= 0:
            shown[k] = *at, v
    mirrored = np.linalg.det(plan.warp[row][:, :2]) < 0 if turned else plan.flip[row]
    return (shown[ORDER], unsure[ORDER]) if mirrored and len(points) == 5 else (shown, unsure)


def check(cache: Cache, plan: BatchPlan) -> int:
    """Compare the keypoints of a plan with those of the reference; returns how many objects were compared."""
    RandomAlign().place(plan, np.random.default_rng(1))
    slots = len(plan.size)
    found: Targets
    (found,), _ = targets_of(plan, np.arange(slots), [slots], cache.annotations, torch.tensor([1, 2]))
    image_of = np.arange(len(cache)).repeat(np.diff(cache.box_offsets))
    compared = 0
    for slot, target in enumerate(found):
        for number, keypoints, trace in zip(target["which"], target["keypoints"], target["trace"], strict=True):
            rows = np.flatnonzero((plan.slot == slot) & (plan.index == image_of[number]))
            stored = cache.columns["keypoints"][number]
            candidates = [shown_points(plan, row, stored) for row in rows]
            assert any(agrees(keypoints.numpy(), *each) for each in candidates), (keypoints, candidates)
            length = len(trace)
            candidates = [shown_points(plan, row, stored[:length]) for row in rows]
            assert any(agrees(trace.numpy(), *each) for each in candidates)
            compared += 1
    return compared


def agrees(found: np.ndarray, expected: np.ndarray, unsure: np.ndarray) -> bool:
    apart = np.abs(found - expected).max(1, initial=0)
    return bool((unsure | (apart < 0.02)).all())


def index_of(cache: Cache) -> ImageIndex:
    return ImageIndex(np.arange(len(cache)), cache.sizes, cache.box_offsets, cache.boxes)


@pytest.mark.parametrize("written", [each for each in ALL if each.partition("(")[0] not in ONE_SIZE])
def test_keypoints_follow_every_transform(cache, written):
    """Moved, cleared outside of what is visible, and exchanged where mirrored, also after a flip."""
    images, compared = index_of(cache), 0
    for seed in range(4):
        rng, plan = np.random.default_rng(seed), images.plan(np.arange(len(images)))
        for transform in (made(written), made("RandomFlip(p=0.5)")):
            transform(plan, rng, images)
        compared += check(cache, plan)
    assert compared


@given(st.integers(0, 2**32), st.lists(st.sampled_from(["resize", "crop", "flip", "transform"]), max_size=5))
@settings(deadline=None)
def test_keypoints_follow_any_edits(cache, seed, edits):
    """Any order of crops, flips, sizes and matrices, mirroring ones too."""
    images, rng = index_of(cache), np.random.default_rng(seed)
    plan = images.plan(np.arange(len(images)))
    n = len(images)
    for edit in edits:
        if edit == "resize":
            plan.resize(rng.integers(20, 90, (n, 2)))
        elif edit == "crop":
            plan.crop_to(np.concatenate([rng.integers(-5, 15, (n, 2)), rng.integers(20, 90, (n, 2))], 1))
        elif edit == "flip":
            plan.flip_horizontally(rng.random(n) < 0.5)
        else:
            matrices = np.stack([random_map(rng) for _ in range(n)])
            matrices[rng.random(n) < 0.3, 1] *= -1
            plan.transform(matrices, rng.integers(20, 90, (n, 2)))
    check(cache, plan)


def batch_of(cache: Cache, matrix: list[list[float]]) -> torch.Tensor:
    """The keypoints of the object of a single image of 64 x 48 after a matrix."""
    plan = index_of(cache).plan(np.array([0]))
    plan.transform(np.array([matrix]), np.array([[64, 48]]))
    TopLeftAlign().place(plan, np.random.default_rng(0))
    (found,), _ = targets_of(plan, np.array([0]), [1], cache.annotations, torch.tensor([1, 2]))
    return found.columns["keypoints"][0, 0]


def test_a_mirrored_person_has_its_left_on_the_other_side(tmp_path):
    """Flips in x or y exchange left and right; a turn by 180 degrees, which is both, does not."""
    (tmp_path / "a.jpg").write_bytes(jpeg())
    points = [[10, 10, 2], [20, 10, 1], [30, 10, 2], [0, 0, 0], [40, 20, 2]]
    cache = build(
        [sample(tmp_path / "a.jpg", [[5, 5, 50, 40]], keypoints=[points])], tmp_path / "c.lmdb", columns=COLUMNS[:1]
    )
    assert cache.store.columns[0].flip_pairs == ((1, 2), (3, 4))
    nose, left, right, _, other = points
    assert batch_of(cache, [[1, 0, 0], [0, 1, 0]]).tolist() == points
    assert batch_of(cache, [[-1, 0, 64], [0, 1, 0]]).tolist() == [
        [54, 10, 2], [34, 10, 2], [44, 10, 1], [24, 20, 2], [0, 0, 0]
    ]  # fmt: skip
    upside_down = batch_of(cache, [[1, 0, 0], [0, -1, 48]])
    assert upside_down.tolist() == [
        [x, 48 - y, v] if v else [0, 0, 0] for x, y, v in (nose, right, left, other, [0] * 3)
    ]
    turned = batch_of(cache, [[-1, 0, 64], [0, -1, 48]])
    assert turned.tolist() == [[64 - x, 48 - y, v] if v else [0, 0, 0] for x, y, v in points]
    shifted = batch_of(cache, [[1, 0, -20], [0, 1, 0]])
    assert shifted.tolist() == [[0, 0, 0], [0, 10, 1], [10, 10, 2], [0, 0, 0], [20, 20, 2]]


def test_pairs_survive_conversion_and_reach_the_loader(cache, tmp_path):
    """A converted cache has them, and so has a cache of several; batches of both are equal."""
    transcode_cache(cache.path, tmp_path / "d.lmdb", ReencodeOptions(Encoding.DCT))
    converted = Cache(tmp_path / "d.lmdb")
    assert converted.store.columns == cache.store.columns
    both = Cache([cache, converted], renumber=True)
    first, second = (
        torch.cat([targets.columns["keypoints"].flatten(0, 1) for _, targets in FastLoader(half, 12)])
        for half in (both.subset(range(12)), both.subset(range(12, 24)))
    )
    assert torch.equal(first, second) and first.any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_stored_as_in_a_mirror(tmp_path, orientation):
    """Annotations of the stored image are those of the upright one, left and right exchanged if it was mirrored."""
    picture = Image.fromarray(pixels(64, 48))
    picture.getexif()[0x0112] = orientation
    (tmp_path / "a.jpg").write_bytes(encoded(picture, exif=picture.getexif()))
    points = [[10, 10, 2], [20, 10, 1], [30, 10, 2], [0, 0, 0], [40, 20, 2]]
    one = sample(tmp_path / "a.jpg", [[5, 5, 50, 40]], size=(64, 48), keypoints=[points])
    options = BuildOptions(Encoding.ORIGINAL, exif_rotate=True)
    record = build([one], tmp_path / "c.lmdb", options, columns=COLUMNS[:1]).record(0)
    seen = record.columns["keypoints"][0, :, 2].astype(int).tolist()
    assert seen == ([2, 2, 1, 2, 0] if orientation in (5, 7) else [2, 1, 2, 0, 2])
