"""The batches of a loader: `Batch`, a pair of images and `Targets`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastload.annotations import MASKS, Annotations
from fastload.errors import PlanError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.geometry import corners_of, move, unmap_points
from fastload.plan.masks import fill_rings, warp_mask
from fastload.sources.run_lengths import decode


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
    `FastLoader(masks=True)` also `masks` (n, H, W), as `masks(i)` returns them.

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
            Transforms that mix images add `mix_weight`, by which to multiply the loss of a box.
        lists: ragged columns of the boxes: for each image, for each box a tensor (k, ...), or with two levels a list
            of tensors. Coordinates are canvas pixels, not clipped.
        image_columns: extra columns of the images: (B, ...), as they are in the cache.
        shown: on the host, where the boxes lie in their sources, for masks. None: the cache has no masks.
        with_masks: whether the dicts have masks.
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
    shown: ShownObjects | None = None
    with_masks: bool = False

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
        if self.with_masks:
            target["masks"] = self.masks(i)
        return target

    def masks(self, i: int) -> Tensor:
        """Return the masks of image i: (n, H, W) uint8, 1 inside, on the whole canvas, for each of its n boxes.

        They are made from the columns `polygons` and `rle` at each call, on the host, in about a millisecond a mask. A
        box with neither has an empty mask. Parts that other images of a canvas cover are not cut away.

        Raises:
            PlanError: the cache has no such columns.
            ValueError: the run lengths of a mask are not those of a mask of the annotated image.
        """
        if self.shown is None:
            raise PlanError(f"the cache has no masks: build it from a dataset with {' or '.join(MASKS)}")
        first, n = sum(self.num_boxes[: range(len(self))[i]]), self.num_boxes[i]
        none: list[Any] = [[]] * n
        polygons, run_lengths = (self.lists[name][i] if name in self.lists else none for name in MASKS)
        width, height = self.shown.canvas
        masks = np.zeros((n, height, width), np.uint8)
        for k in range(n):
            rings = [ring.cpu().numpy() for ring in polygons[k]]
            data = bytes(run_lengths[k].cpu().numpy()) if len(run_lengths[k]) else b""
            self.shown.draw(masks[k], first + k, rings, data)
        return torch.from_numpy(masks).to(self.boxes.device)

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
        return replace(self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking)), image_id=self.image_id)

    def pin_memory(self) -> Targets:
        """A copy in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Targets:
        values = vars(self)
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        for name in ("columns", "image_columns"):
            changed[name] = {column: change(value) for column, value in values[name].items()}
        changed["lists"] = {column: _each_tensor(change, lists) for column, lists in self.lists.items()}
        return replace(self, **changed)


@dataclass(frozen=True, eq=False)
class ShownObjects:
    """Where the n objects of a batch lie in their sources and on its canvases of one size.

    Args:
        matrix: (n, 2, 3) from pixels of the annotated image to canvas pixels.
        clip: (n, 4) x, y, w, h of the part of the canvas that shows its source.
        source_sizes: (n, 2) width, height of the annotated image.
        canvas: width, height.
    """

    matrix: NDArray[np.float64]
    clip: NDArray[np.int32]
    source_sizes: NDArray[np.int32]
    canvas: tuple[int, int]

    def draw(self, mask: NDArray[np.uint8], number: int, rings: list[NDArray[Any]], run_lengths: bytes) -> None:
        """Draw an object in `mask` (H, W): `rings` on the canvas or, without any, `run_lengths` of its source."""
        if rings:
            drawn = fill_rings(rings, self.canvas)
        elif run_lengths:
            width, height = self.source_sizes[number].tolist()
            drawn = warp_mask(decode(run_lengths, height, width), self.matrix[number], self.canvas)
        else:
            return
        x, y, w, h = self.clip[number].tolist()
        part = slice(max(y, 0), y + h), slice(max(x, 0), x + w)
        mask[part] = drawn[part]


def targets_of(
    plan: BatchPlan,
    index: NDArray[np.int64],
    ends: Sequence[int],
    annotations: Annotations,
    category_ids: Tensor,
    failed: Sequence[int] = (),
    masks: bool = False,
) -> list[Targets]:
    """Return the targets of each batch of a placed plan.

    Args:
        plan: a placed plan of one or more batches.
        index: (slots) the first or only record that each slot shows.
        ends: (batches) the slot after the last one of each batch.
        annotations: the annotations of the cache.
        category_ids: (K) the dataset's id of each category.
        failed: slots that get no boxes.
        masks: whether dicts have masks.
    """
    of_slots, (boxes, labels, crowd, area, objects, rows, starts), num_boxes, num_sources = annotations.boxes.place(
        plan, index, ends, failed, annotations.has_objects or plan.weight is not None
    )
    maps = plan.matrix.take(rows, 0, mode="clip") if annotations.has_objects else np.empty((0, 2, 3), np.float32)
    extra = _extra_columns(annotations, objects, maps) if annotations.objects else {}
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
            targets.lists = _lists(annotations, objects[padded][there], maps_of_shown, targets.num_boxes)
            if end > begin and any(name in targets.lists for name in MASKS):
                width, height = plan.canvases[begin].tolist()
                targets.shown = _shown_objects(plan, shown, maps_of_shown, annotations, (width, height))
                targets.with_masks = masks
        batches.append(targets)
    return batches


def _shown_objects(
    plan: BatchPlan,
    rows: NDArray[np.int64],
    maps: NDArray[np.float32],
    annotations: Annotations,
    canvas: tuple[int, int],
) -> ShownObjects:
    """Where the objects of a batch in the plan's `rows` (n), with the matrices `maps` (n, 2, 3), lie."""
    source_sizes = annotations.source_sizes.take(plan.index[rows], 0)
    matrix = maps.astype(np.float64)  # from pixels of the stored image
    matrix[:, :, :2] *= (plan.source[rows] / source_sizes)[:, None]
    return ShownObjects(matrix, plan.clip.take(rows, 0), source_sizes, canvas)


def _extra_columns(
    annotations: Annotations, objects: NDArray[np.int64], maps: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """The extra columns of `objects` (n) that go through the matrices `maps` (n, 2, 3); 0 for padding."""
    columns = annotations.of_objects(objects)
    for name, values in columns.items():
        if annotations.moves[name] != "none":
            columns[name] = move(annotations.moves[name], maps, values)
            columns[name][objects < 0] = 0
    return columns


def _lists(
    annotations: Annotations,
    objects: NDArray[np.int64],
    maps: NDArray[np.float32],
    num_boxes: Sequence[int],
) -> dict[str, list[list[Any]]]:
    """The ragged columns of a batch's `objects` (n) that go through the matrices `maps` (n, 2, 3)."""
    lists: dict[str, list[list[Any]]] = {}
    for name, ragged in annotations.lists_of_objects(objects).items():
        ends = ragged.offsets[0]
        for inner in ragged.offsets[1:]:
            ends = inner[ends]
        if annotations.moves[name] != "none":
            values = move(annotations.moves[name], maps.repeat(np.diff(ends), 0), ragged.values)
            ragged = replace(ragged, values=values)
        boxes = iter(_each_tensor(torch.from_numpy, ragged.lists()))
        lists[name] = [list(islice(boxes, n)) for n in num_boxes]
    return lists


def _each_tensor(change: Callable[[Any], Tensor], values: Any) -> Any:
    """Nested lists with `change` applied to each tensor or array."""
    return [_each_tensor(change, value) for value in values] if isinstance(values, list) else change(values)


def _as_tensors(columns: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in columns.items()}
