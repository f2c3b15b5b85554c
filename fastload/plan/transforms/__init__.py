"""Transforms: they change the geometry and color of images in a batch's plan. No pixel is read here.

**Boxes** follow the same rules under all transforms. A box moves with its image and is clipped to the visible part of
the image; a turned box becomes the smallest upright box around it. A clipped box is dropped if less than `min_visible`
of its area is left, or if the rest is narrower or lower than one canvas pixel. A box that is not clipped is never
dropped, however small, unless a transform has a `min_size`. Crowd boxes follow the same rules and remain crowds. If
several transforms have a `min_visible`, the largest applies.

**Keypoints** move with their image. A keypoint outside of the visible part of the image becomes unlabeled: (0, 0, 0),
as in Detectron2. One on the edge is inside. Where an image is mirrored, by a flip in x or in y but not by a turn, left
and right keypoints are exchanged (`Column.flip_pairs`).
"""

from fastload.plan.transforms.affine import (
    MosaicAffine,
    RandomAffine,
    RandomFlip,
    RandomPerspective,
    RandomRotate90,
    RandomScaleTranslate,
    RandomVerticalFlip,
)
from fastload.plan.transforms.choose import ByEpoch, During, OneOf, RandomApply, size_ramp
from fastload.plan.transforms.color import (
    ChannelPermutation,
    ColorJitter,
    Grayscale,
    RandomHSV,
    RandomPhotometricDistort,
)
from fastload.plan.transforms.crop import (
    CenterCrop,
    Pad,
    RandomIoUCrop,
    RandomResizedCrop,
    RandomSizeCrop,
    RandomZoomOut,
    ScaleJitterCrop,
)
from fastload.plan.transforms.mix import (
    BatchCutMix,
    BatchMixUp,
    CutMix,
    GridMosaic,
    MixUp,
    Mosaic,
    RandomErasing,
    SimpleCopyPaste,
)
from fastload.plan.transforms.rand_augment import AutoContrast, Equalize, Posterize, RandAugment, Solarize
from fastload.plan.transforms.resize import LetterBox, LongestEdge, RandomResize, Resize, ShortestEdge
from fastload.plan.transforms.rules import SanitizeBoxes
from fastload.plan.transforms.transform import Transform

__all__ = [
    "AutoContrast",
    "BatchCutMix",
    "BatchMixUp",
    "ByEpoch",
    "CenterCrop",
    "ChannelPermutation",
    "ColorJitter",
    "CutMix",
    "During",
    "Equalize",
    "Grayscale",
    "GridMosaic",
    "LetterBox",
    "LongestEdge",
    "MixUp",
    "Mosaic",
    "MosaicAffine",
    "OneOf",
    "Pad",
    "Posterize",
    "RandAugment",
    "RandomAffine",
    "RandomApply",
    "RandomErasing",
    "RandomFlip",
    "RandomHSV",
    "RandomIoUCrop",
    "RandomPerspective",
    "RandomPhotometricDistort",
    "RandomResize",
    "RandomResizedCrop",
    "RandomRotate90",
    "RandomScaleTranslate",
    "RandomSizeCrop",
    "RandomVerticalFlip",
    "RandomZoomOut",
    "Resize",
    "SanitizeBoxes",
    "ScaleJitterCrop",
    "ShortestEdge",
    "SimpleCopyPaste",
    "Solarize",
    "Transform",
    "size_ramp",
]
