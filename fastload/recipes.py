"""Recipes: the augmentation and preprocessing of published detectors, ready for `FastLoader`.

    from fastload import FastLoader, recipes

    recipe = recipes.yolox(epochs=300)
    train = FastLoader("train.lmdb", batch_size=16, shuffle=True, num_workers=8, **recipe.train)
    val = FastLoader("val.lmdb", batch_size=16, num_workers=8, **recipe.evaluate)

Each is a short list of transforms, to copy and change. Schedules are part of it: the epoch that counts is the loader's
own, which `state_dict` keeps. All pixels are resampled once, where published loaders resize, warp and resize again, so
images are sharper; what else differs is said in each docstring. docs/recipes.md shows a page of pictures of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fastload.errors import ArgumentError
from fastload.pixel_format import IMAGENET_MEAN, IMAGENET_STD
from fastload.plan.align import Collator, TopLeftAlign
from fastload.plan.transforms import (
    BatchMixUp,
    During,
    GridMosaic,
    LetterBox,
    MixUp,
    Mosaic,
    MosaicAffine,
    OneOf,
    Pad,
    RandomAffine,
    RandomFlip,
    RandomHSV,
    RandomIoUCrop,
    RandomPerspective,
    RandomPhotometricDistort,
    RandomResize,
    RandomSizeCrop,
    RandomZoomOut,
    Resize,
    SanitizeBoxes,
    ScaleJitterCrop,
    ShortestEdge,
    SimpleCopyPaste,
    Transform,
)

TORCHVISION_MEAN = (123, 117, 104)  # the fill of torchvision's reference scripts
YOLO_GRAY = 114
SHORT_EDGES = tuple(range(480, 801, 32))
DETR_SIZES = (480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800)  # each as likely as it is frequent


@dataclass(frozen=True)
class Recipe:
    """What a published detector does to images before it sees them.

    Args:
        transforms: those of training.
        aligner: the collator of training.
        evaluation: the transforms of evaluation.
        evaluation_aligner: the collator of evaluation. Default: that of training.
        pixels: the arguments `dtype`, `mean` and `std` of FastLoader for the values that the published model expects.
            Without them, images are uint8.
        skip_crowd, skip_empty: whether training skips crowd boxes, and images without boxes.
        masks: whether training needs instance masks, which boxes then follow. The cache must have them.
    """

    transforms: list[Transform]
    aligner: Collator
    evaluation: list[Transform]
    evaluation_aligner: Collator | None = None
    pixels: dict[str, Any] = field(default_factory=dict)
    skip_crowd: bool = True
    skip_empty: bool = False
    masks: bool = False

    @property
    def train(self) -> dict[str, Any]:
        """The arguments of FastLoader for training."""
        return {
            "transforms": self.transforms,
            "collate_fn": self.aligner,
            "skip_crowd": self.skip_crowd,
            "skip_empty": self.skip_empty,
            **({"masks": True, "boxes_from_masks": True} if self.masks else {}),
        }

    @property
    def evaluate(self) -> dict[str, Any]:
        """The arguments of FastLoader for evaluation."""
        return {"transforms": self.evaluation, "collate_fn": self.evaluation_aligner or self.aligner}


def multiscale() -> Recipe:
    """torchvision's `multiscale` preset: a short edge of 480 to 800 in steps of 32, at most 1333 long, and a flip."""
    return Recipe(
        [ShortestEdge(SHORT_EDGES, 1333), RandomFlip()],
        TopLeftAlign(fill=TORCHVISION_MEAN),
        [ShortestEdge(800, 1333)],
        skip_empty=True,
    )


def retinanet() -> Recipe:
    """detectron2's 3x schedule: a short edge of 640 to 800 in steps of 32, at most 1333 long, and a flip."""
    return Recipe(
        [ShortestEdge(range(640, 801, 32), 1333), RandomFlip()],
        TopLeftAlign(),
        [ShortestEdge(800, 1333)],
        skip_empty=True,
    )


def lsj(size: int = 1024, copy_paste: bool = False) -> Recipe:
    """torchvision's `lsj` preset: large-scale jitter of 0.1 to 2, a crop or padding to a square, and a flip.

    Args:
        size: the edge in pixels.
        copy_paste: objects of the image before it in its batch are pasted onto each image, as with torchvision's
            `--use-copypaste`. `Recipe.train` then asks for masks, and boxes end where pasted objects cover theirs.
    """
    return Recipe(
        [
            ScaleJitterCrop(size, (0.1, 2.0), diagonal=True),
            Pad(size),
            RandomFlip(),
            *([SimpleCopyPaste()] if copy_paste else []),
        ],
        TopLeftAlign(fill=TORCHVISION_MEAN, canvas_sizes=size),
        [ShortestEdge(800, 1333)],
        TopLeftAlign(fill=TORCHVISION_MEAN),
        skip_empty=True,
        masks=copy_paste,
    )


