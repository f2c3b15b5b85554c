"""Transform: the base class of everything that edits a plan, and arithmetic that several share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex


class Transform:
    """Base class of everything that edits a plan. To write one, override `__call__`.

    `spans_batches = True` says that it treats each image by itself. It may then be given the images of several batches
    at once, which takes a fraction of the time; but all transforms of a loader must say so.
    """

    spans_batches = False

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        """Change `plan` (B images) through its edits: `resize`, `crop_to`, `flip_horizontally`,
        `transform`, `recolor`, `fade`, `cover`, `extend`, `compose`.

        `plan.size` (B, 2) has the images' width and height as they are so far. Draw all chance from `rng`, which is
        seeded by (seed, epoch, step): that is what makes runs repeatable. `images` are all images of the loader, for
        transforms that mix in others.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override __call__(plan, rng, images)")


def width_height(size: int | tuple[int, int], user: Transform) -> NDArray[np.int32]:
    """`size`, an edge or (height, width) in pixels, as (width, height)."""
    pair = np.asarray((size, size) if isinstance(size, int) else size)
    if pair.shape != (2,) or pair.dtype.kind not in "iu" or pair.min() < 1:
        raise ArgumentError(f"{type(user).__name__} needs a size in pixels, one or (height, width), not {size!r}")
    return pair[::-1].astype(np.int32)


def scaled(size: NDArray[np.int32], scale: NDArray[np.float64]) -> NDArray[np.int32]:
    """`size` (B, 2) times `scale` (B), rounded half up, one pixel at least."""
    return np.maximum(np.floor(size * scale[:, None] + 0.5), 1).astype(np.int32)
