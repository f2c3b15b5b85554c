"""Transforms against the published code: the same random numbers give the same boxes.

The results of the published code are in tests/data/recipes. Boxes agree to .01 pixel. Where a scaled image ends within
a pixel, ours end with its last whole pixel, and published ones up to half a pixel beyond.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fastload import Cache, MixUp, Mosaic, MosaicAffine, RandomAffine, RandomPhotometricDistort, RandomZoomOut
from fastload.cache.format.layout import Encoding
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.crop import Pad
from fastload.plan.transforms.mix import BatchMixUp, GridMosaic
from fastload.plan.transforms.resize import LetterBox, ShortestEdge
from fastload.plan.transforms.transform import scaled
from fastload.sources.detect import find_datasets
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
