"""What a loader hands out: `Batch`, which unpacks as images, targets, and `Targets`, padded tensors and dicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import count, repeat
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C import _from_dlpack

from fastload.annotations import Annotations
from fastload.errors import PlanError
from fastload.plan.batch_plan import BatchPlan

from_capsule = _from_dlpack  # what torch.from_dlpack ends in, after it has looked what it was given


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


class _OfRun:
    """Which batch of a run targets are; those that were moved or unpickled are of none."""

    _run: RunTargets
    _number: int


@dataclass(eq=False)
class Targets(_OfRun, Sequence[dict[str, Any]]):
    """The annotations of B images, padded to the G boxes of the fullest one (G may be 0).

    As tensors: made for training on whole batches. **`labels` here are contiguous**: 0 to K - 1, the order of the
    dataset's categories, -1 where there is no box; `category_ids` (K) has the dataset's own id of each.

    As a sequence of dicts, one an image: torchvision's convention, for `model(list(images), list(targets))`. Keys:
    `boxes` (n, 4) float32 xyxy, `labels` (n) int64, `image_id` int, `area` (n) float32, `iscrowd` (n) int64; further
    columns of the cache by their names, (n, ...), or (...) if they are of the image.
    **`labels` there are the dataset's own category ids** (COCO's 1 to 90), as in torchvision's reference scripts.

    Source pixels are those of the picture that was annotated, also where the cache stores it smaller. They go to the
    canvas by canvas = scale * source + offset; for an image with `flip`, x is first measured from the source's right
    edge. `to_original` is the inverse. Where a canvas shows several sources (a mosaic) or
    none, scale and offset are NaN, and `image_id` and `image_columns` are those of the image that was asked for. See
    `fastload.plan.transforms` for which boxes are clipped and dropped.
    """

    boxes: Tensor  # (B, G, 4) float32: x0, y0, x1, y1 in canvas pixels
    labels: Tensor  # (B, G) int64
    crowd: Tensor  # (B, G) bool: the box holds a crowd, not one object
    area: Tensor  # (B, G) float32: square canvas pixels, of the segmentation if the source has it; in proportion if cut
    image_id: Tensor  # (B) int64 on the host: the dataset's own
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

    @classmethod
    def of(cls, run: RunTargets, number: int, boxes: Tensor, labels: Tensor) -> Targets:
        """Batch `number` of `run`, of which all training looks at these two. See `_Later` for the others."""
        targets = cls.__new__(cls)
        targets._run = run
        targets._number = number
        targets.boxes = boxes
        targets.labels = labels
        return targets

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}  # not what other batches have

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
        corners = boxes.reshape(-1, 2, 2) - self.offset[i].reshape(-1, 1, 2)
        x, y = (corners / self.scale[i].reshape(-1, 1, 2)).unbind(2)
        mirrored = self.original_size[i].reshape(-1, 2)[:, 1:] - x.flip(1)
        x = torch.where(self.flip[i].reshape(-1, 1), mirrored, x)
        return torch.stack([x, y], 2).reshape(boxes.shape)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same targets on `device`; `image_id` stays on the host, where a look at it costs no wait."""
        return replace(self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking)), image_id=self.image_id)

    def pin_memory(self) -> Targets:
        """A copy in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Targets:
        values = self.__getstate__()
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        for name in ("columns", "image_columns"):
            changed[name] = {column: change(value) for column, value in values[name].items()}
        return replace(self, **changed)


class _Later:
    """A field of the targets of a batch of a run, which is made when first asked for. Once there is a value, Python
    looks no further: not so with `__getattr__`, which would make every look at the targets slower."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, targets: Targets | None, owner: type[Targets]) -> Any:
        if targets is None or "_run" not in targets.__dict__:
            raise AttributeError(f"Targets have no {self._name!r}")
        value = targets.__dict__[self._name] = targets._run.part(targets._number, self._name)
        return value


OF_IMAGES = ("image_id", "scale", "offset", "flip", "size", "original_size")
FIELDS = tuple(field.name for field in fields(Targets))
for _name in FIELDS[2:]:  # all but boxes and labels
    setattr(Targets, _name, _Later(_name))


def targets_of(
    plan: BatchPlan,
    index: NDArray[np.int64],
    ends: Sequence[int],
    annotations: Annotations,
    category_ids: Tensor,
    failed: Sequence[int] = (),
) -> list[Targets]:
    """The targets of each batch of a placed plan, several batches in a row.

    The plan shows the records `index`, one a slot; the slots up to each of `ends` are a batch. Those in `failed` get no
    boxes.
    """
    columns, (boxes, labels, crowd, area, objects, starts), num_boxes, num_sources = annotations.boxes.place(
        plan.index,
        plan.slot,
        plan.source,
        plan.crop,
        plan.rect,
        plan.flip,
        plan.size,
        index,
        plan.min_visible,
        ends,
        failed,
        bool(annotations.objects),
    )
    run = RunTargets(
        images=dict(zip(OF_IMAGES, columns, strict=True)),
        boxes={"crowd": crowd, "area": area},
        box_starts=starts,
        counts={"num_boxes": num_boxes, "num_sources": num_sources},
        category_ids=category_ids,
        ends=ends,
        annotations=annotations,
        objects=objects,
        index=index,
    )
    return list(map(Targets.of, repeat(run), count(), map(from_capsule, boxes), map(from_capsule, labels)))


@dataclass(eq=False)
class RunTargets:
    """What `Targets` has beside boxes and labels, of several batches and not yet cut into them. Arrays, since few look
    at them, and tensors cost more."""

    images: dict[str, NDArray[Any]]  # a row each
    boxes: dict[str, NDArray[Any]]  # padded, a value each
    box_starts: NDArray[np.int64]  # (batches + 1) where those of each begin
    counts: dict[str, NDArray[np.int64]]  # one an image
    category_ids: Tensor
    ends: Sequence[int]  # (batches) their images are those up to here
    annotations: Annotations  # for the further columns
    objects: NDArray[np.int64]  # padded, the row of the annotations that each box is of; none without further columns
    index: NDArray[np.int64]  # the record of each image

    def part(self, batch: int, name: str) -> Any:
        """A field of the targets of a batch."""
        start, end = self.ends[batch - 1] if batch else 0, self.ends[batch]
        if name in self.images:
            return torch.from_numpy(self.images[name][start:end])
        if name in self.boxes:
            return torch.from_numpy(self._padded(self.boxes[name], batch))
        if name == "columns":
            found = self.annotations.of_objects(self._padded(self.objects, batch)) if self.annotations.objects else {}
            return {column: torch.from_numpy(values) for column, values in found.items()}
        if name == "image_columns":
            found = self.annotations.of_images(self.index[start:end]) if self.annotations.images else {}
            return {column: torch.from_numpy(values) for column, values in found.items()}
        return self.category_ids if name == "category_ids" else tuple(self.counts[name][start:end].tolist())

    def _padded(self, values: NDArray[Any], batch: int) -> NDArray[Any]:
        """The values (B, G) of a batch."""
        start, end = self.ends[batch - 1] if batch else 0, self.ends[batch]
        return values[self.box_starts[batch] : self.box_starts[batch + 1]].reshape(end - start, -1)
