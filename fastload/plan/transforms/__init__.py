"""Transforms: they change the geometry and color of images in a batch's plan. No pixel is read here.

**Boxes** follow the same rules under all transforms. A box moves with its image and is clipped to the visible part of
the image. A clipped box is dropped if less than `min_visible` of its area is left, or if the rest is narrower or lower
than one canvas pixel. A box that is not clipped is never dropped, however small. Crowd boxes follow the same rules and
remain crowds. If several transforms have a `min_visible`, the largest applies.
"""

from fastload.plan.transforms.color import ColorJitter
from fastload.plan.transforms.geometric import RandomFlip, Resize, ScaleJitterCrop, ShortestEdge
from fastload.plan.transforms.mix import Mosaic
from fastload.plan.transforms.transform import Transform

__all__ = ["ColorJitter", "Mosaic", "RandomFlip", "Resize", "ScaleJitterCrop", "ShortestEdge", "Transform"]
