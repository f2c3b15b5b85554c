"""The batches of a loader: `Batch`, a pair of images and `Targets`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, compress, islice, pairwise
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastload.annotations import MASKS, Annotations, Column
from fastload.errors import PlanError
from fastload.masks import DrawnMasks, Masks
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.geometry import clear_hidden, corners_of, exchange, move, unmap_points
from fastload.plan.masks import MaskPlan, MaskSettings


class Batch(NamedTuple):
    """A batch, which unpacks as `images, targets = batch`.

    Args:
        images: (B, 3, H, W) RGB, by default uint8 in channels_last.
        targets: their annotations.
    """

    images: Tensor
    targets: Targets

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch on `device`."""
        return Batch(self.images.to(device, non_blocking=non_blocking), self.targets.to(device, non_blocking))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory())


@dataclass(eq=False)
class Targets(Sequence[dict[str, Any]]):
    """The annotations of B images, padded to the G boxes of the fullest one (G may be 0).

    As tensors, for training on whole batches: **`labels` are contiguous**, 0 to K - 1 in the order of the dataset's
    categories, and -1 in the padding.

    As a sequence of dicts, one per image, for `model(list(images), list(targets))` with torchvision's conventions:
    `boxes` (n, 4) float32 xyxy, `labels` (n) int64, `image_id` int, `area` (n) float32, `iscrowd` (n) int64, and the
    extra columns of the cache by name. **`labels` are the dataset's own category ids** (COCO's 1 to 90). With
    `FastLoader(masks=True)` also `masks` (n, H, W) uint8, 1 inside.

    For an image that is neither rotated nor sheared, `scale`, `offset` and `flip` say the same as `matrix`: canvas =
    scale * source + offset, where x is measured from the source's right edge if `flip` is set. For a canvas that shows
    several images (a mosaic) or none, `matrix`, `scale` and `offset` are NaN, and `image_id` and `image_columns` are
    those of the image that was sampled. `fastload.plan.transforms` says which boxes are clipped and dropped.

    Args:
        boxes: (B, G, 4) float32 x0, y0, x1, y1 in canvas pixels.
        labels: (B, G) int64.
        crowd: (B, G) bool, whether the box is around a crowd instead of one object.
        area: (B, G) float32 square canvas pixels: of the segmentation if the source has one, in proportion if cut.
        image_id: (B) int64 the dataset's own; always in host memory.
        matrix: (B, 2, 3) float32: (x, y) of the annotated image goes to matrix[:, :2] @ (x, y) + matrix[:, 2].
        scale: (B, 2) float32 canvas pixels per source pixel, in x and y; NaN if rotated or sheared.
        offset: (B, 2) float32 x, y of the corner of the whole (mirrored) source; NaN if rotated or sheared.
        flip: (B) bool, whether the image is mirrored left to right.
        size: (B, 2) int64 height, width of the image on the canvas.
        original_size: (B, 2) int64 height, width of the annotated image.
        category_ids: (K) int64 the dataset's own id of each label.
        num_boxes: (B) on the host.
        num_sources: (B) on the host, the number of images that a canvas shows.
        columns: extra columns of the boxes: (B, G, ...), padded with 0. Coordinates are canvas pixels, not clipped.
            Points with a visibility become (0, 0, 0) outside of the visible part of their image, and the
            `Column.flip_pairs` of a mirrored image are exchanged. Transforms that mix images add `mix_weight`, by
            which to multiply the loss of a box.
        lists: ragged columns of the boxes: for each image, for each box a tensor (k, ...), or with two levels a list
            of tensors. Coordinates are canvas pixels, not clipped.
        image_columns: extra columns of the images: (B, ...), as they are in the cache.
        masks: the masks of the boxes on the whole canvas. None: without `FastLoader(masks=True)`.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    area: Tensor
    image_id: Tensor
    matrix: Tensor
    scale: Tensor
    offset: Tensor
    flip: Tensor
    size: Tensor
    original_size: Tensor
    category_ids: Tensor
    num_boxes: tuple[int, ...]
    num_sources: tuple[int, ...]
    columns: dict[str, Tensor] = field(default_factory=dict)
    lists: dict[str, list[list[Any]]] = field(default_factory=dict)
    image_columns: dict[str, Tensor] = field(default_factory=dict)
    masks: Masks | None = None

    def __len__(self) -> int:
        return len(self.num_boxes)

    @overload
    def __getitem__(self, i: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, i: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, i: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        n = self.num_boxes[i]  # raises IndexError, which ends iteration
        target = {
            "boxes": self.boxes[i, :n],
            "labels": self.category_ids[self.labels[i, :n]],
            "image_id": int(self.image_id[i]),
            "area": self.area[i, :n],
            "iscrowd": self.crowd[i, :n].long(),
        }
        for name, values in self.columns.items():
            target[name] = values[i, :n]
        for name, lists in self.lists.items():
            target[name] = lists[i]
        for name, values in self.image_columns.items():
            target[name] = values[i]
        if self.masks is not None:
            target["masks"] = self.masks[i]
        return target

    def to_original(self, boxes: Tensor, i: int | Tensor) -> Tensor:
        """Convert canvas boxes to pixels of the annotated image, through the inverse of `matrix`. Nothing is clipped.

        Args:
            boxes: (n, 4) x0, y0, x1, y1. For a rotated image, the smallest box around the four corners is returned.
            i: the image they lie on, or one for each box (n).

        Raises:
            PlanError: the canvas shows several images (a mosaic) or none.
        """
        images = range(len(self)) if isinstance(i, Tensor) else [i]
        if any(self.num_sources[k] != 1 for k in images):
            raise PlanError(f"image {i} of the batch shows several sources or none: to_original needs exactly one")
        corners = unmap_points(self.matrix[i].reshape(-1, 1, 2, 3), corners_of(boxes.reshape(-1, 4)))
        return torch.cat([corners.amin(1), corners.amax(1)], 1).reshape(boxes.shape)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """Return the targets on `device`. `image_id` stays on the host, where reading it needs no synchronization."""
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        moved.image_id = self.image_id
        moved.masks = self.masks and self.masks.to(device, non_blocking)
        return moved

    def pin_memory(self) -> Targets:
        """A copy in page-locked memory."""
        return replace(self._each(Tensor.pin_memory), masks=self.masks and self.masks.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Targets:
        values = vars(self)
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        for name in ("columns", "image_columns"):
            changed[name] = {column: change(value) for column, value in values[name].items()}
        changed["lists"] = {column: _each_tensor(change, lists) for column, lists in self.lists.items()}
        return replace(self, **changed)


class PlannedTargets(NamedTuple):
    """The targets of planned batches.

    Args:
        batches: the targets of each batch, without masks.
        masks: the masks to draw for all batches; None: none.
    """

    batches: list[Targets]
    masks: MaskPlan | None


def targets_of(
    plan: BatchPlan,
    index: NDArray[np.int64],
    ends: Sequence[int],
    annotations: Annotations,
    category_ids: Tensor,
    failed: Sequence[int] = (),
    masks: MaskSettings | None = None,
) -> PlannedTargets:
    """Return the targets of each batch of a placed plan.

    Args:
        plan: a placed plan of one or more batches.
        index: (slots) the first or only record that each slot shows.
        ends: (batches) the slot after the last one of each batch.
        annotations: the annotations of the cache.
        category_ids: (K) the dataset's id of each category.
        failed: slots that get no boxes.
        masks: how to draw masks. None: there are none.

    Raises:
        PlanError: masks are to be drawn, and the cache has none.
    """
    of_slots, (boxes, labels, crowd, area, objects, rows, starts), num_boxes, num_sources = annotations.boxes.place(
        plan, index, ends, failed, annotations.has_objects or plan.weight is not None
    )
    maps = plan.matrix.take(rows, 0, mode="clip") if annotations.has_objects else np.empty((0, 2, 3), np.float32)
    extra = _extra_columns(annotations, plan, objects, rows, maps) if annotations.objects else {}
    if plan.weight is not None:
        extra["mix_weight"] = np.where(rows < 0, np.float32(0), plan.weight.take(rows, mode="clip"))
    batches = []
    for (begin, end), (first, last) in zip(pairwise([0, *ends]), pairwise(starts.tolist()), strict=True):
        slots, padded, shape = slice(begin, end), slice(first, last), (end - begin, (last - first) // (end - begin))
        image_id, matrix, scale, offset, flip, size, original_size = (torch.from_numpy(c[slots]) for c in of_slots)
        targets = Targets(
            boxes=torch.from_numpy(boxes[4 * first : 4 * last].reshape(*shape, 4)),
            labels=torch.from_numpy(labels[padded].reshape(shape)),
            crowd=torch.from_numpy(crowd[padded].reshape(shape)),
            area=torch.from_numpy(area[padded].reshape(shape)),
            image_id=image_id,
            matrix=matrix,
            scale=scale,
            offset=offset,
            flip=flip,
            size=size,
            original_size=original_size,
            category_ids=category_ids,
            num_boxes=tuple(num_boxes[slots].tolist()),
            num_sources=tuple(num_sources[slots].tolist()),
        )
        for name, values in extra.items():
            targets.columns[name] = torch.from_numpy(values[padded].reshape(*shape, *values.shape[1:]))
        if annotations.images:
            targets.image_columns = _as_tensors(annotations.of_images(index[slots]))
        if annotations.has_objects and annotations.ragged:
            there = objects[padded] >= 0
            shown, maps_of_shown = rows[padded][there], maps[padded][there]
            of_boxes = objects[padded][there]
            targets.lists = _lists(annotations, plan, of_boxes, shown, maps_of_shown, targets.num_boxes)
        batches.append(targets)
    if masks is None:
        return PlannedTargets(batches, None)
    if (shapes := annotations.mask_shapes) is None:
        raise PlanError(f"the cache has no masks: build it from a dataset with {' or '.join(MASKS)}")
    return PlannedTargets(batches, MaskPlan(shapes, objects, rows, masks))


def with_masks(targets: Targets, drawn: DrawnMasks, canvas: tuple[int, int], settings: MaskSettings) -> Targets:
    """Return the targets of a batch with its masks.

    If the masks are measured, boxes and areas become those of the masks, and boxes with an empty mask are dropped.

    Args:
        targets: those that were planned.
        drawn: the M masks of their boxes.
        canvas: width and height of the canvases.
        settings: how the masks were drawn.
    """
    bits, size, counts = drawn.bits, settings.size(canvas), np.array(targets.num_boxes)
    if drawn.extents is not None:
        extents, slots = drawn.extents.numpy(), np.arange(len(counts)).repeat(counts)
        kept = extents[:, 4] > 0
        if not kept.all():
            targets, bits = _without(targets, kept), drawn.keep(kept).bits
            extents, slots, counts = extents[kept], slots[kept], np.array(targets.num_boxes)
        places = slots, _places(slots, counts)
        boxes, area = targets.boxes.clone(), targets.area.clone()
        edges = np.minimum(extents[:, :4] * settings.stride, np.tile(canvas, 2))
        boxes.numpy()[places], area.numpy()[places] = edges, extents[:, 4] * settings.stride**2
        targets = replace(targets, boxes=boxes, area=area)
    return replace(targets, masks=Masks(bits, (0, *accumulate(targets.num_boxes)), size))


def _places(slots: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each box in its image, for the images `slots` (M) of boxes, which have `counts` (B) boxes each."""
    places: NDArray[np.int64] = np.arange(len(slots)) - (np.cumsum(counts) - counts)[slots]
    return places


