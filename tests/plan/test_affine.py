"""Mirrors, turns and affine maps: their parameters, matrices and boxes."""

from __future__ import annotations

import numpy as np
import pytest

from fastload.plan.batch_plan import FILL
from fastload.plan.transforms import (
    MosaicAffine,
    RandomAffine,
    RandomFlip,
    RandomPerspective,
    RandomRotate90,
    RandomScaleTranslate,
    RandomVerticalFlip,
    Resize,
)
from tests.support.plans import (
    CACHE,
    IMAGES,
    assert_equally_likely,
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


def translation(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def linear(values: list[list[float]]) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, :2] = values
    return matrix


def parameters_of(transform, monkeypatch) -> dict[str, np.ndarray]:
    """What a transform that has a method `transform` passes to it."""
    found: dict[str, np.ndarray] = {}
    monkeypatch.setattr(type(transform), "transform", lambda self, plan, **values: found.update(values))
    drawn(transform, 1000, 800)
    return found


def assert_boxes(plan, maps: list[np.ndarray], size: list[tuple[int, int]]) -> None:
    """The boxes of a plan, seen by transforms and in targets, are the corners mapped by `maps` and clipped."""
    seen = IMAGES.boxes(plan)
    assert (plan.size == size).all()
    found = targets(plan)
    for slot, (matrix, (width, height)) in enumerate(zip(maps, size, strict=True)):
        np.testing.assert_allclose(plan.matrix[plan.index == slot][0], matrix[:2], rtol=1e-5, atol=1e-3)
        whole = moved(source_boxes(slot), matrix)
        boxes = clipped(whole, width, height)
        sides = boxes[:, 2:] - boxes[:, :2]
        cut = np.abs(boxes - whole).max(1) > 1 / 64
        share = sides.prod(1) / (whole[:, 2:] - whole[:, :2]).prod(1)
        kept = ~(cut & ((sides < 1).any(1) | (share < plan.min_visible)))
        np.testing.assert_allclose(found.boxes[slot, : found.num_boxes[slot]], boxes[kept], atol=5e-3)
        np.testing.assert_allclose(seen.box[seen.slot == slot], boxes[(sides > 0).all(1)], atol=5e-3)


@pytest.mark.parametrize("transform", [RandomFlip(0.3), RandomVerticalFlip(0.3)])
def test_flips_mirror_the_share_asked_for(transform):
    """An image is mirrored with probability p, and boxes go to the other side."""
    plan = drawn(transform, 100, 80)
    axis = int(isinstance(transform, RandomVerticalFlip))
    assert_share(plan.matrix[:, axis, axis] < 0, 0.3)
    plan = planned(type(transform)(1))
    maps = []
    for width, height in CACHE.sizes.tolist():
        flip = np.array([[-1, 0, width], [0, 1, 0]] if axis == 0 else [[1, 0, 0], [0, -1, height]], float)
        maps.append(flip)
    assert_boxes(plan, maps, CACHE.sizes.tolist())


def test_quarter_turns_are_equally_likely():
    """With probability p an image is turned 0 to 3 times, so 1 - 3/4 p of them stay."""
    plan = drawn(RandomRotate90(0.8), 100, 80, count=4000)
    angle = np.rint(np.degrees(np.arctan2(-plan.matrix[:, 1, 0], plan.matrix[:, 0, 0]))) % 360
    assert_share(angle == 0, 1 - 0.6)
    assert_equally_likely(angle[angle != 0], [90, 180, 270])


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_are_counterclockwise(turns):
    """A corner goes where turning an image by np.rot90 brings it, and boxes follow."""
    plan = planned([])
    RandomRotate90().turn(plan, np.full(24, turns))
    maps = []
    for width, height in CACHE.sizes.tolist():
        matrix = np.eye(3)
        for _ in range(turns):
            matrix = np.array([[0, 1, 0], [-1, 0, width], [0, 0, 1]]) @ matrix  # the right edge becomes the upper one
            width, height = height, width
        maps.append(matrix)
    pixels = np.zeros((40, 60))
    pixels[10, 50] = 1
    y, x = np.argwhere(np.rot90(pixels, turns))[0]
    np.testing.assert_allclose(plan.matrix[0] @ (50.5, 10.5, 1), (x + 0.5, y + 0.5), atol=1e-5)
    assert_boxes(plan, maps, CACHE.sizes[:, ::-1].tolist() if turns % 2 else CACHE.sizes.tolist())


def test_random_affine_draws_uniform_parameters(monkeypatch):
    """Angle, shift, scale and shear are torchvision's, in its units; shifts are whole pixels."""
    found = parameters_of(RandomAffine(30, (0.1, 0.4), (0.5, 2.0), (10, 20)), monkeypatch)
    assert_uniform(np.degrees(found["angle"]), -30, 30)
    assert_uniform(found["shift"][:, 0] + np.random.default_rng(0).uniform(-0.5, 0.5, 2000), -100.5, 100.5)
    assert_uniform(found["shift"][:, 1] + np.random.default_rng(0).uniform(-0.5, 0.5, 2000), -320.5, 320.5)
    assert (found["shift"] == np.rint(found["shift"])).all()
    assert_uniform(found["scale"], 0.5, 2)
    assert_uniform(np.degrees(found["shear"][:, 0]), -10, 10)
    assert_uniform(np.degrees(found["shear"][:, 1]), -20, 20)


def test_one_angle_of_shear_is_that_in_x(monkeypatch):
    """As in torchvision."""
    found = parameters_of(RandomAffine(0, shear=15), monkeypatch)
    assert_uniform(np.degrees(found["shear"][:, 0]), -15, 15)
    assert not found["shear"][:, 1].any()


def test_random_affine_is_a_product_about_the_center():
    """Shear in x, shear in y, scale, rotation, shift: the definition that torchvision documents; boxes follow."""
    rng = np.random.default_rng(0)
    plan = planned([])
    angle, scale = rng.uniform(-1, 1, 24), rng.uniform(0.5, 1.5, 24)
    shift, shear = np.rint(rng.uniform(-9, 9, (24, 2))), rng.uniform(-0.4, 0.4, (24, 2))
    RandomAffine(0, fill=3, min_visible=0.2).transform(plan, angle, shift, scale, shear)
    maps = []
    for i, (width, height) in enumerate(CACHE.sizes.tolist()):
        cos, sin = np.cos(angle[i]), np.sin(angle[i])
        turn, size = linear([[cos, -sin], [sin, cos]]), linear([[scale[i], 0], [0, scale[i]]])
        along_y, along_x = linear([[1, 0], [-np.tan(shear[i, 1]), 1]]), linear([[1, -np.tan(shear[i, 0])], [0, 1]])
        center = translation(width / 2, height / 2)
        maps.append(translation(*shift[i]) @ center @ turn @ size @ along_y @ along_x @ np.linalg.inv(center))
    assert (plan.index[::2] == FILL).all() and (plan.color[::2, :, 3] == 3).all()
    assert_boxes(plan, maps, CACHE.sizes.tolist())


def test_scale_and_translate_stay_axis_aligned():
    """Without rotation no row is warped, the matrix is exact, and both parameters are uniform."""
    plan = drawn(RandomScaleTranslate((0.5, 1.5), 0.2))
    assert plan.warp is None and plan.min_visible == pytest.approx(0.1)
    scale = plan.matrix[:, 0, 0]
    assert_uniform(scale, 0.5, 1.5)
    np.testing.assert_allclose(plan.matrix[:, 1, 1], scale, rtol=1e-5)
    center = plan.matrix[:, :, 2] + scale[:, None] * (4500, 3500)
    assert_uniform(center[:, 0] - 4500, -1800, 1800)
    assert_uniform(center[:, 1] - 3500, -1400, 1400)


def test_mosaic_affine_draws_uniform_parameters(monkeypatch):
    """YOLOX's ranges; the shift is a share of the result, not of the mosaic."""
    found = parameters_of(MosaicAffine((320, 640)), monkeypatch)
    assert_uniform(np.degrees(found["angle"]), -10, 10)
    assert_uniform(found["shift"][:, 0], -64, 64)
    assert_uniform(found["shift"][:, 1], -32, 32)
    assert_uniform(found["scale"], 0.1, 2)
    assert_uniform(np.degrees(found["shear"]), -2, 2)


def test_the_matrix_of_mosaic_affine_is_the_published_one():
    """A rotation about the origin as OpenCV builds it, each row plus a shear times the other row, and the shift."""
    rng = np.random.default_rng(1)
    plan = planned([])
    angle, scale = rng.uniform(-0.3, 0.3, 24), rng.uniform(0.5, 1.5, 24)
    shift, shear = rng.uniform(-9, 9, (24, 2)), rng.uniform(-0.2, 0.2, (24, 2))
    MosaicAffine((50, 70)).transform(plan, angle, shift, scale, shear)
    maps = []
    for i in range(24):
        alpha, beta = scale[i] * np.cos(angle[i]), scale[i] * np.sin(angle[i])
        first, second = np.array([alpha, beta]), np.array([-beta, alpha])
        shear_x, shear_y = np.tan(shear[i])
        maps.append(translation(*shift[i]) @ linear([first + shear_y * second, second + shear_x * first]))
    assert_boxes(plan, maps, [(70, 50)] * 24)


@pytest.mark.parametrize(
    "only", [{"degrees": 20.0}, {"translate": 0.3}, {"scale": 0.4}, {"shear": 15.0}], ids=lambda only: next(iter(only))
)
def test_random_perspective_draws_uniform_parameters(only):
    """Each alone: the angle, the shift of the center as a share of the result, the scale, and both shears."""
    plan = drawn(RandomPerspective((300, 400), **{"translate": 0, "scale": 0, **only}), 800, 600)
    matrix = plan.matrix[plan.index >= 0]
    center = matrix @ (400, 300, 1) - (200, 150)
    if "translate" in only:  # rows beyond the result are dropped, so nothing is certain of shifts but their range
        assert_uniform(center[:, 0], -120, 120)
        assert_uniform(center[:, 1], -90, 90)
    else:
        np.testing.assert_allclose(center, 0, atol=2e-3)
    if "degrees" in only:
        assert_uniform(np.degrees(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0])), -20, 20)
    elif "scale" in only:
        assert_uniform(matrix[:, 0, 0], 0.6, 1.4)
    elif "shear" in only:
        assert_uniform(np.degrees(np.arctan(matrix[:, [0, 1], [1, 0]])), -15, 15)
    assert (plan.min_visible, plan.min_size, plan.max_aspect) == (0.1, 2, 100)


