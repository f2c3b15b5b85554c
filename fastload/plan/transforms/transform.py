"""Transform: the base class of transforms, and the arithmetic that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex

Fill = int | tuple[int, int, int] | None  # gray or RGB, 0 to 255; None: the padding's color, which the collator has


class Transform:
    """Base class of transforms, which edit the plan of a batch. Subclasses override `__call__`.

        class HalfSize(Transform):
            spans_batches = True

            def __call__(self, plan, rng, images):
                plan.resize((plan.size + 1) // 2)

    Set `spans_batches = True` if the transform treats each image independently, or batches by `plan.batch`. If all
    transforms of a loader do so, they are called once for several batches, which is faster.
    """

    spans_batches = False

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        """Edit a plan in place.

        Args:
            plan: a plan of B images. `plan.size` (B, 2) is their current width and height in pixels, `plan.batch` (B)
                the number of each one's batch, and `plan.epoch` the number of the epoch. See `BatchPlan` for its edits.
            rng: the source of all random numbers, seeded by (seed, epoch, step) so that runs are reproducible.
            images: all images of the loader, for transforms that add others. `images.boxes(plan)` are the boxes that
                the plan shows.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override __call__(plan, rng, images)")


class RandomTransform(Transform):
    """Base class of transforms that change each image with probability `p`, a field of the subclass."""

    spans_batches = True
    p: float

    def __post_init__(self) -> None:
        check_probability(self.p, self)

    def _draw(self, plan: BatchPlan, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Whether each image (B) is changed."""
        return rng.random(len(plan.size)) < self.p


def width_height(size: int | tuple[int, int], user: Transform) -> NDArray[np.int32]:
    """Return `size`, (height, width) in pixels or the edge of a square, as an array (width, height).

    Raises:
        ArgumentError: `size` is not one or two whole numbers of at least 1. The message names the class of `user`.
    """
    pair = np.asarray((size, size) if isinstance(size, int) else size)
    if pair.shape != (2,) or pair.dtype.kind not in "iu" or pair.min() < 1:
        raise ArgumentError(f"{type(user).__name__} needs a size in pixels, (height, width) or one edge, not {size!r}")
    return pair[::-1].astype(np.int32)


def check_probability(p: float, user: Transform) -> None:
    """Raise ArgumentError unless `p` is from 0 to 1."""
    if not 0 <= p <= 1:
        raise ArgumentError(f"{type(user).__name__} needs a probability from 0 to 1, not {p}")


def check_share(name: str, share: float, user: Transform) -> None:
    """Raise ArgumentError unless `share` is from 0 to 1."""
    if not 0 <= share <= 1:
        raise ArgumentError(f"{type(user).__name__} needs {name} from 0 to 1, not {share}")


def check_range(name: str, low_high: tuple[float, float], least: float, user: Transform) -> None:
    """Raise ArgumentError unless `low_high` is ascending and both are finite and at least `least`."""
    low, high = low_high
    if not (np.isfinite([low, high]).all() and least <= low <= high):
        raise ArgumentError(
            f"{type(user).__name__} needs {name} (low, high), ascending and at least {least}, not {low_high}"
        )


def fill_color(fill: int | tuple[int, int, int], user: Transform) -> NDArray[np.float32]:
    """Return RGB (3) of a color.

    Raises:
        ArgumentError: it is not one value or three from 0 to 255. The message names the class of `user`.
    """
    values = np.asarray(fill)
    numbers = values.shape in ((), (3,)) and values.dtype.kind in "iuf"
    if not (numbers and ((values >= 0) & (values <= 255)).all()):
        name = type(user).__name__
        raise ArgumentError(f"{name} needs one value or three (red, green, blue) from 0 to 255 as fill, not {fill!r}")
    return np.broadcast_to(values.astype(np.float32), 3)


def check_fill(fill: Fill, user: Transform) -> None:
    """Raise ArgumentError unless `fill` is None or a color."""
    if fill is not None:
        fill_color(fill, user)


def underlay(plan: BatchPlan, slots: NDArray[np.integer[Any]], fill: Fill, user: Transform) -> None:
    """Fill what the images of `slots` do not cover, unless `fill` is None."""
    if fill is not None and len(slots):
        plan.underlay(slots, fill_color(fill, user))


def edit_slots(plan: BatchPlan, slots: NDArray[np.integer[Any]], edit: Callable[[BatchPlan], None]) -> None:
    """Call `edit` with a plan of some `slots` (S), ascending, and put them back."""
    if len(slots) == len(plan.size):
        edit(plan)
    elif len(slots):
        part = plan.take(slots)
        edit(part)
        plan.put(slots, part)


def scaled(size: NDArray[np.int32], scale: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return `size` (B, 2) times `scale` (B), rounded half up, and at least 1."""
    return np.maximum(np.floor(size * scale[:, None] + 0.5), 1).astype(np.int32)


def scale_exactly(plan: BatchPlan, scale: NDArray[np.float64]) -> None:
    """Scale images by `scale` (B). Their sizes are rounded down, to at least 1; boxes are scaled by exactly `scale`.

    YOLOX does so, in the same floating-point numbers. Boxes are clipped to the rounded size, which YOLOX does not do:
    one that touches the right or lower edge may be up to a pixel smaller.
    """
    matrix = np.zeros((len(scale), 2, 3))
    matrix[:, [0, 1], [0, 1]] = scale[:, None]
    plan.transform(matrix, np.maximum(np.floor(plan.size * scale[:, None]), 1).astype(np.int32))


def fitting(plan: BatchPlan, extent: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the scales (B) at which images are as large as possible within `extent`, (width, height)."""
    scale: NDArray[np.float64] = (extent / plan.size).min(1)
    return scale


def each_batch(plan: BatchPlan, draw: Callable[[int], NDArray[Any]]) -> NDArray[Any]:
    """Return `draw(n)` (n, ...), which has a value for each of the plan's n batches, for each of its slots (B, ...)."""
    if plan.batch is None:
        return draw(1).repeat(len(plan.size), 0)
    numbers, batch = np.unique(plan.batch, return_inverse=True)
    return draw(len(numbers))[batch]