def _without(targets: Targets, kept: NDArray[np.bool_]) -> Targets:
    """The targets with those of the batch's M boxes that are `kept` (M), padded to the fullest image again."""
    counts = np.array(targets.num_boxes)
    slots = np.arange(len(counts)).repeat(counts)
    places = _places(slots, counts)[kept]
    slots = slots[kept]
    left = np.bincount(slots, minlength=len(counts))
    to = slots, _places(slots, left)

    def padded(values: Tensor, padding: float = 0) -> Tensor:
        result = values.new_full((len(counts), left.max(initial=0), *values.shape[2:]), padding)
        result[to] = values[slots, places]
        return result

    kept_in = np.split(kept, np.cumsum(counts)[:-1])
    return replace(
        targets,
        boxes=padded(targets.boxes),
        labels=padded(targets.labels, -1),
        crowd=padded(targets.crowd),
        area=padded(targets.area),
        columns={name: padded(values) for name, values in targets.columns.items()},
        lists={
            name: [list(compress(boxes, keep)) for boxes, keep in zip(lists, kept_in, strict=True)]
            for name, lists in targets.lists.items()
        },
        num_boxes=tuple(left.tolist()),
    )


def _extra_columns(
    annotations: Annotations,
    plan: BatchPlan,
    objects: NDArray[np.int64],
    rows: NDArray[np.int64],
    maps: NDArray[np.float32],
) -> dict[str, NDArray[Any]]:
    """The extra columns of `objects` (n), which the plan's `rows` (n) with the matrices `maps` (n, 2, 3) show; 0 for
    padding."""
    columns = annotations.of_objects(objects)
    for name, values in columns.items():
        if annotations.columns[name].moves != "none":
            columns[name] = _moved(annotations.columns[name], plan, rows, maps, values)
            columns[name][objects < 0] = 0
    return columns


