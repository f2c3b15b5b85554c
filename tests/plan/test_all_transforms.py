"""What holds for every transform: valid plans in any order, reproducible draws, errors, reprs and pickles."""

from __future__ import annotations

import inspect
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastload.plan.transforms as transforms
from fastload.engines.validate import check_plan
from fastload.errors import ArgumentError, PlanError
from fastload.plan.align import TopLeftAlign
from fastload.plan.batch_plan import ADJUST, FILL, OPTIONAL_ROW_COLUMNS, ROW_COLUMNS, BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms import Transform
from tests.support.plans import IMAGES, targets

ALL = (  # each as it is written
    "AutoContrast(p=0.5)",
    "BatchCutMix(alpha=1.0, min_visible=0.1, p=0.5)",
    "BatchMixUp(share=(0.45, 0.55), p=0.5, alpha=0.2)",
    "ByEpoch(stages={0: Resize(size=30, filter='bilinear'), 2: []})",
    "CenterCrop(size=(50, 40))",
    "ChannelPermutation(p=0.5)",
    "ColorJitter(brightness=0.1, contrast=0.2, saturation=0.3, hue=0.1, exact=True)",
    "CutMix(alpha=1.0, min_visible=0.1, p=0.5)",
    "During(transforms=RandomFlip(p=0.5), start=0, end=3)",
    "Equalize(p=0.5)",
    "Grayscale(p=0.5)",
    "GridMosaic(size=20, fill=0)",
    "LetterBox(size=48, fill=114, center=True)",
    "LongestEdge(size=60)",
    "MixUp(scale=(0.5, 1.5), p=0.7, fill=114)",
    "Mosaic(size=40, fill=114, min_visible=0.0, p=0.7)",
    "MosaicAffine(size=60, degrees=10.0, translate=0.1, scale=(0.1, 2.0), shear=2.0, fill=114)",
    "OneOf(choices=[Resize(size=30, filter='nearest'), [], RandomFlip(p=0.5)], p=(1, 2, 3), per_batch=True)",
    "Pad(size=70, fill=(1, 2, 3), center=True)",
    "Posterize(bits=3, p=0.5)",
    "RandAugment(num_ops=2, magnitude=9, num_magnitude_bins=31, fill=0)",
    "RandomAffine(degrees=20, translate=(0.1, 0.2), scale=(0.5, 1.5), shear=(5, 10), fill=9, min_visible=0.1)",
    "RandomApply(transforms=[RandomHSV(hue=0.015, saturation=0.7, value=0.4, additive=False)], p=0.5, per_batch=True)",
    "RandomErasing(p=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3), value='random')",
    "RandomFlip(p=0.5)",
    "RandomHSV(hue=0.1, saturation=0.2, value=0.3, additive=True)",
    "RandomIoUCrop(min_scale=0.3, max_scale=1.0, min_aspect_ratio=0.5, max_aspect_ratio=2.0, "
    "sampler_options=(0.0, 0.5, 1.0), trials=40, p=0.8)",
    "RandomPerspective(size=50, degrees=5.0, translate=0.1, scale=0.5, shear=3.0, fill=114, min_visible=0.1, "
    "min_size=2.0, max_aspect=100.0)",
    "RandomPhotometricDistort(brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), "
    "hue=(-0.05, 0.05), p=0.5)",
    "RandomResize(sizes=[40, (30, 50)], per_batch=True)",
    "RandomResizedCrop(size=30, scale=(0.08, 1.0), ratio=(0.75, 1.3333333333333333), filter='bicubic', "
    "min_visible=0.0)",
    "RandomRotate90(p=0.5)",
    "RandomScaleTranslate(scale=(0.5, 1.5), translate=0.1, fill=None, min_visible=0.1)",
    "RandomSizeCrop(min_size=20, max_size=60, min_visible=0.0)",
    "RandomVerticalFlip(p=0.5)",
    "RandomZoomOut(side_range=(1.0, 4.0), fill=0, p=0.5)",
    "Resize(size=(30, 40), filter='bilinear')",
    "SanitizeBoxes(min_size=1.0, min_visible=0.0, max_aspect=inf)",
    "ScaleJitterCrop(size=50, scale=(0.1, 2.0), min_visible=0.0, diagonal=True)",
    "ShortestEdge(sizes=[30, 40], max_size=80, per_batch=True, round_down=True)",
    "SimpleCopyPaste(p=0.5)",
    "Solarize(threshold=128.0, p=0.5)",
)
NAMES = {**{name: getattr(transforms, name) for name in transforms.__all__}, "inf": float("inf")}
ONE_SIZE = ("BatchCutMix", "BatchMixUp", "SimpleCopyPaste")  # these need images of one size


