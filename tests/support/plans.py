"""Plans for tests of transforms, statistics of what they draw, and their boxes found without matrices of plans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fastload.batch import Targets, targets_of
from fastload.plan.align import TopLeftAlign
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms import Transform
from tests.support.memory_cache import MemoryCache

CACHE = MemoryCache(24)  # every fourth image, from the first on, has no boxes
IMAGES = ImageIndex(np.arange(24), CACHE.sizes, CACHE.box_offsets, CACHE.boxes)


def same_images(width: int, height: int, boxes: Sequence[Sequence[float]] = (), count: int = 1) -> ImageIndex:
    """`count` images of one size with the same boxes x0, y0, x1, y1."""
    of_all = np.tile(np.array(boxes, np.float32).reshape(-1, 4), (count, 1))
    return ImageIndex(
        np.arange(count), np.tile(np.array([[width, height]], np.int32), (count, 1)),
        np.arange(count + 1) * len(boxes), of_all,
    )  # fmt: skip


def planned(
    transforms: Transform | Sequence[Transform],
    images: ImageIndex = IMAGES,
    positions: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
    batch: int | None = None,
    epoch: int = 0,
) -> BatchPlan:
    """The plan of the images at `positions` (default: all) after transforms; in batches of `batch` images."""
    plan = images.plan(np.arange(len(images)) if positions is None else np.asarray(positions))
    plan.epoch = epoch
    plan.batch = None if batch is None else np.arange(len(plan.size), dtype=np.int32) // batch
    rng = np.random.default_rng(seed)
    for transform in [transforms] if isinstance(transforms, Transform) else transforms:
        transform(plan, rng, images)
    return plan


def drawn(transform: Transform, width: int = 9000, height: int = 7000, count: int = 2000, **settings) -> BatchPlan:
    """The plan of many images of one size: large, so that whole pixels do not change distributions."""
    return planned(transform, same_images(width, height, count=count), **settings)


def targets(plan: BatchPlan, positions: Sequence[int] | np.ndarray | None = None) -> Targets:
    """The targets of a plan of one batch of images of CACHE."""
    index = np.arange(len(plan.size)) if positions is None else np.asarray(positions)
    TopLeftAlign(divisor=1).place(plan, np.random.default_rng(0))
    (found,), _ = targets_of(plan, index, [len(index)], CACHE.annotations, torch.tensor([1, 7, 90]))
    return found


def source_boxes(image: int) -> np.ndarray:
    return CACHE.boxes[CACHE.box_offsets[image] : CACHE.box_offsets[image + 1]].astype(np.float64)


def moved(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The upright boxes around the corners of `boxes` (n, 4), each mapped by `matrix` (2 or 3, 3)."""
    found = []
    for x0, y0, x1, y1 in boxes.tolist():
        corners = np.array([matrix[:2] @ (x, y, 1) for x in (x0, x1) for y in (y0, y1)])
        found.append([*corners.min(0), *corners.max(0)])
    return np.array(found).reshape(-1, 4)


def clipped(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    return np.clip(boxes, 0, [width, height, width, height])


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """The one-sample test of Kolmogorov and Smirnov, at a level of one in a thousand."""
    share = (np.sort(np.ravel(values)) - low) / (high - low)
    count = len(share)
    distance = max((np.arange(1, count + 1) / count - share).max(), (share - np.arange(count) / count).max())
    assert share[0] >= -1e-6 and share[-1] <= 1 + 1e-6
    assert distance * np.sqrt(count) < 1.95


def assert_share(happens: np.ndarray, p: float) -> None:
    """As many values of a mask are set as a probability says, within four standard deviations."""
    count = np.size(happens)
    assert abs(np.count_nonzero(happens) - p * count) <= 4 * np.sqrt(count * p * (1 - p)) + 1e-9


def assert_equally_likely(values: np.ndarray, choices: Sequence[int] | np.ndarray) -> None:
    """Every choice is as frequent as the others, and there are no other values."""
    assert set(np.unique(values).tolist()) <= set(np.asarray(choices).tolist())
    for choice in choices:
        assert_share(np.asarray(values) == choice, 1 / len(choices))
