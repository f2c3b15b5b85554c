"""Transforms against the published code: the same random numbers give the same boxes and nearly the same pixels.

The results of the published code are in tests/data/recipes. Boxes agree to .01 pixel. Where a scaled image ends within
a pixel, ours end with its last whole pixel, and published ones up to half a pixel beyond. Each transform has a bound
for the differences of its pixels, with the reason. All bounds are below what one pixel's shift causes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fastload import (
    Cache,
    ColorJitter,
    MixUp,
    Mosaic,
    MosaicAffine,
    RandomAffine,
    RandomPhotometricDistort,
    RandomZoomOut,
)
from fastload.cache.format.layout import Encoding
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.engines.base import Engine
from fastload.engines.native import NativeEngine
from fastload.engines.reference import ReferenceEngine
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.crop import CenterCrop, Pad
from fastload.plan.transforms.mix import BatchMixUp, GridMosaic
from fastload.plan.transforms.rand_augment import CHANGES
from fastload.plan.transforms.resize import LetterBox, ShortestEdge
from fastload.plan.transforms.transform import scaled
from fastload.sources.detect import find_datasets
from tests.support.engines import execute
from tests.support.recipes import Case, published, sample_objects

MEAN = (123, 117, 104)
RNG = np.random.default_rng(0)

Draw = Callable[[Case, BatchPlan, ImageIndex], None]


@pytest.fixture(scope="module")
def cache(sample_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """The `train` split of the sample set, as original JPEGs."""
    (dataset,) = (found for found in find_datasets(str(sample_set)) if found.split == "train")
    path = tmp_path_factory.mktemp("parity") / "train.lmdb"
    build_cache(dataset.load(), path, BuildOptions(encoding=Encoding.ORIGINAL))
    return Cache(path)


@pytest.fixture(scope="module")
def images(cache: Cache) -> ImageIndex:
    """Its images with the objects that are not crowds, as the published code numbers them."""
    known = sample_objects()
    assert (cache.sizes == known.sizes).all()
    return ImageIndex(np.arange(len(cache)), cache.sizes, known.offsets.astype(np.int64), known.boxes, cache.means)


def array(*values: float) -> NDArray[np.float64]:
    """Values of the one image of a plan."""
    return np.array([values[0]] if len(values) == 1 else [values], np.float64)


def crop(plan: BatchPlan, box: list[int], centered: bool = False) -> None:
    plan.crop_to(np.array([box]))
    if centered:
        plan.keep_centered(np.array([True]))


def distort(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    draws = case.draws
    RandomPhotometricDistort().distort(
        plan,
        images,
        array(draws["brightness"]),
        array(draws["contrast"]),
        np.array([draws["contrast_first"]]),
        array(draws["saturation"]),
        array(draws["hue"]),
        np.array([draws["permutation"]]),
    )


def iou_crop(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    crop(plan, case.draws["crop"], centered=case.draws["crop"][2:] != plan.size[0].tolist())


def zoom_out(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    RandomZoomOut(fill=MEAN).zoom(plan, array(case.draws["ratio"]), array(*case.draws["place"]))
    assert plan.size[0].tolist() == case.draws["canvas"]


def on_canvas(case: Case, plan: BatchPlan, fill: int | tuple[int, int, int]) -> None:
    (x, y), canvas = case.draws["offset"], case.draws["canvas"]
    crop(plan, [-x, -y, *canvas])
    plan.underlay(np.array([0]), np.broadcast_to(np.float32(fill), 3))


def ssd(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    distort(case, plan, images)
    on_canvas(case, plan, MEAN)
    iou_crop(case, plan, images)
    plan.flip_horizontally(np.array([case.draws["flip"]]))


def dfine(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    distort(case, plan, images)
    on_canvas(case, plan, 0)
    iou_crop(case, plan, images)
    plan.flip_horizontally(np.array([case.draws["flip"]]))
    plan.resize(np.array([case.size]))


def lsj(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    plan.resize(scaled(plan.size, case.draws["scale"] * (1024 / plan.size).min(1)))
    assert np.abs(plan.size[0] - case.draws["resized"]).max() <= 1  # torchvision rounds down
    plan.resize(np.array([case.draws["resized"]]))
    crop(plan, case.draws["crop"])
    Pad(1024, MEAN)(plan, RNG, images)


def shortest_size(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    ShortestEdge(480 + 32 * case.draws["choice"], 1333)(plan, RNG, images)


def flip(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    plan.flip_horizontally(np.array([case.draws["flip"]]))


def mosaic(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    draws = case.draws
    Mosaic(640).arrange(plan, images, np.array([case.sources[1:4]]), np.array([draws["center"]]))
    MosaicAffine(640).transform(
        plan,
        np.radians(array(draws["angle"])),
        array(draws["translate_x"], draws["translate_y"]) * 640,
        array(draws["scale"]),
        np.radians(array(draws["shear_x"], draws["shear_y"])),
    )


def mixup(case: Case, plan: BatchPlan, images: ImageIndex, prefix: str = "", other: int = 1) -> None:
    jitter, mirrored, offset = (case.draws[prefix + name] for name in ("jitter", "flip", "offset"))
    room = int(640 * jitter) - 640
    place = (np.array([offset]) + 0.5) / max(room, 1)
    position = np.array([case.sources[other]])
    MixUp().mix(plan, images, np.array([0]), position, array(jitter), np.array([mirrored]), place)


def letterboxed_mixup(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    LetterBox(640)(plan, RNG, images)
    mixup(case, plan, images)


def hsv(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    hue, saturation, value = case.draws["gains"]
    plan.adjust(np.array([0]), hsv=array(hue / 180, 1, saturation / 255, 1, value))


def letterbox(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    LetterBox(case.size[::-1])(plan, RNG, images)


def yolox(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    mosaic(case, plan, images)
    mixup(case, plan, images, "mixup_", 4)
    hsv(case, plan, images)
    flip(case, plan, images)


def size_crop(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    crop(plan, case.draws["crop"])


def resize_crop_resize(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    first, last = case.draws["resized"]
    plan.resize(np.array([first]))
    crop(plan, case.draws["crop"])
    plan.resize(np.array([last]))


def grid_mosaic(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    draws = case.draws
    GridMosaic(320).arrange(plan, images, np.array([case.sources[1:]]))
    RandomAffine(10, fill=0).transform(
        plan,
        np.radians(array(draws["angle"])),
        array(*draws["translate"]),
        array(draws["scale"]),
        np.zeros((1, 2)),
    )


def batch_mixup(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    plan.join(images.plan(np.array(case.sources[1:])))
    plan.resize(np.full((2, 2), 640))
    BatchMixUp().mix(plan, np.array([case.draws["lambda"], 1.0]))


def resized_crop(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    crop(plan, case.draws["crop"])
    plan.resize(np.array([[224, 224]]))
    plan.use_filter("bicubic" if case.draws["bicubic"] else "bilinear")


def resize_center_crop(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    for transform in (ShortestEdge(256, round_down=True), CenterCrop(224)):
        transform(plan, np.random.default_rng(0), images)
    plan.use_filter("bicubic" if case.draws["bicubic"] else "bilinear")


def color_jitter(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    factors = iter([case.draws[name] for name in ("brightness", "contrast", "saturation", "hue")])

    class Drawn:
        def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
            return np.full(shape, next(factors))

    ColorJitter(0.4, 0.4, 0.4, 0.1)(plan, Drawn(), images)  # type: ignore[arg-type]


OPERATIONS = (
    "shearx", "sheary", "translatex", "translatey", "rotate", "brightness", "color", "contrast", "", "posterize",
    "solarize", "autocontrast", "equalize",
)  # fmt: skip


def rand_augment(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    _, name, number, *_ = case.name.split("_")
    apply = CHANGES[OPERATIONS.index(name)]
    assert apply is not None
    sign = -1 if number == "30" else 1
    sign *= -1 if name in ("shearx", "sheary") else 1  # both directions are as likely, and torchvision's + is our -
    apply(plan, images, int(number) / 30, array(sign))
    plan.underlay(np.array([0]), np.zeros(3, np.float32))


def mosaic_as_opencv_counts(case: Case, plan: BatchPlan, images: ImageIndex) -> None:
    """The matrix of `mosaic` is for corners of pixels, as boxes are. OpenCV applies YOLOX's to centers of pixels."""
    mosaic(case, plan, images)
    linear = np.array(case.draws["matrix"])[:, :2]
    half = np.array([0.5, 0.5])
    plan.transform(np.column_stack([np.eye(2), half - linear @ half])[None], plan.size)


