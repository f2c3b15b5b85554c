"""ImageIndex: the images of a loader."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.plan.batch_plan import BatchPlan


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """The images of a loader: all n images of a cache, or a subset.

    Args:
        index: (n) record in the cache.
        size: (n, 2) width, height in pixels.
    """

    index: NDArray[np.int64]
    size: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def aspect(self) -> NDArray[np.float64]:
        """(n) width divided by height."""
        ratio: NDArray[np.float64] = self.size[:, 0] / self.size[:, 1]
        return ratio

    def plan(self, positions: NDArray[np.int64]) -> BatchPlan:
        """Return a plan of the images at `positions` (B) of this index, each whole and at its own size."""
        return BatchPlan.of(self.index.take(positions), self.size.take(positions, 0))
