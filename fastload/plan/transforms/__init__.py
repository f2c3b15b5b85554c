"""Transforms: geometry and color as numbers in a batch's plan. No pixel is touched here.

**What happens to boxes**, whatever the transforms: a box follows its image exactly and is clipped to the part of the
image that is shown. A box that was cut is dropped when less than `min_visible` of its area is left or when what is left
is thinner than one canvas pixel. A box that was not cut is never dropped, however small. Crowd regions follow the same
rules and stay flagged as crowds.
"""

from fastload.plan.transforms.color import ColorJitter
from fastload.plan.transforms.geometric import RandomFlip, Resize, ScaleJitterCrop, ShortestEdge
from fastload.plan.transforms.mix import Mosaic
from fastload.plan.transforms.transform import Transform

__all__ = ["ColorJitter", "Mosaic", "RandomFlip", "Resize", "ScaleJitterCrop", "ShortestEdge", "Transform"]