DETECTION: dict[tuple[str, str], Draw] = {
    ("torchvision", "random_iou_crop"): iou_crop,
    ("torchvision", "random_zoom_out"): zoom_out,
    ("torchvision", "random_photometric_distort"): distort,
    ("torchvision", "lsj"): lsj,
    ("torchvision", "random_shortest_size"): shortest_size,
    ("torchvision", "random_horizontal_flip"): flip,
    ("torchvision", "ssd"): ssd,
    ("yolox", "mosaic"): mosaic,
    ("yolox", "mixup"): letterboxed_mixup,
    ("yolox", "yolox"): yolox,
    ("detr", "random_size_crop"): size_crop,
    ("detr", "resize_crop_resize"): resize_crop_resize,
    ("dfine", "dfine"): dfine,
    ("deim", "mosaic"): grid_mosaic,
    ("deim", "mixup"): batch_mixup,
}


def planned(case: Case, draw: Draw, images: ImageIndex) -> BatchPlan:
    plan = images.plan(np.array(case.sources[:1]))
    draw(case, plan, images)
    return plan.take(np.array([0]))  # `batch_mixup` plans a batch


@pytest.mark.parametrize(
    ("case", "draw"),
    [(case, draw) for (recipe, name), draw in DETECTION.items() for case in published(recipe, name + "_")],
    ids=lambda value: value.name if isinstance(value, Case) else "",
)
def test_boxes_are_those_of_the_published_code(case: Case, draw: Draw, images: ImageIndex) -> None:
    """The same objects, where they have at least a pixel, at the same place, and the same labels."""
    plan = planned(case, draw, images)
    assert tuple(plan.size[0]) == case.size
    shown = images.boxes(plan)
    assert case.boxes is not None and case.objects is not None
    ours = {(n, k): box for n, k, box in numbered(shown.number, shown.box)}
    theirs = {(n, k): box for n, k, box in numbered(case.objects, case.boxes)}
    visible = {key for boxes in (ours, theirs) for key, box in boxes.items() if (box[2:] - box[:2]).min() > 1.01}
    for key in visible:
        exact = np.abs(ours[key] - theirs[key]) <= 0.011
        at_an_edge = (ours[key] == np.rint(ours[key])) & (np.abs(ours[key] - theirs[key]) < 0.5)
        assert (exact | at_an_edge).all(), (key, ours[key], theirs[key])
    labels = sample_objects().labels
    assert case.labels is not None and (labels[case.objects] == case.labels).all()


