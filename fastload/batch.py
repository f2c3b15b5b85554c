"""What a loader hands out: `Batch`, which unpacks as images, targets, and `Targets`, padded tensors and dicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastload.annotations import Annotations
from fastload.errors import PlanError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.geometry import corners_of, unmap_points


class Batch(NamedTuple):
    """`images, targets = batch`: RGB images (B, 3, H, W), by default uint8 in channels_last, and their `Targets`."""

    images: Tensor
    targets: Targets

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on `device`."""
        return Batch(self.images.to(device, non_blocking=non_blocking), self.targets.to(device, non_blocking))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory())


@dataclass(eq=False)
class Targets(Sequence[dict[str, Any]]):
    """The annotations of B images, padded to the G boxes of the fullest one (G may be 0).

    As tensors: made for training on whole batches. **`labels` here are contiguous**: 0 to K - 1, the order of the
    dataset's categories, -1 where there is no box; `category_ids` (K) has the dataset's own id of each.

    As a sequence of dicts, one an image: torchvision's convention, for `model(list(images), list(targets))`. Keys:
    `boxes` (n, 4) float32 xyxy, `labels` (n) int64, `image_id` int, `area` (n) float32, `iscrowd` (n) int64; further
    columns of the cache by their names, (n, ...), or (...) if they are of the image.
    **`labels` there are the dataset's own category ids** (COCO's 1 to 90), as in torchvision's reference scripts.

    `matrix` maps pixels of the annotated image, also if the cache stores it smaller, to the canvas: (x, y) goes to
    matrix[:, :2] @ (x, y) + matrix[:, 2]. `to_original` is the inverse. For an image that is neither rotated nor
    sheared, `scale`, `offset` and `flip` say the same: canvas = scale * source + offset, where x is measured from the
    source's right edge if `flip` is set; for others, scale and offset are NaN. If a canvas shows several sources (a
    mosaic) or none, all three are NaN, and `image_id` and `image_columns` are those of the image that was asked for.
    See `fastload.plan.transforms` for which boxes are clipped and dropped.
    """

    boxes: Tensor  # (B, G, 4) float32: x0, y0, x1, y1 in canvas pixels
    labels: Tensor  # (B, G) int64
    crowd: Tensor  # (B, G) bool: the box holds a crowd, not one object
    area: Tensor  # (B, G) float32: square canvas pixels, of the segmentation if the source has it; in proportion if cut
    image_id: Tensor  # (B) int64 on the host: the dataset's own
    matrix: Tensor  # (B, 2, 3) float32: source pixels (x, y, 1) to canvas pixels
    scale: Tensor  # (B, 2) float32: canvas pixels a source pixel, x and y
    offset: Tensor  # (B, 2) float32: where the corner of the whole (mirrored) source lies on the canvas, x and y
    flip: Tensor  # (B) bool
    size: Tensor  # (B, 2) int64: height, width of the image on the canvas
    original_size: Tensor  # (B, 2) int64: height, width of the annotated picture
    category_ids: Tensor  # (K) int64
    num_boxes: tuple[int, ...]  # (B) on the host
    num_sources: tuple[int, ...]  # (B) on the host: images shown by each canvas, more than one for a mosaic
    columns: dict[str, Tensor] = field(default_factory=dict)  # further ones of the boxes: (B, G, ...), padded with 0
    image_columns: dict[str, Tensor] = field(default_factory=dict)  # further ones of the images: (B, ...)

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
        for name, values in self.image_columns.items():
            target[name] = values[i]
        return target

    def to_original(self, boxes: Tensor, i: int | Tensor) -> Tensor:
        """Canvas boxes (n, 4) xyxy in the pixels of the source image; not clipped to it.

        `i` is the image they lie on, or one image a box (n). Raises PlanError for a mosaic, which has no one source.
        """
        images = range(len(self)) if isinstance(i, Tensor) else [i]
        if any(self.num_sources[k] != 1 for k in images):
            raise PlanError(f"image {i} of the batch shows several sources or none: to_original has no answer for it")
        corners = unmap_points(self.matrix[i].reshape(-1, 1, 2, 3), corners_of(boxes.reshape(-1, 4)))
        return torch.cat([corners.amin(1), corners.amax(1)], 1).reshape(boxes.shape)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same targets on `device`; `image_id` stays on the host, where a look at it costs no wait."""
        return replace(self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking)), image_id=self.image_id)

    def pin_memory(self) -> Targets:
        """A copy in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Targets:
        values = vars(self)
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        for name in ("columns", "image_columns"):
            changed[name] = {column: change(value) for column, value in values[name].items()}
        return replace(self, **changed)


def targets_of(
    plan: BatchPlan,
    index: NDArray[np.int64],
    ends: Sequence[int],
    annotations: Annotations,
    category_ids: Tensor,
    failed: Sequence[int] = (),
) -> list[Targets]:
    """The targets of each batch of a placed plan of several batches in a row.

    Args:
        plan: whose slots up to each of `ends` are a batch.
        index: (slots) the only or first record that each slot shows.
        ends: (batches) of the slots of each.
        annotations: of the cache.
        category_ids: (K) the dataset's id of each category.
        failed: slots that get no boxes.
    """
    of_slots, (boxes, labels, crowd, area, objects, starts), num_boxes, num_sources = annotations.boxes.place(
        plan.index,
        plan.slot,
        plan.source,
        plan.crop,
        plan.clip,
        plan.flip,
        plan.warp,
        plan.size,
        index,
        plan.min_visible,
        ends,
        failed,
        bool(annotations.objects),
    )
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
        if annotations.objects:
            targets.columns = _as_tensors(annotations.of_objects(objects[padded].reshape(shape)))
        if annotations.images:
            targets.image_columns = _as_tensors(annotations.of_images(index[slots]))
        batches.append(targets)
    return batches


def _as_tensors(columns: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in columns.items()}
