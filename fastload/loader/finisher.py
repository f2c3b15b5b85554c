"""BatchFinisher: turns an executed batch into what the user receives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.data._utils.pin_memory import pin_memory

from fastload.batch import Batch, Targets, with_masks
from fastload.class_batch import ClassBatch, SoftLabels
from fastload.device import Feed
from fastload.errors import DecodeError, DeviceError, PlanError
from fastload.loader.iterator import PendingBatch
from fastload.loader.planner import BatchPlanner
from fastload.loader.stop_iteration import refuse_stop_iteration
from fastload.pixel_format import PixelFormat
from fastload.plan.align import Collator

SampleFunction = Callable[[Any, Any], tuple[Any, Any]]


@dataclass
class BatchFinisher:
    """Handles failures, calls the user's functions, and copies batches to pinned memory or to a device.

    Args:
        planner: the planner of the batches.
        functions: functions (image, target) -> (image, target) of `transforms`.
        collate_fn: as in FastLoader.
        batched: False if `batch_size` is None, so that single samples are handed out.
        skip_errors: skip images that do not decode; else raise DecodeError.
        pin: copy to page-locked memory.
        feed: copies batches to the device; None: they stay on the CPU.
        pixels: the format of the images.
    """

    planner: BatchPlanner
    functions: Sequence[SampleFunction]
    collate_fn: Callable[[Any], Any]
    batched: bool
    skip_errors: bool
    pin: bool
    feed: Feed | None = None
    pixels: PixelFormat = field(default_factory=PixelFormat)

    def __post_init__(self) -> None:
        self.is_fused = is_fused(self.collate_fn, self.functions)

    @property
    def engine_pixels(self) -> PixelFormat:
        """The format that engines make: uint8 for a device, since that takes a quarter of the time to copy."""
        return PixelFormat() if self.feed is not None and self.is_fused else self.pixels

    @property
    def sends_ahead(self) -> bool:
        """Whether to call `send_ahead`: the device has streams, and no Python function is called."""
        return self.feed is not None and self.feed.streams is not None and self.is_fused

    @refuse_stop_iteration("a function of transforms, or collate_fn,")
    def deliver(self, skipped: dict[int, str], pending: PendingBatch) -> Any:
        """Return what the user receives for an executed batch.

        Images that did not decode raise DecodeError or, if errors are skipped, are added to `skipped`.
        """
        self.planner.cache.check_unchanged()
        if pending.failures:
            self._account(pending, pending.failures, skipped)
        if self.feed is not None:
            return self.feed.receive(pending.sent or self.feed.send(self.make(pending), pending.images))
        batch = self.make(pending)
        return pin_memory(batch) if self.pin else batch  # type: ignore[no-untyped-call]

    def send_ahead(self, pending: PendingBatch) -> None:
        """Start copying an executed batch to the device, before `deliver` is called for it."""
        assert self.feed is not None
        with suppress(DeviceError):  # out of memory: `deliver` tries again
            pending.sent = self.feed.send(self.make(pending), pending.images)

    def make(self, pending: PendingBatch) -> Any:
        """The batch in host memory."""
        assert pending.images is not None
        batch = self._batch(pending)
        if self.is_fused:
            return batch
        return self._collate(self._samples(pending, batch), np.random.default_rng(pending.run.seeds[pending.number]))

    def _batch(self, pending: PendingBatch) -> Batch | ClassBatch:
        images, targets = pending.images, pending.targets
        assert images is not None
        if isinstance(targets, Targets):
            return Batch(images, self._with_masks(targets, pending))
        classes = targets.dense() if isinstance(targets, SoftLabels) else targets
        blocks = self.feed is not None and self.feed.device.type == "cuda"  # unless copied from page-locked memory
        return ClassBatch(images, classes.pin_memory() if blocks else classes)

    def _with_masks(self, targets: Targets, pending: PendingBatch) -> Targets:
        if pending.masks is None or self.planner.masks is None:
            return targets
        end = pending.run.ends[pending.number]
        width, height = pending.run.plan.canvases[end - 1].tolist()
        return with_masks(targets, pending.masks, (width, height), self.planner.masks)

    def _account(self, pending: PendingBatch, failures: dict[int, str], skipped: dict[int, str]) -> None:
        """Raise DecodeError for the first failure, or add all of them to `skipped` and drop their boxes."""
        run = pending.alone()
        records = {int(run.plan.index[row]): reason for row, reason in failures.items()}
        if not self.skip_errors:
            raise DecodeError(self._message(records))
        skipped.update({int(self.planner.cache.image_ids[record]): reason for record, reason in records.items()})
        slots = run.plan.slot[list(failures)]
        if pending.masks is not None and isinstance(pending.targets, Targets):
            kept = ~np.isin(np.arange(pending.size).repeat(pending.targets.num_boxes), slots)
            pending.masks = pending.masks.keep(kept)
        pending.targets = self.planner.targets_without(run, slots.tolist())

    def _message(self, records: dict[int, str]) -> str:
        record, reason = next(iter(records.items()))
        cache = self.planner.cache
        path = cache.path_of(record)
        others = f" ({len(records) - 1} more in the same batch)" if len(records) > 1 else ""
        return (
            f"image {cache.image_ids[record]} ({cache.name(record)}) of {path} does not decode: "
            f"{reason}{others}. Run `fastload verify {path}` to see what is damaged, or skip such "
            'images with on_error="skip".'
        )

    def _samples(self, pending: PendingBatch, batch: Batch | ClassBatch) -> list[tuple[Any, Any]]:
        """Images (3, H, W), views of the batch without padding, and their targets, after the functions.

        A target is a dict, or the class as an int, or a soft label (K).
        """
        samples = []
        for i, (width, height) in enumerate(pending.alone().plan.size.tolist()):
            target: Any = batch.targets[i]
            if isinstance(target, Tensor):
                target = target if target.ndim else int(target)
            elif "masks" in target:
                target["masks"] = target["masks"][:, :height, :width]
            sample: tuple[Any, Any] = batch.images[i, :, :height, :width], target
            if self.functions:
                sample = _as_tv_tensors(*sample)
            for function in self.functions:
                sample = function(*sample)
                if not isinstance(sample, tuple | list):
                    raise PlanError(
                        f"{function!r} in transforms returned {type(sample).__name__}: functions there take and return "
                        "an image and its target"
                    )
            samples.append(sample)
        return samples

    def _collate(self, samples: list[tuple[Any, Any]], rng: np.random.Generator) -> Any:
        if isinstance(self.collate_fn, Collator):
            images, targets = self.collate_fn.collate(samples, rng, self.pixels)
            return (images, targets) if self.planner.kind == "objects" else ClassBatch(images, default_collate(targets))
        return self.collate_fn(samples if self.batched else samples[0])


def is_fused(collate_fn: Callable[[Any], Any], functions: Sequence[SampleFunction]) -> bool:
    """Whether engines make whole batches, because no function of the user's takes single images."""
    return isinstance(collate_fn, Collator) and not functions


def _as_tv_tensors(image: Tensor, target: Any) -> tuple[Any, Any]:
    """An image and its target as tv_tensors, for torchvision's transforms, if torchvision has been imported."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")
    if tv_tensors is None:
        return image, target
    if not isinstance(target, dict):
        return tv_tensors.Image(image), target
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=tuple(image.shape[-2:]))
    masks = {"masks": tv_tensors.Mask(target["masks"])} if "masks" in target else {}
    return tv_tensors.Image(image), {**target, "boxes": boxes, **masks}