def numbered(objects: NDArray[np.int64], boxes: NDArray[np.float32]) -> list[tuple[int, int, NDArray[np.float32]]]:
    """Boxes with the number of their object, and how many of the same object came before."""
    order = np.lexsort((boxes[:, 1], boxes[:, 0], objects))
    found = []
    for position in order:
        n = int(objects[position])
        found.append((n, sum(1 for m, _, _ in found if m == n), boxes[position]))
    return found


@dataclass(frozen=True)
class Bound:
    """How far the pixels of a transform may be from the published ones, in levels, over all of its cases.

    Args:
        mean, high: the mean and the 95th percentile of the differences in the stored squares.
        thumbnail: the mean difference of the thumbnails, which hide resampling but not colors.
        cases: the cases are those whose names match this pattern.
        filter: of the published code, if it is not the default.
    """

    draw: Draw
    cases: str
    mean: float
    high: float
    thumbnail: float
    filter: str | None = None


Image = NDArray[np.uint8]  # (H, W, 3)
UNUSED = np.array([255, 0, 255], np.uint8)  # recipes fill what images do not cover
ALIASED = "bilinear-no-antialias"
BOUNDS = {
    "torchvision": (
        # only decoders differ
        Bound(iou_crop, "random_iou_crop_*", 0.1, 1, 0.1),
        Bound(zoom_out, "random_zoom_out_*", 0.1, 1, 0.1),
        Bound(flip, "random_horizontal_flip_*", 0.1, 1, 0.1),
        # one resampling by Pillow's filter
        Bound(lsj, "lsj_*", 0.4, 1, 0.1),
        Bound(shortest_size, "random_shortest_size_*", 0.4, 1, 0.1),
        # Pillow rounds down and clips after each of up to four steps, and its hue has 255 steps
        Bound(distort, "random_photometric_distort_*", 1.5, 4, 1.4),
        Bound(ssd, "ssd_*", 1.5, 4, 1),
    ),
    "yolox": (
        # OpenCV's hue has 180 steps and its saturation 255
        Bound(hsv, "augment_hsv_*", 0.6, 2, 0.5),
        # widths are rounded down, with boxes beyond them: ours are stretched to the boxes, by up to a pixel
        Bound(letterbox, "letterbox_*", 2, 8, 0.3, ALIASED),
        # likewise, for both images; the other is resampled twice
        Bound(letterboxed_mixup, "mixup_*", 1.8, 7, 0.7, ALIASED),
        # images are resampled twice, and displaced by (scale - 1) / 2 pixels from their boxes
        Bound(mosaic, "mosaic_*", 3.6, 17, 0.1, ALIASED),
        Bound(mosaic_as_opencv_counts, "mosaic_*", 2, 13, 0.1, ALIASED),
        # all of these
        Bound(yolox, "yolox_*", 2.8, 9, 0.9),
    ),
    "detr": (
        Bound(size_crop, "random_size_crop_*", 0.1, 1, 0.1),
        # resampled twice
        Bound(resize_crop_resize, "resize_crop_resize_*", 3, 13, 0.2),
    ),
    "dfine": (
        # colors as in torchvision, and edges of images between pixels
        Bound(dfine, "dfine_*", 2.4, 6, 1.2),
    ),
    "deim": (
        # resampled twice, at last to the nearest pixel
        Bound(grid_mosaic, "mosaic_*", 3.1, 14, 0.2),
        Bound(batch_mixup, "mixup_*", 0.4, 1, 0.2),
    ),
    "classification": (
        Bound(resized_crop, "random_resized_crop_*", 0.4, 1, 0.2),
        Bound(resize_center_crop, "resize_center_crop_*", 0.4, 1, 0.2),
        # in the order of the draws, with hue in HSV
        Bound(color_jitter, "color_jitter_*", 2.8, 7, 2.1),
        Bound(rand_augment, "randaugment_translate?_*", 0.2, 1, 0.1),
        Bound(rand_augment, "randaugment_*_bilinear", 0.6, 2, 0.5),
        # RandAugment's default is the nearest pixel; ours interpolates
        Bound(rand_augment, "randaugment_[rs]*_nearest", 4, 16, 0.2),
        # Pillow rounds down
        Bound(rand_augment, "randaugment_[bc]*", 0.6, 2, 0.6),
        # tables of the same histogram, but for the decoders
        Bound(rand_augment, "randaugment_[aep]*", 0.2, 1, 0.2),
        Bound(rand_augment, "randaugment_solarize_*", 0.2, 1, 0.1),
    ),
}  # fmt: skip


