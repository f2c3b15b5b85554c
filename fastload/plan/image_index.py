"""ImageIndex: the images of a loader."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.plan import geometry
from fastload.plan.batch_plan import BatchPlan


@dataclass(frozen=True, eq=False)
class PlannedBoxes:
    """The M boxes that the rows of a plan show, in the order of the rows.

    Args:
        box: (M, 4) x0, y0, x1, y1 in pixels of the slot's image, clipped to the visible part of its row.
        slot: (M) the slot that shows the box.
        row: (M) the row that shows it.
        number: (M) the box in the cache.
    """

    box: NDArray[np.float32]
    slot: NDArray[np.int32]
    row: NDArray[np.int64]
    number: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """The images of a loader: all n images of a cache, or a subset.

    Args:
        index: (n) record in the cache.
        size: (n, 2) width, height in pixels.
        box_offsets: record i of the cache has the boxes box_offsets[i] to box_offsets[i + 1]. None: no boxes are known.
        source_boxes: x0, y0, x1, y1 of all boxes of the cache in pixels of the stored images.
        means: (records, 3) mean RGB of each record of the cache. None: they are unknown.
    """

    index: NDArray[np.int64]
    size: NDArray[np.int32]
    box_offsets: NDArray[np.int64] | None = None
    source_boxes: NDArray[np.float32] | None = None
    means: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def aspect(self) -> NDArray[np.float64]:
        """(n) width divided by height."""
        ratio: NDArray[np.float64] = self.size[:, 0] / self.size[:, 1]
        return ratio

    @cached_property
    def with_boxes(self) -> NDArray[np.int64]:
        """Positions of the images that have boxes; none if boxes are not known."""
        if self.box_offsets is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.box_offsets[self.index + 1] > self.box_offsets[self.index])

    def plan(self, positions: NDArray[np.int64]) -> BatchPlan:
        """Return a plan of the images at `positions` (B) of this index, each whole and at its own size."""
        return BatchPlan.of(self.index.take(positions), self.size.take(positions, 0))

    def mean(self, plan: BatchPlan) -> NDArray[np.float32] | None:
        """Return the mean RGB (N, 3) of the whole source of each row, 0 for rows without one; None if unknown."""
        if self.means is None:
            return None
        return np.where((plan.index >= 0)[:, None], self.means.take(plan.index, 0, mode="clip"), np.float32(0))

    def has_boxes(self, plan: BatchPlan) -> NDArray[np.bool_]:
        """Return (B) whether one of the images that each slot shows has boxes, visible or not."""
        found = np.zeros(len(plan.size), np.bool_)
        if self.box_offsets is not None:
            first, end = (self.box_offsets.take(plan.index + step, mode="clip") for step in (0, 1))
            found[plan.slot[(end > first) & (plan.index >= 0)]] = True
        return found

    def boxes(self, plan: BatchPlan) -> PlannedBoxes:
        """Return the boxes that a plan shows at this point. Boxes that are not visible are skipped.

        The rules that drop boxes (see `fastload.plan.transforms`) are applied later, when the plan is finished.
        """
        if self.box_offsets is None or self.source_boxes is None:
            return PlannedBoxes(
                np.empty((0, 4), np.float32), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64)
            )
        rows = np.flatnonzero(plan.index >= 0)
        first = self.box_offsets.take(plan.index[rows])
        counts = self.box_offsets.take(plan.index[rows] + 1) - first
        ends = counts.cumsum()
        row = rows.repeat(counts)
        number = np.arange(len(row)) + (first - ends + counts).repeat(counts)
        source = self.source_boxes.take(number, 0)
        within = source
        if plan.warp is not None:  # the crop of an axis-aligned row is that of its clip
            within = np.where(plan.is_aligned.take(row)[:, None], source, _clipped(source, plan.crop.take(row, 0)))
        box = _clipped(geometry.map_boxes(plan.matrix.take(row, 0), within), plan.clip.take(row, 0))
        seen = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
        if plan.centers is not None:
            inner, center = plan.centers.take(row, 0), (source[:, :2] + source[:, 2:]) / 2
            seen &= ((center >= inner[:, :2]) & (center <= inner[:, 2:])).all(1)
        if plan.objects is not None and plan.selected is not None:
            cut_out = np.flatnonzero(plan.objects[:, 0] >= 0)
            first, end = plan.objects[cut_out].T
            chosen = np.concatenate([plan.selected[:0], *map(plan.selected.__getitem__, map(slice, first, end))])
            pairs = np.stack([cut_out.repeat(end - first), chosen], 1)
            is_whole = plan.objects[row, 0] < 0
            seen &= is_whole | _in_pairs(np.stack([row, number], 1), pairs)
        return PlannedBoxes(box[seen], plan.slot.take(row[seen]), row[seen], number[seen])


def _in_pairs(wanted: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (M) whether each of the pairs `wanted` (M, 2), which are not negative, is one of `pairs` (K, 2)."""
    base = 1 + max(wanted[:, 1].max(initial=0), pairs[:, 1].max(initial=0))
    return np.isin(wanted @ [base, 1], pairs @ [base, 1])


def _clipped(box: NDArray[np.float32], limits: NDArray[np.number[Any]]) -> NDArray[np.float32]:
    """Clip boxes (M, 4) to `limits` (M, 4) x, y, w, h."""
    low, high = limits[:, :2], limits[:, :2] + limits[:, 2:]
    return np.concatenate([np.clip(box[:, :2], low, high), np.clip(box[:, 2:], low, high)], 1).astype(np.float32)
