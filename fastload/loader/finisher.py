"""BatchFinisher: from an executed batch to what the user receives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from fastload.batch import Batch
from fastload.device.normalize import PixelFormat
from fastload.device.transfer import Feed
from fastload.errors import DecodeError, DeviceError, PlanError
from fastload.loader.iterator import PendingBatch
from fastload.loader.planner import BatchPlanner
from fastload.plan.align import Collator

SampleFunction = Callable[[Any, Any], tuple[Any, Any]]


@dataclass
class BatchFinisher:
    """Calls the user's `functions` and `collate_fn`, copies to pinned memory or to a device, and reports failures.

    `batched` is False for single samples.
    """

    planner: BatchPlanner
    functions: Sequence[SampleFunction]
    collate_fn: Callable[[Any], Any]
    batched: bool
    skip_errors: bool
    pin: bool
    feed: Feed | None = None  # to the device, if batches are to be on another than the CPU
    pixels: PixelFormat = field(default_factory=PixelFormat)

    def __post_init__(self) -> None:
        self.is_fused = is_fused(self.collate_fn, self.functions)

    @property
    def engine_pixels(self) -> PixelFormat:
        """What an engine is to make: levels for a GPU, which take a quarter of the time to get there."""
        return PixelFormat() if self.feed is not None and self.is_fused else self.pixels

    @property
    def sends_ahead(self) -> bool:
        """Whether `send_ahead` gains something: there are streams, and no Python function is to run meanwhile."""
        return self.feed is not None and self.feed.streams is not None and self.is_fused

    def deliver(self, skipped: dict[int, str], job: PendingBatch) -> Any:
        """What the user receives for an executed job. Failures raise DecodeError, or are added to `skipped`."""
        self.planner.cache.check_unchanged()
        if job.failures:
            self._account(job, job.failures, skipped)
        if self.feed is not None:
            return self.feed.receive(job.sent or self.feed.send(self.make(job), job.images))
        batch = self.make(job)
        return pin_memory(batch) if self.pin else batch  # type: ignore[no-untyped-call]

    def send_ahead(self, job: PendingBatch) -> None:
        """Start taking an executed job's batch to the device, before `deliver` is called for it."""
        assert self.feed is not None
        with suppress(DeviceError):  # no memory now: there may be when its turn comes
            job.sent = self.feed.send(self.make(job), job.images)

    def make(self, job: PendingBatch) -> Any:
        """The batch of a job, on the host."""
        assert job.images is not None
        batch = Batch(job.images, job.targets)
        if self.is_fused:
            return batch
        return self._collate(self._samples(job, batch), np.random.default_rng(job.run.seeds[job.number]))

    def _account(self, job: PendingBatch, failures: dict[int, str], skipped: dict[int, str]) -> None:
        """Raise for the first failure, or note all of them and take their boxes away."""
        run = job.alone()
        records = {int(run.plan.index[row]): reason for row, reason in failures.items()}
        if not self.skip_errors:
            raise DecodeError(self._complaint(records))
        skipped.update({int(self.planner.cache.image_ids[record]): reason for record, reason in records.items()})
        job.targets = self.planner.targets_without(run, run.plan.slot[list(failures)].tolist())

    def _complaint(self, records: dict[int, str]) -> str:
        record, reason = next(iter(records.items()))
        cache = self.planner.cache
        path = cache.path_of(record)
        others = f" ({len(records) - 1} more in the same batch)" if len(records) > 1 else ""
        return (
            f"image {cache.image_ids[record]} ({cache.name(record)}) of {path} does not decode: "
            f"{reason}{others}. Run `fastload verify {path}` to see what is damaged, or go on without such "
            'images by on_error="skip".'
        )

    def _samples(self, job: PendingBatch, batch: Batch) -> list[tuple[Any, Any]]:
        """Single images (3, H, W), views into the canvas without its padding, and dicts; functions applied."""
        samples = []
        for i, (width, height) in enumerate(job.alone().plan.size.tolist()):
            sample: tuple[Any, Any] = batch.images[i, :, :height, :width], batch.targets[i]
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
            return self.collate_fn.collate(samples, rng, self.pixels)
        return self.collate_fn(samples if self.batched else samples[0])


def is_fused(collate_fn: Callable[[Any], Any], functions: Sequence[SampleFunction]) -> bool:
    """Whether engines make whole batches: no function of the user's sees single images."""
    return isinstance(collate_fn, Collator) and not functions


def _as_tv_tensors(image: Tensor, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An image and its target as torchvision's transforms know them, if torchvision has been imported."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")
    if tv_tensors is None:
        return image, target
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=tuple(image.shape[-2:]))
    return tv_tensors.Image(image), {**target, "boxes": boxes}
