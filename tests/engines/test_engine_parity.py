"""One set of plans, executed by every engine: each is compared with Pillow, and with the reference engine."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image

from fastload import _core
from fastload.engines.reference import ReferenceEngine
from fastload.plan.batch_plan import BatchPlan
from tests.engines.test_engines import FILL, KINDS, REAL, execute, jpeg_of_kind, smooth
from tests.support.engines import ENGINES, THREADED, open_engine
from tests.support.records import cache_of, jpeg, record

# Mean differences in levels, where filters differ. Beyond an image's edge DALI sees its last pixels repeated, all
# others weigh the pixels there are. DALI and Pillow repeat 4:1:1 chroma over its four pixels, the rest interpolate it.
FROM_PILLOW = {
    ("dali", "to a hundredth"): 5.0,
    ("native", "4:1:1"): 2.0,
    ("reference", "4:1:1"): 2.0,
}
FROM_REFERENCE = {("dali", "to a tenth"): 1.0, ("dali", "to a hundredth"): 5.0, ("dali", "4:1:1"): 2.0}


@cache
def pictures() -> tuple[bytes, ...]:
    """Photographs, or smooth pictures where there are none."""
    return tuple(path.read_bytes() for path in REAL[:4]) or tuple(jpeg(smooth(200, 300 + i, i)) for i in range(4))


def plan_of(records: tuple[bytes, ...]) -> BatchPlan:
    heads = [_core.jpeg_header(data) for data in records]
    return BatchPlan.of(np.arange(len(heads)), np.array([(h.width, h.height) for h in heads], np.int32))


def placed(plan: BatchPlan, margin: int = 0) -> BatchPlan:
    """On the smallest canvas and `margin`, each image elsewhere on it."""
    room = plan.size.max(0) + margin - plan.size
    plan.place(plan.size.max(0) + margin, (room * np.linspace(0, 1, len(room))[:, None]).astype(np.int32), FILL)
    return plan


def scaled(share: float) -> Callable[[BatchPlan], None]:
    return lambda plan: plan.resize((plan.size * share).astype(np.int32))


def cropped(plan: BatchPlan) -> None:
    """The window of a scaled image, so that crops are fractions of source pixels, beyond its edge in part."""
    scaled(0.77)(plan)
    plan.crop_to(np.concatenate([plan.size // 5, plan.size], 1))


def mirrored(plan: BatchPlan) -> None:
    plan.flip_horizontally(np.arange(len(plan.size)) % 2 == 0)


def recolored(plan: BatchPlan) -> None:
    """Mixed channels, and colours that leave the range on both ends."""
    color = np.array([[1.3, 0.2, -0.1, 20], [0, 0.8, 0.1, -60], [0.3, 0.1, 0.7, 5]], np.float32)
    plan.recolor(color[None].repeat(len(plan.size), 0))


def mosaic(plan: BatchPlan) -> None:
    """All four on the second of three slots; the others stay empty."""
    plan.resize(np.array([[200, 150], [90, 150], [210, 60], [80, 70]], np.int32))
    corner = np.array([[0, 0], [200, 0], [10, 150], [220, 150]], np.int32)
    plan.compose(np.ones(4, np.int32), corner, np.array([[300, 225]] * 3, np.int32))


EDITS = {
    "unchanged": [],
    "to a hundredth": [scaled(0.01)],
    "to a tenth": [scaled(0.1)],
    "to a third": [scaled(0.31)],
    "to four fifths": [scaled(0.8)],
    "enlarged": [scaled(1.6)],
    "cropped": [cropped],
    "mirrored": [scaled(0.5), mirrored],
    "cropped and mirrored twice": [mirrored, cropped, mirrored, scaled(0.7), mirrored],
    "recoloured": [scaled(0.6), recolored],
    "everything": [cropped, mirrored, recolored],
    "mosaic": [mosaic, mirrored],
}
CASES = (*EDITS, *KINDS)


def case(name: str) -> tuple[tuple[bytes, ...], BatchPlan]:
    """JPEGs and what to do with them."""
    if name in KINDS:
        images = tuple(jpeg_of_kind(smooth(233, 311 + i, i), name) for i in range(2))
        edits = [scaled(0.71), mirrored, recolored]
    else:
        images, edits = pictures()[: 4 if name == "mosaic" else 2], EDITS[name]
    plan = plan_of(images)
    for edit in edits:
        edit(plan)
    return images, placed(plan, margin=7)


def by_pillow(images: tuple[bytes, ...], plan: BatchPlan) -> np.ndarray:
    """What a plan means, by Pillow: it converts to RGB, crops and scales in one step, then the rest is put on top."""
    canvases = np.full((len(plan.size), *plan.canvas[::-1], 3), plan.fill, np.uint8)
    for row, (x, y, w, h) in enumerate(plan.clip.tolist()):
        left, top, width, height = plan.crop[row].tolist()
        with Image.open(io.BytesIO(images[plan.index[row]])) as image:
            box = (left, top, min(left + width, image.width), min(top + height, image.height))
            pixels = np.asarray(image.convert("RGB").resize((w, h), Image.Resampling.BILINEAR, box=box))
        pixels = pixels[:, ::-1] if plan.flip[row] else pixels
        pixels = pixels @ plan.color[row, :, :3].T + plan.color[row, :, 3]
        canvases[plan.slot[row], y : y + h, x : x + w] = np.rint(pixels.clip(0, 255))
    return canvases


def covered(plan: BatchPlan) -> np.ndarray:
    """(B, H, W) where pictures are."""
    mask = np.zeros((len(plan.size), *plan.canvas[::-1]), bool)
    for slot, (x, y, w, h) in zip(plan.slot, plan.clip.tolist(), strict=True):
        mask[slot, y : y + h, x : x + w] = True
    return mask


def mean_difference(one: np.ndarray, other: np.ndarray, plan: BatchPlan) -> float:
    """In levels, over the pixels of pictures; all else must be equal."""
    inside = covered(plan)
    assert (one[~inside] == FILL).all() and (other[~inside] == FILL).all()
    return float(np.abs(one[inside].astype(int) - other[inside]).mean())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_with_pillow(engine: str, name: str) -> None:
    """Crop, size, flip, offset, fill and colour are the plan's: within 1.5 levels of Pillow on average."""
    images, plan = case(name)
    canvases = execute(open_engine(engine, cache_of([record(data) for data in images]), 2), plan)
    assert mean_difference(canvases, by_pillow(images, plan), plan) <= FROM_PILLOW.get((engine, name), 1.5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", THREADED)
def test_engines_agree_with_the_reference(engine: str, name: str) -> None:
    """The same plan gives the reference's pixels, within half a level on average unless FROM_REFERENCE says why not."""
    images, plan = case(name)
    records = cache_of([record(data) for data in images])
    expected = execute(ReferenceEngine(records), plan)
    canvases = execute(open_engine(engine, records, 2), plan)
    assert mean_difference(canvases, expected, plan) <= FROM_REFERENCE.get((engine, name), 0.5)