def cases_of(recipe: str, bound: Bound) -> list[Case]:
    return [case for case in published(recipe) if fnmatch(case.name, bound.cases)]


def executed(engine: Engine, plan: BatchPlan, bound: Bound) -> Image:
    if bound.filter:
        plan.use_filter(bound.filter)
    plan.place(plan.size[0], np.zeros_like(plan.size), UNUSED)
    return execute(engine, plan)[0]


each_bound = pytest.mark.parametrize(
    ("recipe", "bound"),
    [(recipe, bound) for recipe, bounds in BOUNDS.items() for bound in bounds],
    ids=lambda value: value.cases.strip("_*") if isinstance(value, Bound) else value,
)


@each_bound
def test_pixels_are_those_of_the_published_code(recipe: str, bound: Bound, cache: Cache, images: ImageIndex) -> None:
    """Within the bound, which a shift by one pixel in any direction and swapped channels exceed."""
    engine = NativeEngine(cache, 0)
    drawn = [(case, executed(engine, planned(case, bound.draw, images), bound)) for case in cases_of(recipe, bound)]
    assert drawn

    def differences(change: Callable[[Image], Image]) -> list[NDArray[np.int64]]:
        found = [case.differences(change(image)) for case, image in drawn]
        return [np.concatenate([each.ravel() for each in kind]) for kind in zip(*found, strict=True)]

    crops, thumbnails = differences(lambda image: image)
    assert crops.mean() <= bound.mean
    assert np.percentile(crops, 95) <= bound.high
    assert thumbnails.mean() <= bound.thumbnail
    for by, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        moved, _ = differences(partial(np.roll, shift=by, axis=axis))
        assert moved.mean() > bound.mean and np.percentile(moved, 95) > bound.high
    for channels in ([2, 1, 0], [1, 0, 2], [0, 2, 1]):
        swapped, averages = differences(lambda image, channels=channels: image[..., channels])
        assert swapped.mean() > bound.mean and averages.mean() > bound.thumbnail


@each_bound
def test_the_reference_draws_the_pixels_of_the_published_code(
    recipe: str, bound: Bound, cache: Cache, images: ImageIndex
) -> None:
    """The stored squares, cut out of the plan, are within the bounds of the native engine."""
    engine = ReferenceEngine(cache)
    differences = []
    for case in cases_of(recipe, bound):
        for corner, expected in zip(case.crops_at, case.crops, strict=True):
            plan = planned(case, bound.draw, images)
            depends = plan.table is not None and (plan.table < -1).any()  # on what is outside of the square
            side = len(expected)
            if not depends:
                crop(plan, [*corner.tolist(), side, side])
            image = executed(engine, plan, bound)
            if depends:
                image = image[corner[1] : corner[1] + side, corner[0] : corner[0] + side]
            differences.append(np.abs(image.astype(int) - expected))
    assert np.mean(differences) <= bound.mean and np.percentile(differences, 95) <= bound.high
