"""Color transforms: their parameters, and the colors that their matrices, shifts and tables make."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from fastload import FastLoader
from fastload.cache.memory import MemoryCache
from fastload.plan.batch_plan import ADJUST, AUTOCONTRAST, EQUALIZE, IDENTITY_COLOR, BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms import (
    AutoContrast,
    ChannelPermutation,
    ColorJitter,
    Equalize,
    Grayscale,
    Posterize,
    RandAugment,
    RandomHSV,
    RandomPhotometricDistort,
    Solarize,
    Transform,
)
from fastload.plan.transforms.rand_augment import CHANGES
from tests.support.plans import assert_equally_likely, assert_share, assert_uniform, drawn, planned, same_images
from tests.support.recipes import Case, published

LUMA = np.array([0.299, 0.587, 0.114])
RGB = np.array([200.0, 100.0, 50.0])


def colored(matrix: np.ndarray, rgb: np.ndarray = RGB) -> np.ndarray:
    return matrix[..., :3] @ rgb + matrix[..., 3]


def with_means(count: int = 500) -> ImageIndex:
    sizes = np.full((count, 2), 9, np.int32)
    means = np.random.default_rng(1).uniform(60, 190, (count, 3)).astype(np.float32)
    return ImageIndex(np.arange(count), sizes, means=means)


def test_distortion_draws_uniform_parameters(monkeypatch):
    """Each with probability p: factors, the shift of hue, the place of contrast and the order of the channels."""
    found = {}
    monkeypatch.setattr(
        RandomPhotometricDistort,
        "distort",
        lambda self, plan, images, *values: found.update(
            zip(("brightness", "contrast", "first", "saturation", "hue", "order"), values, strict=True)
        ),
    )
    drawn(RandomPhotometricDistort(p=0.7), count=4000)
    for name, low, high, neutral in (
        ("brightness", 0.875, 1.125, 1),
        ("contrast", 0.5, 1.5, 1),
        ("saturation", 0.5, 1.5, 1),
        ("hue", -0.05, 0.05, 0),
    ):
        changed = found[name][found[name] != neutral]
        assert_share(found[name] != neutral, 0.7)
        assert_uniform(changed, low, high)
    assert_share(found["first"], 0.5)
    number = found["order"] @ (9, 3, 1)
    assert_share(number != 5, 0.7 * 5 / 6)
    assert_equally_likely(number[number != 5], [7, 11, 15, 19, 21])


@pytest.mark.parametrize("contrast_first", [True, False])
def test_distortion_is_torchvisions_steps_in_their_order(contrast_first):
    """Brightness, contrast about the mean gray, saturation, hue, contrast, channels; hue and later are adjustments."""
    images = with_means(3)
    plan = planned([], images)
    brightness, contrast, saturation = np.random.default_rng(0).uniform(0.8, 1.1, (3, 3))
    hue, order = np.array([0.0, 0.03, -0.04]), np.array([[2, 0, 1], [0, 1, 2], [1, 0, 2]])
    first = np.full(3, contrast_first)
    RandomPhotometricDistort().distort(plan, images, brightness, contrast, first, saturation, hue, order)
    for i in range(3):
        gray = brightness[i] * images.means[i] @ LUMA
        color = RGB * brightness[i]
        if contrast_first:
            color = contrast[i] * color + (1 - contrast[i]) * gray
        color = saturation[i] * color + (1 - saturation[i]) * (color @ LUMA)
        rows = np.flatnonzero(plan.slot == i)
        image, rest = rows[0], rows[1:]
        if not hue[i]:
            assert not len(rest)
        else:
            np.testing.assert_allclose(colored(plan.color[image]), color, rtol=1e-4)
            assert (plan.index[rest] == ADJUST).all()
            np.testing.assert_allclose(plan.hsv[rest[0]], [hue[i], 1, 0, 1, 0], rtol=1e-6)
            color = RGB  # as after the adjustment
        if not contrast_first:
            color = contrast[i] * color + (1 - contrast[i]) * gray
        last = colored(plan.color[image if not hue[i] else rest[-1]]) if not hue[i] or len(rest) > 1 else RGB
        np.testing.assert_allclose(last, color[order[i]], rtol=1e-4)


def test_contrast_is_about_the_middle_if_means_are_unknown():
    """A gray of 128 then stays."""
    distort = RandomPhotometricDistort((1, 1), (0.5, 1.5), (1, 1), (0, 0), p=1)
    plan = drawn(distort, 9, 9, count=50)
    np.testing.assert_allclose(colored(plan.color, np.full(3, 128.0)), 128, atol=1e-3)


def test_additive_hsv_is_that_of_yolox():
    """Whole steps of OpenCV's hue, saturation and value, each with probability one half."""
    plan = drawn(RandomHSV(60 / 180, 80 / 255, 90 / 255, additive=True), count=4000)
    adjust = plan.index == ADJUST
    assert (np.diff(np.flatnonzero(~adjust)) <= 2).all()
    shifts = np.zeros((4000, 3))
    shifts[plan.slot[adjust]] = plan.hsv[adjust][:, [0, 2, 4]] * (180, 255, 1)
    assert (plan.hsv[adjust][:, [1, 3]] == 1).all()
    np.testing.assert_allclose(shifts, np.rint(shifts), atol=1e-3)
    rng = np.random.default_rng(0)
    for column, most in enumerate((60, 80, 90)):
        expected = np.trunc(rng.uniform(-most, most, 400_000)) * rng.integers(2, size=400_000)
        levels = np.arange(-most, most + 1)
        one, other = (
            np.searchsorted(np.sort(v), levels + 0.5) / len(v) for v in (np.rint(shifts[:, column]), expected)
        )
        assert np.abs(one - other).max() < 1.95 * np.sqrt(1 / 4000 + 1 / 400_000)


