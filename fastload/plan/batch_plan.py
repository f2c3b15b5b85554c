"""BatchPlan: what a batch will be, before a pixel is touched.

A plan is a struct of arrays, so planning costs much the same for one batch and for several in a row, which `split`
takes apart. One *row* is one source image (N rows); one *slot* is one image of the batch (B slots,
N >= B when a mosaic puts several sources on one). Transforms change numbers in it through the edits below;
`place` puts the slots on the canvas; an engine then executes it. Its geometry is exact in both directions, so
boxes follow by the same numbers.

Columns that hold geometry are x before y, width before height. Edits go through them axis by axis where NumPy would
otherwise go through pairs, which takes it four times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.errors import PlanError

ROW_COLUMNS = ("index", "slot", "source", "crop", "rect", "flip", "color")
IDENTITY_COLOR = np.eye(3, 4, dtype=np.float32)


@dataclass
class BatchPlan:
    """A batch as numbers.

    Shapes: N rows (sorted by slot), B slots. A row shows `crop` of its source in `rect` of its slot: the centre of
    destination pixel (u, v) of the rectangle samples the source at crop.x + (u + .5) * crop.w / rect.w - .5, mirrored
    when `flip` is set, likewise in y. Rows of one slot do not overlap.
    """

    index: NDArray[np.int64]  # (N) record in the cache
    slot: NDArray[np.int32]  # (N) which image of the batch
    source: NDArray[np.int32]  # (N, 2) width, height of the record's image
    crop: NDArray[np.float32]  # (N, 4) x, y, w, h in source pixels
    rect: NDArray[np.int32]  # (N, 4) x, y, w, h in the slot's image; on the canvas once placed
    flip: NDArray[np.bool_]  # (N)
    color: NDArray[np.float32]  # (N, 3, 4) RGB in 0..255 -> color[:, :3] @ rgb + color[:, 3]
    size: NDArray[np.int32]  # (B, 2) width, height of the slot's image
    offset: NDArray[np.int32]  # (B, 2) x, y of the slot's image on the canvas
    canvases: NDArray[np.int32]  # (B, 2) height, width of the slot's canvas: of one batch the same
    fill: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(3, np.uint8))  # RGB of what no row covers
    min_visible: float = 0.0  # a box cut to less than this share of its area is dropped

    @classmethod
    def of(cls, index: NDArray[np.int64], source: NDArray[np.int32]) -> BatchPlan:
        """One row a slot, each source shown whole at its own size. `source` is (N, 2) width, height."""
        n = len(index)
        whole = np.zeros((n, 4), np.int32)
        whole[:, 2:] = source
        return cls(
            index=np.asarray(index, np.int64),
            slot=np.arange(n, dtype=np.int32),
            source=np.asarray(source, np.int32),
            crop=whole.astype(np.float32),
            rect=whole,
            flip=np.zeros(n, np.bool_),
            color=IDENTITY_COLOR[None].repeat(n, 0),
            size=np.array(source, np.int32),
            offset=np.zeros((n, 2), np.int32),
            canvases=np.zeros((n, 2), np.int32),
        )

    def resize(self, size: NDArray[np.int32]) -> None:
        """Scale each slot's image to `size` (B, 2) width, height. A row that shrinks to nothing is dropped."""
        size = _at_least_one_pixel(size)
        scale = (size / self.size).take(self.slot, 0)
        for axis in (0, 1):
            near, extent = self.rect[:, axis], self.rect[:, axis + 2]
            far = np.rint((near + extent) * scale[:, axis])
            near[:] = np.rint(near * scale[:, axis])
            extent[:] = far - near
        self.size = size
        self._drop_hidden()

    def window(self, box: NDArray[np.int32]) -> None:
        """Keep only `box` (B, 4) x, y, w, h of each slot's image. It may reach beyond the image: that is padding."""
        box = np.asarray(box, np.int32)
        size = _at_least_one_pixel(box[:, 2:])
        corner, extent = box[:, :2].take(self.slot, 0), box[:, 2:].take(self.slot, 0)
        for axis in (0, 1):
            start, length = self.rect[:, axis], self.rect[:, axis + 2]
            near = np.maximum(start, corner[:, axis])
            far = np.minimum(start + length, corner[:, axis] + extent[:, axis])
            cut = near - start
            if axis == 0:
                cut = np.where(self.flip, start + length - far, cut)
            step = self.crop[:, axis + 2] / length
            self.crop[:, axis] += cut * step
            self.crop[:, axis + 2] = (far - near) * step
            start[:] = near - corner[:, axis]
            length[:] = far - near
        self.size = size
        self._drop_hidden()

    def mirror(self, mask: NDArray[np.bool_]) -> None:
        """Flip the slots of `mask` (B) left to right."""
        rows = mask.take(self.slot)
        mirrored = self.size[:, 0].take(self.slot) - self.rect[:, 0] - self.rect[:, 2]
        np.copyto(self.rect[:, 0], mirrored, where=rows)
        self.flip ^= rows

    def recolor(self, color: NDArray[np.float32]) -> None:
        """Apply `color` (B, 3, 4) after the colours already planned."""
        after = color[self.slot]
        self.color = after[:, :, :3] @ self.color
        self.color[:, :, 3] += after[:, :, 3]

    def extend(self, index: NDArray[np.int64], source: NDArray[np.int32]) -> None:
        """Add a slot for each of these records (S), `source` (S, 2) width, height, shown whole at its own size."""
        more = BatchPlan.of(index, source)
        more.slot += np.int32(len(self.size))
        for name in (*ROW_COLUMNS, "size", "offset"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(more, name)]))

    def merge(self, into: NDArray[np.int32], corner: NDArray[np.int32], size: NDArray[np.int32]) -> None:
        """Assemble the slots on larger images: slot s goes to `corner[s]` (x, y) of the new slot `into[s]`.

        `size` (B, 2) is the new slots' width, height; `into` (S) and `corner` (S, 2) have an entry a present slot. What
        they put on one new slot must lie within it and not overlap.
        """
        self._move(corner)
        self.slot = np.asarray(into, np.int32).take(self.slot)
        self.size = _at_least_one_pixel(size)
        self.offset = np.zeros_like(self.size)
        self._keep(np.argsort(self.slot, kind="stable"))

    def place(
        self, canvas: tuple[int, int] | NDArray[np.int32], offset: NDArray[np.int32], fill: NDArray[np.uint8]
    ) -> None:
        """Put the slots at `offset` (B, 2) x, y on canvases of `canvas` (height, width). The last edit of a plan.

        In a plan of several batches, `canvas` (B, 2) is that of each slot.
        """
        self.canvases = np.array(np.broadcast_to(canvas, self.size.shape), np.int32, order="C")
        self.offset = np.asarray(offset, np.int32)
        room = [self.canvases[:, 1 - axis] - self.offset[:, axis] - self.size[:, axis] for axis in (0, 1)]
        if min(room[0].min(), room[1].min(), self.offset.min()) < 0:
            raise PlanError(
                f"images of {self.size.tolist()} (width, height) at {self.offset.tolist()} (x, y) do not lie within "
                f"canvases of {self.canvases.tolist()} (height, width): check the collator's canvas() and offsets()"
            )
        self._move(self.offset)
        self.fill = fill

    def split(self, ends: Sequence[int]) -> list[BatchPlan]:
        """A placed plan of several batches as a plan for each: the slots up to each of `ends`. They share memory."""
        return [self.part(*slots) for slots in pairwise([0, *ends])]

    def part(self, begin: int, end: int) -> BatchPlan:
        """The slots from `begin` to `end` of a placed plan, as a plan of their own. Memory is shared."""
        rows, slots = slice(*self.slot.searchsorted([begin, end]).tolist()), slice(begin, end)
        return BatchPlan(
            self.index[rows],
            self.slot[rows] - np.int32(begin),
            self.source[rows],
            self.crop[rows],
            self.rect[rows],
            self.flip[rows],
            self.color[rows],
            self.size[slots],
            self.offset[slots],
            self.canvases[slots],
            self.fill,
            self.min_visible,
        )

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvases of a placed plan of one batch."""
        height, width = self.canvases[0].tolist()
        return height, width

    def affine(self) -> NDArray[np.float32]:
        """How source pixels become canvas pixels, (N, 4): x -> a[0] * x + a[2], y -> a[1] * y + a[3].

        a[0] is negative for a flipped row.
        """
        affine = np.empty((len(self.rect), 4), np.float32)
        scale, start = affine[:, :2], affine[:, 2:]
        scale[:] = self.rect[:, 2:] / self.crop[:, 2:]
        np.copyto(scale[:, 0], -scale[:, 0], where=self.flip)
        start[:] = self.rect[:, :2] - self.crop[:, :2] * scale
        start[:, 0] += self.flip * self.rect[:, 2]
        return affine

    def map_boxes(self, boxes: NDArray[np.float32], row: NDArray[np.int64]) -> NDArray[np.float32]:
        """Source boxes (M, 4) x0, y0, x1, y1 of rows `row` (M), on the canvas; not clipped."""
        affine = self.affine().take(row, 0)[:, None]
        return _in_order(boxes.reshape(-1, 2, 2) * affine[..., :2] + affine[..., 2:])

    def unmap_boxes(self, boxes: NDArray[np.float32], row: NDArray[np.int64]) -> NDArray[np.float32]:
        """The inverse of `map_boxes`."""
        affine = self.affine().take(row, 0)[:, None]
        return _in_order((boxes.reshape(-1, 2, 2) - affine[..., 2:]) / affine[..., :2])

    def _move(self, by: NDArray[np.int32]) -> None:
        """Shift what each slot shows `by` (B, 2) x, y."""
        by = by.take(self.slot, 0)
        for axis in (0, 1):
            self.rect[:, axis] += by[:, axis]

    def _drop_hidden(self) -> None:
        width, height = self.rect[:, 2], self.rect[:, 3]
        if min(width.min(initial=1), height.min(initial=1)) < 1:
            self._keep((width > 0) & (height > 0))

    def _keep(self, rows: NDArray[Any]) -> None:
        for name in ROW_COLUMNS:
            setattr(self, name, getattr(self, name)[rows])


def _at_least_one_pixel(size: NDArray[np.int32]) -> NDArray[np.int32]:
    size = np.array(size, np.int32, order="C")  # the core takes no other, and this may be a broadcast
    if size.min(initial=1) < 1:
        raise PlanError(f"a transform asks for images of {size.tolist()} (width, height): each needs a pixel at least")
    return size


def _in_order(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (M, 4) x0 <= x1, y0 <= y1 of two opposite corners (M, 2, 2) each."""
    boxes = np.empty((len(corners), 4), np.float32)
    np.minimum(corners[:, 0], corners[:, 1], out=boxes[:, :2])
    np.maximum(corners[:, 0], corners[:, 1], out=boxes[:, 2:])
    return boxes