def made(written: str) -> Transform:
    return eval(written, NAMES)


def index_of(size: list[tuple[int, int]], boxes_per_image: int | None, means: bool = False) -> ImageIndex:
    """Images of given sizes with random boxes; None: no annotations."""
    sizes, rng = np.array(size, np.int32), np.random.default_rng(len(size))
    mean = rng.uniform(0, 255, (len(size), 3)).astype(np.float32) if means else None
    if boxes_per_image is None:
        return ImageIndex(np.arange(len(size)), sizes, means=mean)
    counts = np.arange(len(size)) % (boxes_per_image + 1)
    low = rng.uniform(0, 0.8, (counts.sum(), 2))
    unit = np.concatenate([low, low + rng.uniform(0.01, 0.2, low.shape)], 1)
    boxes = (unit * np.tile(sizes.repeat(counts, 0), 2)).astype(np.float32)
    return ImageIndex(np.arange(len(size)), sizes, np.concatenate([[0], counts.cumsum()]), boxes, mean)


def planned(steps: list[Transform], images: ImageIndex, seed: int, batch: int | None = None) -> BatchPlan:
    plan, rng = images.plan(np.arange(len(images))), np.random.default_rng(seed)
    plan.batch = None if batch is None else np.arange(len(images), dtype=np.int32) // batch
    for transform in steps:
        transform(plan, rng, images)
    return plan


def assert_valid(plan: BatchPlan, records: int) -> None:
    """Engines accept the plan, and layers begin with their grounds."""
    assert (plan.size >= 1).all()
    largest = 65504  # a mosaic of strips may be wider than any canvas
    plan.crop_to(np.concatenate([np.zeros_like(plan.size), np.minimum(plan.size, largest)], 1))
    TopLeftAlign().place(plan, np.random.default_rng(0))
    check_plan(replace(plan, index=np.where(plan.index == ADJUST, FILL, plan.index)), records)
    for name in (*ROW_COLUMNS, *OPTIONAL_ROW_COLUMNS):
        column = getattr(plan, name)
        assert column is None or (len(column) == len(plan.index) and column.flags.c_contiguous), name
        assert name not in OPTIONAL_ROW_COLUMNS or column is None or column.dtype == OPTIONAL_ROW_COLUMNS[name].dtype
    if plan.layer is not None:
        starts = np.diff(plan.layer, prepend=0) + np.diff(plan.slot, prepend=-1) != 0
        assert (plan.index[starts & (plan.layer > 0)] == FILL).all()
    if plan.table is not None:
        assert plan.table.max(initial=-1) < (0 if plan.tables is None else len(plan.tables))


def columns_of(plan: BatchPlan) -> list[np.ndarray]:
    names = (*ROW_COLUMNS, *OPTIONAL_ROW_COLUMNS, "size", "offset", "tables")
    return [column for name in names if (column := getattr(plan, name)) is not None]


def test_every_transform_is_here():
    """A new transform is held by these tests."""
    assert {written.partition("(")[0] for written in ALL} == set(transforms.__all__) - {"Transform", "size_ramp"}