def ssd(size: int = 300) -> Recipe:
    """torchvision's `ssd` preset: photometric distortion, zoom out, IoU crop and a flip, then the model's own resize.

    Contrast is clipped less often and measured once: see `RandomPhotometricDistort`. torchvision's model resizes
    without antialiasing, this recipe with it.
    """
    return Recipe(
        [
            RandomPhotometricDistort(),
            RandomZoomOut(fill=TORCHVISION_MEAN),
            RandomIoUCrop(),
            RandomFlip(),
            Resize(size),
        ],
        TopLeftAlign(fill=TORCHVISION_MEAN, divisor=1),
        [Resize(size)],
        skip_empty=True,
    )


def efficientdet(size: int = 512) -> Recipe:
    """EfficientDet's: a flip, and scale jitter of 0.1 to 2 in a square that is padded by the mean."""
    return Recipe(
        [RandomFlip(), ScaleJitterCrop(size, (0.1, 2.0))],
        TopLeftAlign(canvas_sizes=size),
        [ScaleJitterCrop(size, (1.0, 1.0))],
        pixels={"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    )


def detr() -> Recipe:
    """DETR's, also of Deformable DETR and DINO: a flip, then multi-scale, in half of the images after a random crop."""
    scale = ShortestEdge(SHORT_EDGES, 1333)
    return Recipe(
        [RandomFlip(), OneOf([scale, [ShortestEdge([400, 500, 600]), RandomSizeCrop(384, 600), scale]])],
        TopLeftAlign(divisor=1),
        [ShortestEdge(800, 1333)],
        pixels={"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    )


def rtdetr(epochs: int = 72, size: int = 640) -> Recipe:
    """RT-DETRv2's: distortion, zoom out and IoU crop until the last epoch, a flip, and one square size per batch.

    The published loader scales to 640 and the batch again to the drawn size, to the nearest pixel; here images are
    scaled once.

    Args:
        epochs: of the whole training. Augmentation ends, and sizes are no longer drawn, one epoch before.
        size: the edge at the end of training and in evaluation, in pixels. Sizes scale with it.
    """
    return _squares(_distorted(), epochs - 1, size)


def dfine(epochs: int = 80, size: int = 640) -> Recipe:
    """D-FINE's: as `rtdetr`, where augmentation ends 8 epochs before the end.

    Args:
        epochs: of the whole training.
        size: the edge at the end of training and in evaluation, in pixels.
    """
    return _squares(_distorted(), epochs - 8, size)


def deim(epochs: int = 58, size: int = 640) -> Recipe:
    """DEIM's: as `dfine`, with a mosaic or zoom out and crop, and MixUp, in the first half.

    No augmentation but the flip in epochs 0 to 3. From then until the middle of training, each image is either part of
    a mosaic or zoomed out and cropped, and half of the batches are mixed. Boxes have the weights `mix_weight` there.

    Args:
        epochs: of the whole training.
        size: the edge at the end of training and in evaluation, in pixels.
    """
    end = epochs - 8
    middle = 4 + end // 2
    mosaic = [GridMosaic(size // 2), RandomAffine(10, (0.1, 0.1), (0.5, 1.5), fill=0), RandomPhotometricDistort()]
    policy = [During(OneOf([mosaic, _distorted()]), 4, middle), During(_distorted(), middle, end)]
    return _squares(policy, end, size, [During(BatchMixUp(), 4, middle)])


def rfdetr(resolution: int = 560, patch: int = 56) -> Recipe:
    """RF-DETR's: a flip and a square of a random size, in half of the images after a random crop.

    Args:
        resolution: the edge in evaluation, in pixels.
        patch: edges are multiples of this, up to five below and four above the resolution.
    """
    edges = [edge for edge in range(resolution - 5 * patch, resolution + 4 * patch + 1, patch) if edge >= patch * 2]
    square = RandomResize(edges)
    return Recipe(
        [RandomFlip(), OneOf([[], [ShortestEdge([400, 500, 600]), RandomSizeCrop(384, 600)]]), square],
        TopLeftAlign(divisor=1),
        [Resize(resolution)],
        pixels={"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    )


def yolox(epochs: int = 300, size: int = 640) -> Recipe:
    """YOLOX's: mosaic, affine and MixUp until the last 15 epochs, HSV, a flip, and one size per batch.

    The published code draws a size every ten batches and resizes the batch; here images are scaled once. Colors are not
    rounded to OpenCV's 180 hues and 256 saturations. The published model expects BGR, as float32 of 0 to 255.

    Args:
        epochs: of the whole training.
        size: the edge in pixels; drawn sizes are up to 5 * 32 smaller or larger.
    """
    sizes = [size + 32 * step for step in range(-5, 6) if size + 32 * step >= 32]
    return Recipe(
        [
            During([Mosaic(size), MosaicAffine(size), MixUp()], end=epochs - 15),
            RandomHSV(5 / 180, 30 / 255, 30 / 255, additive=True),
            RandomFlip(),
            LetterBox(size),
            SanitizeBoxes(1),
            RandomResize(sizes),
        ],
        TopLeftAlign(fill=YOLO_GRAY, divisor=1),
        [LetterBox(size)],
        TopLeftAlign(fill=YOLO_GRAY, canvas_sizes=size),
    )


def ultralytics(epochs: int = 100, size: int = 640) -> Recipe:
    """The documented defaults of Ultralytics' trainers: mosaic until the last 10 epochs, scale, move, HSV and a flip.

    Args:
        epochs: of the whole training.
        size: the edge in pixels.
    """
    end = epochs - 10
    return Recipe(
        [
            During(Mosaic(size), end=end),
            During(LetterBox(size, center=True), start=end),
            RandomPerspective(size),
            RandomHSV(),
            RandomFlip(),
        ],
        TopLeftAlign(fill=YOLO_GRAY, canvas_sizes=size),
        [LetterBox(size, center=True)],
        pixels={"dtype": torch.float32},
    )


def rtmdet(epochs: int = 300, size: int = 640) -> Recipe:
    """RTMDet's: mosaic, scale jitter and crop, HSV, a flip, and MixUp; without mosaic and MixUp in the last 20 epochs.

    The published MixUp blends with an earlier mosaic, here the other is a single image.

    Args:
        epochs: of the whole training.
        size: the edge in pixels.
    """
    end = epochs - 20
    hsv, flip, pad = RandomHSV(5 / 180, 30 / 255, 30 / 255, additive=True), RandomFlip(), Pad(size, YOLO_GRAY)
    return Recipe(
        [
            During([Mosaic(size), ScaleJitterCrop(size, (0.2, 4.0))], end=end),
            During(ScaleJitterCrop(size, (0.1, 2.0)), start=end),
            hsv,
            flip,
            pad,
            During(MixUp((1.0, 1.0)), end=end),
        ],
        TopLeftAlign(fill=YOLO_GRAY, canvas_sizes=size),
        [LetterBox(size)],
        skip_empty=True,
    )


def _distorted() -> list[Transform]:
    return [RandomPhotometricDistort(), RandomZoomOut(fill=0), RandomIoUCrop(p=0.8)]


def _squares(augmentation: Sequence[Transform], end: int, size: int, last: Sequence[Transform] = ()) -> Recipe:
    """Augmentation and sizes drawn per batch until the epoch `end`, with a flip, and `last` on the finished images."""
    sizes = [round(edge * size / 640 / 32) * 32 for edge in DETR_SIZES]
    return Recipe(
        [
            During(augmentation, end=end),
            SanitizeBoxes(1),
            RandomFlip(),
            During(RandomResize(sizes), end=end),
            During(Resize(size), start=end),
            *last,
        ],
        TopLeftAlign(divisor=1),
        [Resize(size)],
        pixels={"dtype": torch.float32},
    )


RECIPES: dict[str, Callable[..., Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        deim, detr, dfine, efficientdet, lsj, multiscale, retinanet, rfdetr, rtdetr, rtmdet, ssd, ultralytics, yolox,
    )
}  # fmt: skip


def recipe_named(name: str, **settings: Any) -> Recipe:
    """Return a recipe by its name, as the command line has it.

    Args:
        name: a key of RECIPES.
        settings: arguments of the recipe, such as `epochs` and `size`.

    Raises:
        ArgumentError: there is no such recipe, or it has no such argument.
    """
    if name not in RECIPES:
        raise ArgumentError(f"there is no recipe {name!r}: use one of {', '.join(sorted(RECIPES))}")
    try:
        return RECIPES[name](**settings)
    except TypeError:
        raise ArgumentError(f"the recipe {name} does not have all of the settings {', '.join(settings)}") from None