def _moved(
    column: Column, plan: BatchPlan, rows: NDArray[np.int64], maps: NDArray[np.float32], values: NDArray[Any]
) -> NDArray[Any]:
    """Values (n, ...) of a column on the canvas, shown by the plan's `rows` (n) with the matrices `maps` (n, 2, 3)."""
    moved = move(column.moves, maps, values)
    if column.moves == "points" and values.shape[-1] == 3:
        moved = clear_hidden(moved, values, plan.crop.take(rows, 0, mode="clip"), plan.clip.take(rows, 0, mode="clip"))
    return exchange(moved, maps, column.flip_order) if column.flip_pairs else moved


def _lists(
    annotations: Annotations,
    plan: BatchPlan,
    objects: NDArray[np.int64],
    rows: NDArray[np.int64],
    maps: NDArray[np.float32],
    num_boxes: Sequence[int],
) -> dict[str, list[list[Any]]]:
    """The ragged columns of a batch's `objects` (n), which the plan's `rows` (n) with the matrices `maps` show."""
    lists: dict[str, list[list[Any]]] = {}
    for name, ragged in annotations.lists_of_objects(objects).items():
        ends = ragged.offsets[0]
        for inner in ragged.offsets[1:]:
            ends = inner[ends]
        if ragged.column.moves != "none":
            counts = np.diff(ends)
            values = _moved(ragged.column, plan, rows.repeat(counts), maps.repeat(counts, 0), ragged.values)
            ragged = replace(ragged, values=values)
        boxes = iter(_each_tensor(torch.from_numpy, ragged.lists()))
        lists[name] = [list(islice(boxes, n)) for n in num_boxes]
    return lists


def _each_tensor(change: Callable[[Any], Tensor], values: Any) -> Any:
    """Nested lists with `change` applied to each tensor or array."""
    return [_each_tensor(change, value) for value in values] if isinstance(values, list) else change(values)


def _as_tensors(columns: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in columns.items()}
