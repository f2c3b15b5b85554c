"""BatchPlan: the description of a batch, before any pixel is read.

A plan is a struct of arrays, so planning several consecutive batches at once takes little longer than planning one;
`split` separates them. A *row* (N) shows a part of one source image, and a *slot* (B) is one image of the batch. A
mosaic has several rows in one slot, so N may exceed B. Transforms edit the plan, `place` positions the slots on their
canvases, and an engine executes the plan. Pixels, boxes and points are mapped by the same matrices.

In arrays, x comes before y and width before height. Edits process one axis at a time, because NumPy takes four times
as long for arrays of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.errors import PlanError
from fastload.plan import geometry

ROW_COLUMNS = ("index", "slot", "source", "crop", "clip", "flip", "color")
OPTIONAL_ROW_COLUMNS = ("warp", "alpha")  # None in most plans
IDENTITY_COLOR = np.eye(3, 4, dtype=np.float32)
FILL = -1  # the index of a row without a source
CLIP_LIMIT = 1 << 20  # pixels; bounds the clips of transformed rows, which are int32


@dataclass
class BatchPlan:
    """The description of a batch, or of several consecutive batches, as arrays.

    Rows are sorted by slot. The rows of a slot are drawn in order, each over the previous ones.

    An axis-aligned row shows `crop` of its source in `clip` of its slot: the center of the clip's pixel (u, v) samples
    the source at crop.x + (u + .5) * crop.w / clip.w - .5, mirrored if `flip` is set, and likewise in y. A row with a
    `warp` shows the part of `crop` that this matrix maps into `clip`. `matrix` is the map of both kinds of rows. A row
    whose index is FILL has no source: it fills its clip with black, changed by `color`.
    """

    index: NDArray[np.int64]  # (N) record in the cache, or FILL
    slot: NDArray[np.int32]  # (N) image of the batch
    source: NDArray[np.int32]  # (N, 2) width, height of the source
    crop: NDArray[np.float32]  # (N, 4) x, y, w, h in source pixels
    clip: NDArray[np.int32]  # (N, 4) x, y, w, h in the slot's image; once placed, on the canvas
    flip: NDArray[np.bool_]  # (N)
    color: NDArray[np.float32]  # (N, 3, 4) RGB in 0..255 -> color[:, :3] @ rgb + color[:, 3]
    size: NDArray[np.int32]  # (B, 2) width, height of the slot's image
    offset: NDArray[np.int32]  # (B, 2) x, y of the slot's image on the canvas
    canvases: NDArray[np.int32]  # (B, 2) width, height of the slot's canvas, equal within a batch
    fill: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(3, np.uint8))  # RGB where there is no row
    min_visible: float = 0.0  # a clipped box with less than this share of its area left is dropped
    warp: NDArray[np.float32] | None = None  # (N, 2, 3) from the source to the slot's image; NaN in axis-aligned rows
    alpha: NDArray[np.float32] | None = None  # (N) opacity, 0 to 1; None: all rows are opaque

    @classmethod
    def of(cls, index: NDArray[np.int64], source: NDArray[np.int32]) -> BatchPlan:
        """Return a plan with one row per slot, which shows the whole source at its own size.

        Args:
            index: (N) records in the cache.
            source: (N, 2) width, height in pixels.
        """
        n = len(index)
        whole = np.zeros((n, 4), np.int32)
        whole[:, 2:] = source
        return cls(
            index=np.asarray(index, np.int64),
            slot=np.arange(n, dtype=np.int32),
            source=np.asarray(source, np.int32),
            crop=whole.astype(np.float32),
            clip=whole,
            flip=np.zeros(n, np.bool_),
            color=IDENTITY_COLOR[None].repeat(n, 0),
            size=np.array(source, np.int32),
            offset=np.zeros((n, 2), np.int32),
            canvases=np.zeros((n, 2), np.int32),
        )

    def resize(self, size: NDArray[np.int32]) -> None:
        """Scale the image of each slot. Rows that become narrower or lower than one pixel are dropped.

        Args:
            size: (B, 2) new width, height in pixels.

        Raises:
            PlanError: a size is below one pixel.
        """
        size = _at_least_one_pixel(size)
        scale = (size / self.size).take(self.slot, 0)
        for axis in (0, 1):
            near, extent = self.clip[:, axis], self.clip[:, axis + 2]
            far = np.rint((near + extent) * scale[:, axis])
            near[:] = np.rint(near * scale[:, axis])
            extent[:] = far - near
        if self.warp is not None:
            self.warp *= scale[:, :, None]
        self.size = size
        self._drop_hidden()

    def crop_to(self, box: NDArray[np.int32]) -> None:
        """Crop the image of each slot to a box. Parts of the box outside the image become padding.

        Args:
            box: (B, 4) x, y, w, h in pixels.

        Raises:
            PlanError: a box is below one pixel.
        """
        box = np.asarray(box, np.int32)
        size = _at_least_one_pixel(box[:, 2:])
        corner, extent = box[:, :2].take(self.slot, 0), box[:, 2:].take(self.slot, 0)
        aligned = self.is_aligned
        for axis in (0, 1):
            start, length = self.clip[:, axis], self.clip[:, axis + 2]
            near = np.maximum(start, corner[:, axis])
            far = np.minimum(start + length, corner[:, axis] + extent[:, axis])
            cut = near - start
            if axis == 0:
                cut = np.where(self.flip, start + length - far, cut)
            step = self.crop[:, axis + 2] / length
            np.add(self.crop[:, axis], cut * step, out=self.crop[:, axis], where=aligned, casting="same_kind")
            np.copyto(self.crop[:, axis + 2], (far - near) * step, where=aligned, casting="same_kind")
            start[:] = near - corner[:, axis]
            length[:] = far - near
        if self.warp is not None:
            self.warp[:, :, 2] -= corner
        self.size = size
        self._drop_hidden()

    def flip_horizontally(self, mask: NDArray[np.bool_]) -> None:
        """Mirror images left to right.

        Args:
            mask: (B) whether to mirror each slot.
        """
        rows = mask.take(self.slot)
        width = self.size[:, 0].take(self.slot)
        np.copyto(self.clip[:, 0], width - self.clip[:, 0] - self.clip[:, 2], where=rows)
        self.flip ^= rows & self.is_aligned
        if self.warp is not None:
            self.warp[rows, 0] *= -1
            self.warp[rows, 0, 2] += width[rows]

    def transform(self, matrix: NDArray[np.floating[Any]], size: NDArray[np.int32]) -> None:
        """Map the image of each slot by an affine matrix. Slots with the identity matrix stay axis-aligned.

        Parts that an earlier `transform` moved out of the image become visible again if this one moves them back.

        Args:
            matrix: (B, 2, 3) (x, y) is mapped to matrix[:, :2] @ (x, y) + matrix[:, 2], in pixels.
            size: (B, 2) width, height of the new images.

        Raises:
            PlanError: a size is below one pixel.
        """
        matrix = np.asarray(matrix, np.float64).take(self.slot, 0)
        moved = (matrix != np.eye(2, 3)).any((1, 2))
        warp = geometry.compose(matrix, self.matrix)
        reach = geometry.map_boxes(warp, np.concatenate([self.crop[:, :2], self.crop[:, :2] + self.crop[:, 2:]], 1))
        reach = reach.clip(-CLIP_LIMIT, CLIP_LIMIT)
        corner = np.floor(reach[:, :2])
        bounds = np.concatenate([corner, np.ceil(reach[:, 2:]) - corner], 1).astype(np.int32)
        if self.warp is None and moved.any():
            self.warp = np.full(warp.shape, np.nan, np.float32)
        if self.warp is not None:
            np.copyto(self.warp, warp, where=moved[:, None, None])
        np.copyto(self.clip, bounds, where=moved[:, None])
        self.flip &= ~moved
        self.crop_to(np.concatenate([np.zeros_like(size), size], 1))

    def recolor(self, color: NDArray[np.float32]) -> None:
        """Change the colors of each slot, after the changes that are already planned.

        Args:
            color: (B, 3, 4) RGB in levels of 0 to 255 becomes color[:, :3] @ rgb + color[:, 3]. Values are clipped once
                after all changes.
        """
        after = color[self.slot]
        self.color = after[:, :, :3] @ self.color
        self.color[:, :, 3] += after[:, :, 3]

    def fade(self, alpha: NDArray[np.float32]) -> None:
        """Multiply the opacity of all rows of each slot.

        Args:
            alpha: (B) factors, 0 to 1.
        """
        opacity = np.ones(len(self.index), np.float32) if self.alpha is None else self.alpha
        self.alpha = opacity * np.asarray(alpha, np.float32).take(self.slot)

    def cover(self, slot: NDArray[np.int32], box: NDArray[np.int32], rgb: NDArray[np.float32]) -> None:
        """Draw S filled rectangles over images.

        Args:
            slot: (S) the slot of each rectangle.
            box: (S, 4) x, y, w, h in pixels of the slot's image.
            rgb: (S, 3) color in levels of 0 to 255.
        """
        count = len(slot)
        more = BatchPlan.of(np.full(count, FILL), np.ones((count, 2), np.int32))
        more.slot, more.clip = np.asarray(slot, np.int32), np.array(box, np.int32)
        more.color[:, :, 3] = rgb
        self._append(more)
        self._keep(np.argsort(self.slot, kind="stable"))

    def extend(self, index: NDArray[np.int64], source: NDArray[np.int32]) -> None:
        """Add S slots, each of which shows a whole source at its own size.

        Args:
            index: (S) records in the cache.
            source: (S, 2) width, height in pixels.
        """
        more = BatchPlan.of(index, source)
        more.slot += np.int32(len(self.size))
        self._append(more)
        for name in ("size", "offset"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(more, name)]))

    def compose(self, into: NDArray[np.int32], corner: NDArray[np.int32], size: NDArray[np.int32]) -> None:
        """Combine the S slots of the plan into B new ones. Later slots are drawn over earlier ones.

        Args:
            into: (S) the new slot of each slot.
            corner: (S, 2) x, y of the slot's upper left corner in the new slot, within which it must lie.
            size: (B, 2) width, height of the new slots in pixels.

        Raises:
            PlanError: a size is below one pixel.
        """
        self._move(corner)
        self.slot = np.asarray(into, np.int32).take(self.slot)
        self.size = _at_least_one_pixel(size)
        self.offset = np.zeros_like(self.size)
        self._keep(np.argsort(self.slot, kind="stable"))

    def place(
        self, canvas: tuple[int, int] | NDArray[np.int32], offset: NDArray[np.int32], fill: NDArray[np.uint8]
    ) -> None:
        """Position the slots on their canvases. This is the last edit of a plan.

        Args:
            canvas: (width, height) in pixels, or (B, 2) for each slot of a plan of several batches.
            offset: (B, 2) x, y of the upper left corner of each slot's image on the canvas.
            fill: (3) RGB of the padding.

        Raises:
            PlanError: an image does not lie within its canvas.
        """
        self.canvases = np.array(np.broadcast_to(canvas, self.size.shape), np.int32, order="C")
        self.offset = np.asarray(offset, np.int32)
        room = [self.canvases[:, axis] - self.offset[:, axis] - self.size[:, axis] for axis in (0, 1)]
        if min(room[0].min(), room[1].min(), self.offset.min()) < 0:
            raise PlanError(
                f"images of {self.size.tolist()} (width, height) at {self.offset.tolist()} (x, y) do not lie within "
                f"canvases of {self.canvases.tolist()} (width, height): check the collator's canvas() and offsets()"
            )
        self._move(self.offset)
        self.fill = fill

    def split(self, ends: Sequence[int]) -> list[BatchPlan]:
        """Split a placed plan into batches, which share its memory. `ends` has the slot after the last of each."""
        return [self.part(*slots) for slots in pairwise([0, *ends])]

    def part(self, begin: int, end: int) -> BatchPlan:
        """Return the slots from `begin` to `end` of a placed plan as a plan that shares its memory."""
        rows, slots = slice(*self.slot.searchsorted([begin, end]).tolist()), slice(begin, end)
        return BatchPlan(
            self.index[rows],
            self.slot[rows] - np.int32(begin),
            self.source[rows],
            self.crop[rows],
            self.clip[rows],
            self.flip[rows],
            self.color[rows],
            self.size[slots],
            self.offset[slots],
            self.canvases[slots],
            self.fill,
            self.min_visible,
            None if self.warp is None else self.warp[rows],
            None if self.alpha is None else self.alpha[rows],
        )

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of the canvases of a placed plan of one batch, in pixels."""
        width, height = self.canvases[0].tolist()
        return width, height

    @property
    def is_aligned(self) -> NDArray[np.bool_]:
        """(N) whether each row is axis-aligned; a scalar True if there is no `warp`."""
        return np.array(True) if self.warp is None else np.isnan(self.warp[:, 0, 0])

    @property
    def matrix(self) -> NDArray[np.float32]:
        """(N, 2, 3) maps from source pixels to pixels of the slot's image; once placed, of the canvas."""
        aligned = geometry.aligned_matrix(self.crop, self.clip, self.flip)
        return aligned if self.warp is None else np.where(np.isnan(self.warp), aligned, self.warp)

    def map_boxes(self, boxes: NDArray[np.float32], row: NDArray[np.int64]) -> NDArray[np.float32]:
        """Map source boxes to the canvas without clipping.

        Args:
            boxes: (M, 4) x0, y0, x1, y1 in pixels of the source.
            row: (M) the row of each box.

        Returns:
            (M, 4) the smallest boxes around the mapped ones, in canvas pixels.
        """
        return geometry.map_boxes(self.matrix.take(row, 0), boxes)

    def unmap_boxes(self, boxes: NDArray[np.float32], row: NDArray[np.int64]) -> NDArray[np.float32]:
        """Map canvas boxes (M, 4) of rows `row` (M) back to their sources: the inverse of `map_boxes`."""
        return geometry.unmap_boxes(self.matrix.take(row, 0), boxes)

    def _append(self, more: BatchPlan) -> None:
        """Add the rows of another plan, which must be opaque and axis-aligned."""
        count = len(more.index)
        for name in ROW_COLUMNS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(more, name)]))
        if self.warp is not None:
            self.warp = np.concatenate([self.warp, np.full((count, 2, 3), np.nan, np.float32)])
        if self.alpha is not None:
            self.alpha = np.concatenate([self.alpha, np.ones(count, np.float32)])

    def _move(self, by: NDArray[np.int32]) -> None:
        """Move the rows of each slot by (B, 2) x, y pixels."""
        by = by.take(self.slot, 0)
        for axis in (0, 1):
            self.clip[:, axis] += by[:, axis]
        if self.warp is not None:
            self.warp[:, :, 2] += by

    def _drop_hidden(self) -> None:
        width, height = self.clip[:, 2], self.clip[:, 3]
        if min(width.min(initial=1), height.min(initial=1)) < 1:
            self._keep((width > 0) & (height > 0))

    def _keep(self, rows: NDArray[Any]) -> None:
        for name in (*ROW_COLUMNS, *OPTIONAL_ROW_COLUMNS):
            if (column := getattr(self, name)) is not None:
                setattr(self, name, column[rows])


def _at_least_one_pixel(size: NDArray[np.int32]) -> NDArray[np.int32]:
    size = np.array(size, np.int32, order="C")  # the core requires this order, and `size` may be a broadcast view
    if size.min(initial=1) < 1:
        raise PlanError(f"a transform makes images of {size.tolist()} (width, height): each needs at least 1 pixel")
    return size
