"""ImageIndex: the images of a cache that a loader iterates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.plan.batch_plan import BatchPlan


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """The images a loader iterates: all of a cache, or a subset of it.

    `index` (n) is each image's record in the cache, `size` (n, 2) its width and height in pixels.
    """

    index: NDArray[np.int64]
    size: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def aspect(self) -> NDArray[np.float64]:
        """Width divided by height (n)."""
        ratio: NDArray[np.float64] = self.size[:, 0] / self.size[:, 1]
        return ratio

    def plan(self, positions: NDArray[np.int64]) -> BatchPlan:
        """A batch of the images at `positions` (B) of this selection, each shown whole at its own size."""
        return BatchPlan.of(self.index.take(positions), self.size.take(positions, 0))