SIZES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 120), st.integers(1, 120)),
        st.sampled_from([(1, 1), (1, 10_000), (10_000, 1), (1, 2)]),
    ),
    min_size=1,
    max_size=7,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from([w for w in ALL if not w.startswith(ONE_SIZE)]), min_size=1, max_size=5),
    SIZES,
    st.sampled_from([None, 0, 3]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_any_list_of_transforms_makes_a_valid_plan(written, size, boxes, mixed, seed):
    """Of images of any size, with and without boxes, annotations and means; the same seed gives the same plan."""
    steps, images = [made(each) for each in written], index_of(size, boxes, means=seed % 2 == 0)
    if mixed:
        steps += [made("Resize(size=24)"), made("BatchMixUp(share=(0, 1), p=0.5)"), made("BatchCutMix()")]
    try:
        plan = planned(steps, images, seed, batch=2)
    except PlanError as error:
        assert "already blended" in str(error)
        return
    again = planned(steps, images, seed, batch=2)
    for one, other in zip(columns_of(plan), columns_of(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert_valid(plan, len(images))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from([w for w in ALL if not w.startswith(ONE_SIZE)]), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_transforms_see_the_boxes_of_targets(written, seed):
    """In the same order, but boxes that are too small once they are cut."""
    plan = planned([made(each) for each in written], IMAGES, seed)
    plan.min_visible, plan.min_size, plan.max_aspect = 0, 0, np.inf
    seen = IMAGES.boxes(plan)
    found = targets(plan)
    for slot in range(24):
        one, other = np.asarray(found.boxes[slot, : found.num_boxes[slot]]), seen.box[seen.slot == slot]
        one, other = (boxes[(boxes[:, 2:] - boxes[:, :2] >= 1.1).all(1)] for boxes in (one, other))
        np.testing.assert_allclose(one, other, atol=0.02)


@pytest.mark.parametrize("written", ALL)
@pytest.mark.parametrize("size", [[(1, 1)] * 4, [(1, 10_000)] * 4, [(10_000, 1)] * 4, [(30, 20)] * 4])
def test_each_transform_makes_a_valid_plan_of_any_image(written, size):
    """Of one pixel, of strips, without boxes and without annotations."""
    for boxes in (None, 0, 3):
        images = index_of(size, boxes)
        for seed in range(5):
            assert_valid(planned([made(written)], images, seed, batch=2), 4)


@pytest.mark.parametrize("written", ALL)
def test_no_transform_changes_what_it_is_given(written):
    """The images of a loader are the same afterwards, and no random number comes from anywhere else."""
    images = index_of([(50, 40)] * 6, 3, means=True)
    names = ("index", "size", "box_offsets", "source_boxes", "means")
    before = {name: getattr(images, name).copy() for name in names}
    state = np.random.get_state()[1].copy()
    planned([made(written)] * (1 if "MixUp" in written else 2), images, 0, batch=3)
    for name in names:
        np.testing.assert_array_equal(getattr(images, name), before[name])
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("written", ALL)
def test_a_repr_is_how_a_transform_is_written(written):
    """It makes an equal transform, which draws the same after pickling."""
    transform = made(written)
    assert repr(transform) == written and made(repr(transform)) == transform
    images = index_of([(50, 40)] * 6, 3)
    same = pickle.loads(pickle.dumps(transform))
    assert same == transform and same.spans_batches
    for one, other in zip(
        *(columns_of(planned([each], images, 3, batch=3)) for each in (transform, same)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("written", ALL)
def test_docstrings_name_all_arguments(written):
    """Every argument is under Args, and every class says what it raises."""
    kind = type(made(written))
    documented = inspect.getdoc(kind).partition("Args:")[2].partition("Raises:")[0]
    for name in inspect.signature(kind).parameters:
        assert re.search(rf"\b{name}\b", documented), name


WRONG = (
    "AutoContrast(-0.1)", "BatchCutMix(0)", "BatchCutMix(p=2)", "BatchMixUp(alpha=0)", "ByEpoch({})",
    "ByEpoch({-1: []})", "BatchMixUp((0.5, 1.5))", "BatchMixUp((0.6, 0.5))", "BatchMixUp(p=2)", "CenterCrop(0)",
    "CenterCrop((1, 2, 3))", "ChannelPermutation(1.1)", "CutMix(0)", "CutMix(p=-1)", "CutMix(min_visible=2)",
    "CutMix(float('nan'))", "During([], -1)", "During([], 3, 2)", "Equalize(2)", "Grayscale(-1)", "GridMosaic(0)",
    "GridMosaic(fill=300)", "LetterBox(0)", "LetterBox(9, fill=(1, 2))", "LetterBox(9, fill=-1)", "LongestEdge(0)",
    "LongestEdge(2.5)", "MixUp((0, 1))", "MixUp(p=2)", "MixUp(fill=None)", "Mosaic(0)", "Mosaic(9, fill='red')",
    "Mosaic(9, p=2)", "Mosaic(9, min_visible=-1)", "MosaicAffine(9, degrees=-1)", "MosaicAffine(9, shear=90)",
    "MosaicAffine(9, scale=(0, 1))", "MosaicAffine(9, translate=-1)", "MosaicAffine(9, fill=256)", "OneOf([])",
    "OneOf([[], []], [1])", "OneOf([[], []], [1, -1])", "OneOf([[]], [0])", "Pad(0)", "Pad(9, fill=999)",
    "Posterize(9)", "Posterize(-1)", "Posterize(3, 2)", "RandAugment(-1)", "RandAugment(magnitude=31)",
    "RandAugment(fill=-1)", "RandomAffine(-1)", "RandomAffine(1, (0.1, 2))", "RandomAffine(1, (0.1,))",
    "RandomAffine(1, scale=(2, 1))", "RandomAffine(1, shear=90)", "RandomAffine(1, shear=(1, 2, 3))",
    "RandomAffine(1, fill=300)", "RandomAffine(float('inf'))", "RandomAffine(1, min_visible=2)",
    "RandomApply([], 1.5)", "RandomErasing(2)", "RandomErasing(scale=(0.1, 1.2))", "RandomErasing(ratio=(0, 1))",
    "RandomErasing(value='noise')", "RandomErasing(value=256)", "RandomFlip(2)", "RandomHSV(0.6)",
    "RandomHSV(saturation=2)", "RandomHSV(value=-1)", "RandomIoUCrop(0)", "RandomIoUCrop(max_scale=2)",
    "RandomIoUCrop(min_aspect_ratio=3)", "RandomIoUCrop(sampler_options=())", "RandomIoUCrop(sampler_options=(0.5,))",
    "RandomIoUCrop(trials=0)", "RandomIoUCrop(p=2)", "RandomPerspective(9, scale=1)", "RandomPerspective(9, shear=-1)",
    "RandomPerspective(9, translate=-1)", "RandomPerspective(9, max_aspect=0.5)", "RandomPerspective(9, min_visible=2)",
    "RandomPerspective(9, min_size=-1)", "RandomPhotometricDistort(brightness=(-1, 1))",
    "RandomPhotometricDistort(hue=(-0.6, 0))", "RandomPhotometricDistort(hue=(0, 0.6))",
    "RandomPhotometricDistort(p=2)", "RandomResize([])", "RandomResize([0])", "RandomResizedCrop(0)",
    "RandomResizedCrop(9, (0.5, 0.1))", "RandomResizedCrop(9, ratio=(0, 1))", "RandomResizedCrop(9, filter='lanczos')",
    "RandomResizedCrop(9, min_visible=3)", "RandomRotate90(-1)", "RandomScaleTranslate((0, 1))",
    "RandomScaleTranslate(translate=2)", "RandomScaleTranslate(fill=300)", "RandomScaleTranslate(min_visible=2)",
    "RandomSizeCrop(0, 5)", "RandomSizeCrop(6, 5)", "RandomSizeCrop(5, 6, 2)", "RandomVerticalFlip(2)",
    "RandomZoomOut((0.5, 2))", "RandomZoomOut(p=2)", "RandomZoomOut(fill=300)", "Resize(9, 'lanczos')",
    "SanitizeBoxes(-1)", "SanitizeBoxes(min_visible=2)", "SanitizeBoxes(max_aspect=0.5)",
    "ScaleJitterCrop(9, min_visible=2)", "Solarize(257)", "Solarize(-1)", "Solarize(9, 2)",
)  # fmt: skip


@pytest.mark.parametrize("written", WRONG)
def test_wrong_arguments_are_refused(written):
    """Where they are written, not in mid-epoch, by an error that names the class."""
    with pytest.raises(ArgumentError, match=written.partition("(")[0]):
        eval(written, {**NAMES, "float": float})


@pytest.mark.parametrize("written", [w for w in ALL if "per_batch=True" in w or w.startswith("Batch")])
def test_batches_planned_together_are_treated_apart(written):
    """What is decided for a batch does not depend on the images of others, only on its own draw."""
    images = index_of([(50, 50)] * 12, 3)
    transform, several = made(written), set()
    for seed in range(20):
        plan = planned([transform], images, seed, batch=4)
        rows = np.bincount(plan.slot, minlength=12).reshape(3, 4)
        several.add(len({(tuple(size), int(n)) for size, n in zip(plan.size[::4].tolist(), rows[:, 0], strict=True)}))
        assert (plan.size.reshape(3, 4, 2) == plan.size.reshape(3, 4, 2)[:, :1]).all()
        if "RandomApply" not in written:
            assert (rows == rows[:, :1]).all()
    assert max(several) > 1