def test_boxes_of_sides_that_are_too_short_or_too_different_are_dropped():
    """RandomPerspective's rules hold for boxes that are not cut, too."""
    plan = planned(RandomPerspective(64, translate=0, scale=0, min_size=9, max_aspect=1.5, min_visible=0))
    found = targets(plan)
    boxes = np.concatenate([found.boxes[i, :n] for i, n in enumerate(found.num_boxes)])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert len(sides) and sides.min() >= 9 and (sides.max(1) / sides.min(1)).max() <= 1.5


def test_a_turned_image_stays_cut_when_it_is_scaled_or_mirrored():
    """What an edit cut off does not come back outside of what was visible."""
    images = same_images(100, 100)
    plan = planned(RandomAffine(30, fill=None), images, seed=3)
    plan.crop_to(np.array([[20, 30, 40, 50]]))
    plan.crop_to(np.array([[-20, -30, 100, 100]]))
    for transform, limits in ((RandomVerticalFlip(1), (20, 20, 60, 70)), (Resize(50), (10, 10, 30, 35))):
        transform(plan, np.random.default_rng(0), images)
        x, y, width, height = plan.clip[0].tolist()
        assert (x, y, x + width, y + height) == limits
    RandomRotate90().turn(plan, np.array([1]))
    assert plan.clip[0].tolist() == [10, 20, 25, 20]