def test_multiplicative_hsv_draws_uniform_factors():
    """The hue is shifted, saturation and value are multiplied."""
    plan = drawn(RandomHSV(0.1, 0.7, 0.4))
    hsv = plan.hsv[plan.index == ADJUST]
    assert_uniform(hsv[:, 0], -0.1, 0.1)
    assert_uniform(hsv[:, 1], 0.3, 1.7)
    assert_uniform(hsv[:, 3], 0.6, 1.4)
    assert not hsv[:, [2, 4]].any()
    assert len(drawn(RandomHSV(0, 0, 0)).index) == 2000


def test_grayscale_and_permutation_happen_as_often_as_asked_for():
    """Gray is ITU-R 601, and all six orders of the channels are equally likely."""
    plan = drawn(Grayscale(0.3))
    colors = colored(plan.color)
    gray = np.ptp(colors, axis=1) < 1e-3
    assert_share(gray, 0.3)
    np.testing.assert_allclose(colors[gray], RGB @ LUMA, rtol=1e-5)
    plan = drawn(ChannelPermutation(0.6), count=4000)
    number = colored(plan.color, np.array([0.0, 1.0, 2.0])) @ (9, 3, 1)
    assert_share(number != 5, 0.6 * 5 / 6)
    assert_equally_likely(number[number != 5], [7, 11, 15, 19, 21])


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (Posterize(3, p=0.4), lambda level: level // 32 * 32),
        (Posterize(8, p=0.4), lambda level: level),
        (Posterize(0, p=0.4), lambda level: 0),
        (Solarize(100, p=0.4), lambda level: 255 - level if level >= 100 else level),
        (Solarize(256, p=0.4), lambda level: level),
        (Solarize(99.5, p=0.4), lambda level: 255 - level if level >= 100 else level),
    ],
    ids=repr,
)
def test_tables_are_the_published_functions(transform, expected):
    """One table for all channels, in the share of images asked for."""
    plan = drawn(transform, count=1000)
    assert_share(np.bincount(plan.slot) == 2, 0.4)
    assert (plan.tables == [expected(level) for level in range(256)]).all()
    rows = plan.index == ADJUST
    assert plan.table[rows].tolist() == list(range(rows.sum())) and (plan.table[~rows] == -1).all()


@pytest.mark.parametrize(("transform", "value"), [(AutoContrast(0.4), AUTOCONTRAST), (Equalize(0.4), EQUALIZE)])
def test_tables_of_histograms_are_left_to_the_engine(transform, value):
    """They happen in the share of images asked for."""
    plan = drawn(transform, count=1000)
    assert_share(np.bincount(plan.slot) == 2, 0.4)
    assert plan.tables is None and (plan.table[plan.index == ADJUST] == value).all()


def change_of(rows, plan) -> str:
    """Which change of RandAugment the rows of a slot show."""
    image = rows[plan.index[rows] >= 0][0]
    adjust = rows[plan.index[rows] == ADJUST]
    if len(adjust):
        number = plan.table[adjust[0]]
        if number < 0:
            return "autocontrast" if number == AUTOCONTRAST else "equalize"
        return "solarize" if plan.tables[number, 0, 1] == 1 else "posterize"
    (_, b, x), (c, _, y) = plan.matrix[image]
    if abs(b) > 1e-4 or abs(c) > 1e-4:
        return "rotate" if abs(b + c) < 1e-4 else "shear x" if abs(b) > 1e-4 else "shear y"
    if abs(x) > 1e-4 or abs(y) > 1e-4:
        return "translate x" if abs(x) > 1e-4 else "translate y"
    color = plan.color[image]
    if np.allclose(color, IDENTITY_COLOR):
        return "none"
    if np.allclose(color[:, :3], color[0, 0] * np.eye(3)):
        return "contrast" if color[:, 3].any() else "brightness"
    return "color"


