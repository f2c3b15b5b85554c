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
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.errors import PlanError
from fastload.plan import geometry

ROW_COLUMNS = ("index", "slot", "source", "crop", "clip", "flip", "color")
OPTIONAL_ROW_COLUMNS: dict[str, NDArray[Any]] = {  # None in most plans; the value in rows that do not use the column
    "warp": np.full((2, 3), np.nan, np.float32),
    "alpha": np.array(1, np.float32),
    "layer": np.array(0, np.int32),
    "hsv": np.array([0, 1, 0, 1, 0], np.float32),
    "table": np.array(-1, np.int32),
    "filter": np.array(0, np.uint8),
    "objects": np.array([-1, -1], np.int32),
    "centers": np.array([-np.inf, -np.inf, np.inf, np.inf], np.float32),
    "weight": np.array(1, np.float32),
    "share": np.array(1, np.float32),
}
IDENTITY_COLOR = np.eye(3, 4, dtype=np.float32)
IDENTITY_HSV = OPTIONAL_ROW_COLUMNS["hsv"]
FILL, ADJUST = -1, -2  # the index of rows without a source
NO_TABLE, AUTOCONTRAST, EQUALIZE = -1, -2, -3  # values of `table` that are not numbers of tables
FILTERS = ("bilinear", "bilinear-no-antialias", "nearest", "bicubic")  # in the order of the core's enum
CLIP_LIMIT = 1 << 20  # pixels; bounds the clips of transformed rows, which are int32


