"""MaskPlan: the masks to draw for a batch, before any is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.plan.batch_plan import BatchPlan


@dataclass(frozen=True)
class MaskSettings:
    """How masks are drawn.

    Args:
        stride: canvas pixels per mask pixel, in x and y.
        measured: whether the boxes around masks and their areas are computed too.
    """

    stride: int = 1
    measured: bool = False

    def size(self, canvas: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of masks on a canvas (width, height): a part of a pixel counts as one."""
        width, height = canvas
        return -(-height // self.stride), -(-width // self.stride)


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """The masks of one or several placed batches, which are executed with their `BatchPlan`.

    Args:
        shapes: the polygons and run lengths of the cache, the core's `MaskShapes`: see `Annotations.mask_shapes`.
        objects: (M) the row of each object in the annotations.
        rows: (M) ascending, the row of the plan that shows it; -1 for padding, which has no mask.
        settings: how they are drawn.
    """

    shapes: Any
    objects: NDArray[np.int64]
    rows: NDArray[np.int64]
    settings: MaskSettings

    @property
    def stride(self) -> int:
        return self.settings.stride

    @property
    def measured(self) -> bool:
        return self.settings.measured

    def part(self, plan: BatchPlan, begin: int, end: int) -> MaskPlan:
        """Return the masks of `plan.part(begin, end)`, the slots from `begin` to `end`."""
        first, last = plan.slot.searchsorted([begin, end])
        here = np.flatnonzero((self.rows >= first) & (self.rows < last))
        return replace(self, objects=self.objects[here], rows=self.rows[here] - first)
