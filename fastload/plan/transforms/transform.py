"""Transform: the base class of transforms, and the arithmetic that they share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex


class Transform:
    """Base class of transforms, which edit the plan of a batch. Subclasses override `__call__`.

        class HalfSize(Transform):
            spans_batches = True

            def __call__(self, plan, rng, images):
                plan.resize((plan.size + 1) // 2)

    Set `spans_batches = True` if the transform treats each image independently. If all transforms of a loader do so,
    they are called once for several batches, which is faster.
    """

    spans_batches = False

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        """Edit a plan in place.

        Args:
            plan: a plan of B images. `plan.size` (B, 2) is their current width and height in pixels. Its edits are
                `resize`, `crop_to`, `flip_horizontally`, `transform`, `recolor`, `fade`, `cover`, `extend` and
                `compose`.
            rng: the source of all random numbers, seeded by (seed, epoch, step) so that runs are reproducible.
            images: all images of the loader, for transforms that add others.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override __call__(plan, rng, images)")


def width_height(size: int | tuple[int, int], user: Transform) -> NDArray[np.int32]:
    """Return `size`, (height, width) in pixels or the edge of a square, as an array (width, height).

    Raises:
        ArgumentError: `size` is not one or two whole numbers of at least 1. The message names the class of `user`.
    """
    pair = np.asarray((size, size) if isinstance(size, int) else size)
    if pair.shape != (2,) or pair.dtype.kind not in "iu" or pair.min() < 1:
        raise ArgumentError(f"{type(user).__name__} needs a size in pixels, (height, width) or one edge, not {size!r}")
    return pair[::-1].astype(np.int32)


def scaled(size: NDArray[np.int32], scale: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return `size` (B, 2) times `scale` (B), rounded half up, and at least 1."""
    return np.maximum(np.floor(size * scale[:, None] + 0.5), 1).astype(np.int32)