def test_rand_augment_draws_every_change_as_often():
    """Fourteen changes, of which sharpening and the identity leave the image; signs are even."""
    plan = drawn(RandAugment(1, magnitude=20), 300, 200, count=4200)
    by_slot = np.split(np.arange(len(plan.slot)), np.flatnonzero(np.diff(plan.slot)) + 1)
    names = np.array([change_of(rows, plan) for rows in by_slot])
    for name in set(names.tolist()) | {"none"}:
        assert_share(names == name, (2 if name == "none" else 1) / len(CHANGES))
    assert len(set(names.tolist())) == 13
    image = np.array([rows[plan.index[rows] >= 0][0] for rows in by_slot])
    strength = 20 / 30
    for name, value, most in (
        ("brightness", plan.color[image, 0, 0] - 1, 0.9 * strength),
        ("contrast", plan.color[image, 0, 0] - 1, 0.9 * strength),
        ("rotate", np.degrees(np.arcsin(plan.matrix[image, 0, 1])), 30 * strength),
        ("shear x", plan.matrix[image, 0, 1], 0.3 * strength),
        ("shear y", plan.matrix[image, 1, 0], 0.3 * strength),
        ("translate x", plan.matrix[image, 0, 2], int(150 / 331 * 300 * strength)),
        ("translate y", plan.matrix[image, 1, 2], int(150 / 331 * 200 * strength)),
    ):
        np.testing.assert_allclose(np.abs(value[names == name]), most, rtol=1e-4)
        assert_share(value[names == name] > 0, 0.5)
    assert (plan.matrix[image][names == "shear x"][:, :, 2] == 0).all()  # the upper left corner stays
    levels = np.arange(256)
    tables = plan.tables[:, 0]
    solarize = tables[:, 1] == 1
    assert (tables[solarize] == np.where(levels >= 255 * (1 - strength), 255 - levels, levels)).all()
    assert (tables[~solarize] == levels // 8 * 8).all()  # 8 - round(4 * 2 / 3) bits


def test_rand_augments_contrast_is_about_the_mean_in_present_colors():
    """Color edits before it change the mean of the image with its pixels."""
    images = with_means(3)
    plan = planned([], images)
    plan.recolor(np.stack([IDENTITY_COLOR * factor for factor in (0.5, 1.0, 1.2)]))
    CHANGES[7](plan, images, 1.0, np.ones(3))
    gray = images.means @ LUMA * (0.5, 1.0, 1.2)
    before = images.means * np.array([[0.5], [1.0], [1.2]])
    after = np.stack([colored(plan.color[i], images.means[i]) for i in range(3)])
    np.testing.assert_allclose(after, 1.9 * before - 0.9 * gray[:, None], rtol=1e-4)


def test_a_shift_of_hue_is_one_of_hsv():
    """What `hsv` means, stated by colorsys for one color: the engines' tests hold it for pixels."""
    plan = planned([], same_images(4, 4))
    plan.adjust(np.array([0]), hsv=np.array([[0.1, 1, 0, 1, 0]]))
    shift = plan.hsv[1, 0]
    hue, saturation, value = colorsys.rgb_to_hsv(*(RGB / 255))
    red, green, blue = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
    assert red == pytest.approx(RGB.max() / 255) and blue == pytest.approx(RGB.min() / 255) and green > RGB[1] / 255


class Jitter(Transform):
    """The changes of a published case."""

    def __init__(self, case: Case) -> None:
        self.factors = [np.array([case.draws[name]]) for name in ("brightness", "contrast", "saturation", "hue")]
        self.order = np.array([case.draws["order"]])

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        ColorJitter(exact=True).jitter(plan, images, *self.factors, self.order)


@pytest.mark.parametrize("case", published("classification", "color_jitter"), ids=lambda case: case.name)
def test_exact_jitter_gives_torchvisions_pixels(case, sample_set):
    """Within a level on average: torchvision's hue has 8 bits, and its decoder rounds colors otherwise."""
    name = sorted((sample_set / "train").glob("*.jpg"))[case.sources[0]]
    cache = MemoryCache.of([name.read_bytes()])
    (batch,) = FastLoader(cache, 1, transforms=[Jitter(case)])
    image = batch.images[0].permute(1, 2, 0).numpy()[: case.size[1], : case.size[0]]
    crops, thumbnail = case.differences(image)
    assert crops.mean() < 0.8
    assert thumbnail.mean() < 0.5


def test_exact_jitter_draws_every_order():
    """The factors are those of `exact=False`, and each of the 24 orders is equally likely."""
    orders = []

    class Seen(ColorJitter):
        def jitter(self, plan, images, brightness, contrast, saturation, hue, order):
            orders.extend(order @ [64, 16, 4, 1])
            assert_uniform(brightness, 0.6, 1.4)
            assert_uniform(hue, -0.1, 0.1)

    planned(Seen(0.4, 0.4, 0.4, 0.1, exact=True), same_images(4, 4, count=6000))
    assert len(set(orders)) == 24
    assert_equally_likely(orders, list(set(orders)))