@dataclass
class BatchPlan:
    """The description of a batch, or of several consecutive batches, as arrays.

    Rows are sorted by slot. The rows of a slot are drawn in order, each over the previous ones.

    An axis-aligned row shows `crop` of its source in `clip` of its slot: the center of the clip's pixel (u, v) samples
    the source at crop.x + (u + .5) * crop.w / clip.w - .5, mirrored if `flip` is set, and likewise in y. A row with a
    `warp` shows the part of `crop` that this matrix maps into `clip`. `matrix` is the map of both kinds of rows.

    Two kinds of rows have no record, only the geometry of a source of their size. A FILL row shows black. An ADJUST row
    shows what is already drawn under it, with other colors. Colors change in this order, and are rounded to whole
    levels of 0 to 255 after each step: `color`, then in ADJUST rows `hsv` and `table`. The result is blended over what
    is under it with opacity `alpha`.

    Consecutive rows of a slot with the same `layer` above 0 are drawn on a layer of their own. The first of them is a
    FILL row: its visible part bounds the layer, its color is the ground, and its `alpha` is the opacity of the whole
    layer.

    A cut-out row shows only the masks of some `objects` of its source, and has no other boxes.
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
    min_size: float = 0.0  # a box with a side below this many pixels of the slot's image is dropped
    max_aspect: float = np.inf  # a box with a longer side of more than this times the shorter one is dropped
    warp: NDArray[np.float32] | None = None  # (N, 2, 3) from the source to the slot's image; NaN in axis-aligned rows
    alpha: NDArray[np.float32] | None = None  # (N) opacity, 0 to 1
    layer: NDArray[np.int32] | None = None  # (N) 0: the canvas itself
    hsv: NDArray[np.float32] | None = None  # (N, 5) see `adjust`
    table: NDArray[np.int32] | None = None  # (N) row of `tables`, or NO_TABLE, AUTOCONTRAST or EQUALIZE
    filter: NDArray[np.uint8] | None = None  # (N) position in FILTERS
    centers: NDArray[np.float32] | None = None  # (N, 4) source pixels; a box whose center is outside is dropped
    weight: NDArray[np.float32] | None = None  # (N) the weight of boxes, for `Targets`
    share: NDArray[np.float32] | None = None  # (N) the share of the row's class in the soft label of its slot
    objects: NDArray[np.int32] | None = None  # (N, 2) cut-out rows: their first and end position in `selected`; or -1
    selected: NDArray[np.int64] | None = None  # (S) objects of the cache, ascending for each row
    tables: NDArray[np.uint8] | None = None  # (T, 3, 256) new levels of R, G and B
    batch: NDArray[np.int32] | None = None  # (B) the number of the slot's batch, ascending; None: one batch
    epoch: int = 0

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

        Where an edge of a row does not fall on a pixel's edge, its clip is rounded and its crop follows, as in
        `transform`.

        Args:
            size: (B, 2) new width, height in pixels.

        Raises:
            PlanError: a size is below one pixel.
        """
        size = _at_least_one_pixel(size)
        scale = (size / self.size).take(self.slot, 0)
        matrix = np.zeros((len(scale), 2, 3))
        matrix[:, [0, 1], [0, 1]] = scale
        self._scale(matrix, np.ones(len(scale), np.bool_))
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
        """Map the image of each slot by an affine matrix.

        Rows that a matrix only scales and moves stay axis-aligned: their clips are rounded to whole pixels, and their
        crops follow, so that `matrix` is exact. A row that is rotated again is shown within the smallest upright box
        around what was visible of it, so parts that earlier edits cut off may show in the corners of that box.

        Args:
            matrix: (B, 2, 3) (x, y) is mapped to matrix[:, :2] @ (x, y) + matrix[:, 2], in pixels.
            size: (B, 2) width, height of the new images.

        Raises:
            PlanError: a size is below one pixel.
        """
        matrix = np.asarray(matrix, np.float64).take(self.slot, 0)
        upright = (matrix[:, [0, 1], [1, 0]] == 0).all(1) & (matrix[:, [0, 1], [0, 1]] > 0).all(1) & self.is_aligned
        if not upright.all():
            self._turn(matrix, ~upright)
        if upright.any():
            self._scale(matrix, upright)
        self._drop_hidden()
        self.crop_to(np.concatenate([np.zeros_like(size), size], 1))

    def recolor(self, color: NDArray[np.float32]) -> None:
        """Change the colors of each slot, after the changes that are already planned.

        Args:
            color: (B, 3, 4) RGB in levels of 0 to 255 becomes color[:, :3] @ rgb + color[:, 3]. Values are clipped once
                after all changes, or after those before and after an `adjust`.
        """
        adjusts = self.index == ADJUST
        adjusted = np.zeros(len(self.size), np.bool_)
        adjusted[self.slot[adjusts]] = True
        after = color[self.slot]
        changed = after[:, :, :3] @ self.color
        changed[:, :, 3] += after[:, :, 3]
        self.color = np.where(adjusted[self.slot, None, None], self.color, changed) if adjusts.any() else changed
        again = np.flatnonzero(adjusted & (color != IDENTITY_COLOR).any((1, 2)))
        if len(again):
            self.adjust(again, color=color[again])

    def adjust(
        self,
        slots: NDArray[np.integer[Any]],
        hsv: NDArray[np.floating[Any]] | None = None,
        table: NDArray[np.uint8] | int | None = None,
        color: NDArray[np.float32] | None = None,
        alpha: NDArray[np.floating[Any]] | None = None,
    ) -> None:
        """Change the colors of all that is drawn on S slots so far, and of what is not covered: adds ADJUST rows.

        The changes are applied in the order `color`, `hsv`, `table`.

        Args:
            slots: (S) the slots.
            hsv: (S, 5) hue shift in turns; saturation gain and shift, of a saturation of 0 to 1; value gain and shift,
                of a value of 0 to 255. Saturation and value are clipped.
            table: (S, 3, 256) new levels of R, G and B; or AUTOCONTRAST or EQUALIZE, for the tables of Pillow's
                `ImageOps.autocontrast` and `equalize`.
            color: (S, 3, 4) as in `recolor`.
            alpha: (S) opacity of the changed image over the unchanged one. Default: 1.
        """
        more = self._whole(ADJUST, slots)
        if color is not None:
            more.color = np.asarray(color, np.float32)
        if hsv is not None:
            more.hsv = np.asarray(hsv, np.float32)
        if isinstance(table, int):
            more.table = np.full(len(slots), table, np.int32)
        elif table is not None:
            more.table, more.tables = np.arange(len(slots), dtype=np.int32), np.array(table, np.uint8, order="C")
        if alpha is not None:
            more.alpha = np.asarray(alpha, np.float32)
        self._append(more)
        self._sort()

    def use_filter(self, name: str, slots: NDArray[np.bool_] | None = None) -> None:
        """Resample the sources of slots by one of FILTERS. An image is resampled once, so the last call counts.

        Args:
            name: the filter.
            slots: (B) mask. Default: all.
        """
        number = FILTERS.index(name)
        if number or self.filter is not None:
            rows = True if slots is None else slots[self.slot]
            self.filter = np.where(rows, number, self._column("filter")).astype(np.uint8)

    def fade(self, alpha: NDArray[np.float32]) -> None:
        """Multiply the opacity of all rows of each slot.

        Args:
            alpha: (B) factors, 0 to 1.
        """
        self.alpha = self._column("alpha") * np.asarray(alpha, np.float32).take(self.slot)

    def weigh(self, weight: NDArray[np.floating[Any]]) -> None:
        """Multiply the weights of all boxes of each slot by `weight` (B). `Targets` has them as column
        `mix_weight`."""
        self.weight = self._column("weight") * np.asarray(weight, np.float32).take(self.slot)

    def share_label(self, share: NDArray[np.floating[Any]]) -> None:
        """Multiply the shares of all images of each slot in its soft label by `share` (B). See `soft_labels_of`."""
        self.share = self._column("share") * np.asarray(share, np.float32).take(self.slot)

    def drop_boxes(self, min_visible: float = 0.0, min_size: float = 0.0, max_aspect: float = np.inf) -> None:
        """Drop boxes of the finished images by these rules too. See the fields of the same names."""
        self.min_visible = max(self.min_visible, min_visible)
        self.min_size = max(self.min_size, min_size)
        self.max_aspect = min(self.max_aspect, max_aspect)

    def keep_centered(self, slots: NDArray[np.bool_]) -> None:
        """Drop boxes whose centers are not within the present image of their slot, as crops of SSD do.

        Args:
            slots: (B) mask of the slots. A box in a rotated image is kept if its center is within the smallest upright
                box, in source pixels, around what is shown.
        """
        image = np.zeros((len(self.index), 4), np.float32)
        image[:, 2:] = self.size.take(self.slot, 0)
        limits = geometry.unmap_boxes(self.matrix, image)
        former = self._column("centers")
        inner = np.concatenate([np.maximum(former[:, :2], limits[:, :2]), np.minimum(former[:, 2:], limits[:, 2:])], 1)
        self.centers = np.where(slots.take(self.slot)[:, None], inner, former)

    def cut_out(self, row: NDArray[np.integer[Any]], number: NDArray[np.integer[Any]]) -> None:
        """Show only the masks of M objects. Rows without any are dropped.

        Args:
            row: (M) the rows that show them, which must be opaque.
            number: (M) the objects, as `ImageIndex.boxes` numbers them; no two of a row may be the same.

        Raises:
            PlanError: a row is blended, or the colors of the rows below are adjusted: cut out objects before.
        """
        if (self.index == ADJUST).any() or (self._column("alpha") < 1).any() or self._column("layer").any():
            raise PlanError("objects are cut out of images before these are blended, and before colors are adjusted")
        order = np.lexsort((number, row))
        rows, begin = np.unique(row[order], return_index=True)
        self._keep(rows)
        self.objects = np.stack([begin, np.append(begin[1:], len(row))], 1).astype(np.int32).reshape(-1, 2)
        self.selected = np.asarray(number, np.int64)[order]

    def cover(self, slot: NDArray[np.integer[Any]], box: NDArray[np.int32], rgb: NDArray[np.number[Any]]) -> None:
        """Draw S filled rectangles over images.

        Args:
            slot: (S) the slot of each rectangle.
            box: (S, 4) x, y, w, h in pixels of the slot's image.
            rgb: (S, 3) color in levels of 0 to 255.
        """
        more = self._whole(FILL, slot)
        more.clip = np.array(box, np.int32)
        more.source = np.array(more.clip[:, 2:])
        more.crop[:, 2:] = more.source
        more.color[:, :, 3] = rgb
        self._append(more)
        self._sort()

    def underlay(self, slots: NDArray[np.integer[Any]], rgb: NDArray[np.floating[Any]]) -> None:
        """Fill what the images of S slots do not cover.

        Args:
            slots: (S) the slots.
            rgb: (3), or (S, 3) color in levels of 0 to 255. Without this edit, the padding's color is used.
        """
        more = self._whole(FILL, slots)
        more.color[:, :, 3] = rgb
        self._append(more)
        self._sort(first=len(slots))

    def join(self, other: BatchPlan) -> None:
        """Add the slots of another plan, with their rows, after those of this one. `compose` then arranges them."""
        added = replace(other, slot=other.slot + np.int32(len(self.size)))
        self._append(added)
        if self.batch is not None:
            batch = np.zeros(len(other.size), np.int32) if other.batch is None else other.batch
            self.batch = np.concatenate([self.batch, batch])
        for name in ("size", "offset", "canvases"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        self.drop_boxes(other.min_visible, other.min_size, other.max_aspect)

    def compose(
        self,
        into: NDArray[np.int32],
        corner: NDArray[np.int32],
        size: NDArray[np.int32],
        alpha: NDArray[np.floating[Any]] | None = None,
        ground: tuple[float, float, float] = (0, 0, 0),
    ) -> None:
        """Combine the S slots of the plan into B new ones. Later slots are drawn over earlier ones.

        Args:
            into: (S) the new slot of each slot. The first one decides the batch of the new slot.
            corner: (S, 2) x, y of the slot's upper left corner in the new slot, within which it must lie.
            size: (B, 2) width, height of the new slots in pixels.
            alpha: (S) the opacity of each slot, which is blended as a whole, with what it does not cover. Default: 1.
            ground: RGB of what a blended slot does not cover, in levels of 0 to 255.

        Raises:
            PlanError: a size is below one pixel, or a slot with an alpha below 1 has layers itself.
        """
        into = np.asarray(into, np.int32)
        if alpha is not None:
            self._add_layers(np.flatnonzero(np.asarray(alpha) < 1), np.asarray(alpha, np.float32), ground)
        self._move(corner)
        self.slot = into.take(self.slot)
        self.size = _at_least_one_pixel(size)
        self.offset, self.canvases = np.zeros_like(self.size), np.zeros_like(self.size)
        if self.batch is not None:
            batch = np.zeros(len(self.size), np.int32)
            batch[into[::-1]] = self.batch[::-1]
            self.batch = batch
        self._sort()

    def take(self, slots: NDArray[np.integer[Any]]) -> BatchPlan:
        """Return a copy of the `slots` (S), in this order, as a plan of S slots. No slot may be repeated."""
        number = np.full(len(self.size), -1, np.int32)
        number[slots] = np.arange(len(slots))
        part = replace(self, slot=number.take(self.slot))
        part._keep(np.flatnonzero(part.slot >= 0))
        part._sort()
        for name in ("size", "offset", "canvases", "batch"):
            if (values := getattr(self, name)) is not None:
                setattr(part, name, values[slots])
        part._drop_unused_tables()
        return part

    def put(self, slots: NDArray[np.integer[Any]], part: BatchPlan) -> None:
        """Replace the `slots` (S) by those of `part`, which is what `take(slots)` returned, edited."""
        replaced = np.zeros(len(self.size), np.bool_)
        replaced[slots] = True
        self._keep(np.flatnonzero(~replaced.take(self.slot)))
        self._drop_unused_tables()
        self._append(replace(part, slot=np.asarray(slots, np.int32).take(part.slot)))
        self._sort()
        self.size = self.size.copy()
        self.size[slots] = part.size
        self.drop_boxes(part.min_visible, part.min_size, part.max_aspect)

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
        columns = {name: getattr(self, name) for name in (*ROW_COLUMNS, *OPTIONAL_ROW_COLUMNS)}
        part = {name: column[rows] for name, column in columns.items() if column is not None}
        part["slot"] = part["slot"] - np.int32(begin)
        for name in ("size", "offset", "canvases"):
            part[name] = getattr(self, name)[slots]
        return replace(self, **part, batch=None)

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

    def _scale(self, matrix: NDArray[np.float64], rows: NDArray[np.bool_]) -> None:
        """Map the clips of `rows`, a mask, by matrices that scale and move. Crops of axis-aligned rows follow."""
        aligned = rows & self.is_aligned
        for axis in (0, 1):
            scale, shift = matrix[:, axis, axis], matrix[:, axis, 2]
            start, length = self.clip[:, axis], self.clip[:, axis + 2]
            near, far = start * scale + shift, (start + length) * scale + shift
            first, last = (np.rint(edge).clip(-CLIP_LIMIT, CLIP_LIMIT) for edge in (near, far))
            step = np.zeros(len(rows))  # source pixels per new pixel
            np.divide(self.crop[:, axis + 2], far - near, out=step, where=aligned)
            lead = np.where(self.flip, far - last, first - near) if axis == 0 else first - near
            np.add(self.crop[:, axis], lead * step, out=self.crop[:, axis], where=aligned, casting="same_kind")
            np.copyto(self.crop[:, axis + 2], (last - first) * step, where=aligned, casting="same_kind")
            np.copyto(start, first, where=rows, casting="unsafe")
            np.copyto(length, last - first, where=rows, casting="unsafe")

    def _turn(self, matrix: NDArray[np.float64], rows: NDArray[np.bool_]) -> None:
        """Map `rows`, a mask, by any matrices."""
        warp = geometry.compose(matrix, self.matrix)
        reach = geometry.map_boxes(warp, _corners(self.crop)).clip(-CLIP_LIMIT, CLIP_LIMIT)
        low, high = reach[:, :2], reach[:, 2:]
        if self.warp is not None:  # these may be cut
            shown = geometry.map_boxes(matrix.astype(np.float32), _corners(self.clip))
            low, high = np.maximum(low, shown[:, :2]), np.minimum(high, shown[:, 2:])
        corner = np.floor(low)
        bounds = np.concatenate([corner, np.ceil(high) - corner], 1).astype(np.int32)
        self.warp = np.where(rows[:, None, None], warp, self._column("warp"))
        np.copyto(self.clip, bounds, where=rows[:, None])
        self.flip &= ~rows

    def _whole(self, kind: int, slots: NDArray[np.integer[Any]]) -> BatchPlan:
        """Rows (S) without a record, each over the whole of one of the `slots`."""
        more = BatchPlan.of(np.full(len(slots), kind), self.size.take(slots, 0))
        more.slot = np.asarray(slots, np.int32)
        return more

    def _column(self, name: str) -> NDArray[Any]:
        """An optional column; if the plan has none, that of rows which do not use it."""
        column: NDArray[Any] | None = getattr(self, name)
        unused = OPTIONAL_ROW_COLUMNS[name]
        return np.broadcast_to(unused, (len(self.index), *unused.shape)) if column is None else column

    def _append(self, more: BatchPlan) -> None:
        """Add the rows of another plan."""
        if more.table is not None and self.table is not None and self.tables is not None:
            more.table = np.where(more.table < 0, more.table, more.table + len(self.tables)).astype(np.int32)
        if more.objects is not None and self.selected is not None:
            more.objects = np.where(more.objects < 0, more.objects, more.objects + len(self.selected)).astype(np.int32)
        if more.selected is not None:
            self.selected = more.selected if self.selected is None else np.concatenate([self.selected, more.selected])
        if more.tables is not None:
            self.tables = more.tables if self.tables is None else np.concatenate([self.tables, more.tables])
        for name in OPTIONAL_ROW_COLUMNS:
            if getattr(self, name) is not None or getattr(more, name) is not None:
                setattr(self, name, np.concatenate([self._column(name), more._column(name)]))
        for name in ROW_COLUMNS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(more, name)]))

    def _add_layers(self, slots: NDArray[np.int64], alpha: NDArray[np.float32], ground: tuple[float, ...]) -> None:
        """Put each of the `slots` (S) on a layer of opacity `alpha` (all slots)."""
        if not len(slots):
            return
        number = np.zeros(len(self.size), np.int32)
        number[slots] = 1 + np.arange(len(slots)) + self._column("layer").max(initial=0)
        layer = number.take(self.slot)
        blended = layer > 0
        if (self._column("layer")[blended] > 0).any():
            raise PlanError("an image that is already blended cannot be blended as a part of another")
        self.layer = np.where(blended, layer, self._column("layer")).astype(np.int32)
        more = self._whole(FILL, slots)
        more.color[:, :, 3] = ground
        more.alpha, more.layer = alpha[slots], number[slots]
        self._append(more)
        self._sort(first=len(slots))  # a layer begins with its ground

    def _drop_unused_tables(self) -> None:
        if self.table is not None and self.tables is not None:
            used, number = np.unique(self.table[self.table >= 0], return_inverse=True)
            self.table = self.table.copy()
            self.table[self.table >= 0] = number
            self.tables = self.tables[used]

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
            self._keep(np.flatnonzero((width > 0) & (height > 0)))

    def _sort(self, first: int = 0) -> None:
        """Sort the rows by slot, with the `first` last ones before the others of their slots."""
        key = 2 * self.slot
        key[len(key) - first :] -= 1
        self._keep(np.argsort(key, kind="stable"))

    def _keep(self, rows: NDArray[np.int64]) -> None:
        for name in (*ROW_COLUMNS, *OPTIONAL_ROW_COLUMNS):
            if (column := getattr(self, name)) is not None:
                setattr(self, name, column.take(rows, 0))


def _corners(extent: NDArray[Any]) -> NDArray[Any]:
    """Boxes x, y, w, h (N, 4) as x0, y0, x1, y1."""
    return np.concatenate([extent[:, :2], extent[:, :2] + extent[:, 2:]], 1)


def _at_least_one_pixel(size: NDArray[np.int32]) -> NDArray[np.int32]:
    size = np.array(size, np.int32, order="C")  # the core requires this order, and `size` may be a broadcast view
    if size.min(initial=1) < 1:
        raise PlanError(f"a transform makes images of {size.tolist()} (width, height): each needs at least 1 pixel")
    return size
