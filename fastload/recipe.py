"""Recipe: how the images of a batch become the batch, from planning to what the user receives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from fastload.batch import Batch, targets_of
from fastload.cache.reader import Cache
from fastload.device import Feed
from fastload.errors import ArgumentError, DecodeError, DeviceError, PlanError
from fastload.pipeline import Job, Run
from fastload.pixels import PixelFormat
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.collate import Collator, TopLeftAlign
from fastload.plan.records import Records
from fastload.plan.sampling import EpochRandom
from fastload.plan.transforms import Transform

SampleFunction = Callable[[Any, Any], tuple[Any, Any]]


@dataclass
class Recipe:
    """The settings of a loader that decide what a batch holds and where. `batched` is False for single samples."""

    cache: Cache
    records: Records
    transforms: Sequence[Transform | SampleFunction]
    collate_fn: Callable[[Any], Any]
    batched: bool
    skip_errors: bool
    pin: bool
    feed: Feed | None = None  # to the device, if batches are to be on another than the CPU
    pixels: PixelFormat = field(default_factory=PixelFormat)
    skip_crowd: bool = False

    def __post_init__(self) -> None:
        refuse_class(self.collate_fn, "collate_fn")
        self._edits, self._functions = split_transforms(self.transforms)
        self._category_ids = torch.tensor([category.id for category in self.cache.categories], dtype=torch.int64)
        self.is_fused = isinstance(self.collate_fn, Collator) and not self._functions  # calls no function of the user's
        self._annotations = self.cache.annotations_without_crowds if self.skip_crowd else self.cache.annotations
        self._aligner = self.collate_fn if isinstance(self.collate_fn, Collator) and self.is_fused else TopLeftAlign(1)
        self._spans_batches = self._aligner.spans_batches and all(edit.spans_batches for edit in self._edits)
        if isinstance(self.collate_fn, Collator) and not self.batched:
            raise ArgumentError(
                "batch_size=None hands out single images, so a collator as collate_fn has nothing to align"
            )

    @property
    def engine_pixels(self) -> PixelFormat:
        """What an engine is to make: levels for a GPU, which take a quarter of the time to get there."""
        return PixelFormat() if self.feed is not None and self.is_fused else self.pixels

    @property
    def sends_ahead(self) -> bool:
        """Whether `send_ahead` gains something: there are streams, and no Python function is to run meanwhile."""
        return self.feed is not None and self.feed.streams is not None and self.is_fused

    def plan(self, random: EpochRandom, step: int, batches: Sequence[NDArray[np.int64]]) -> Sequence[Run | Exception]:
        """Plan the batches of the images at these positions (B), which come in a row from number `step` on.

        A pure function of the seed, the epoch, the step, the positions and the settings. Gives one run, or one for each
        batch; what keeps a batch from being planned stands in its place.
        """
        if self._spans_batches and len(batches) > 1:
            try:
                return self._plan(random, step, batches)
            except Exception as error:
                return [_raised(error)]
        return [self._plan_one(random, step + k, positions) for k, positions in enumerate(batches)]

    def _plan_one(self, random: EpochRandom, step: int, positions: NDArray[np.int64]) -> Run | Exception:
        try:
            (run,) = self._plan(random, step, [positions])
            return run
        except Exception as error:
            return _raised(error)

    def _plan(self, random: EpochRandom, step: int, batches: Sequence[NDArray[np.int64]]) -> Sequence[Run | Exception]:
        """Transforms are called once. Batches that do not fit their canvases stand by themselves."""
        if not all(map(len, batches)):
            raise PlanError(f"batch {step} of the epoch is empty: check the batch sampler")
        self.cache.check_unchanged()
        rng = random.step(step)
        positions, ends = self._checked(np.concatenate(batches)), list(accumulate(map(len, batches)))
        plan = self.records.plan(positions)
        for edit in self._edits:
            if edit(plan, rng, self.records) is not None:  # type: ignore[func-returns-value]  # easily got wrong
                raise PlanError(f"{edit!r} returned something: a transform changes the plan it is given")
        index = self.records.index.take(positions)
        try:
            return [self._place(plan, rng, index, ends)]
        except PlanError:
            if len(ends) == 1:
                raise
        return [self._place_one(plan.part(*slots), rng, index[slice(*slots)]) for slots in pairwise([0, *ends])]

    def _place_one(self, plan: BatchPlan, rng: np.random.Generator, index: NDArray[np.int64]) -> Run | Exception:
        try:
            return self._place(plan, rng, index, [len(index)])
        except PlanError as error:
            return error

    def _place(self, plan: BatchPlan, rng: np.random.Generator, index: NDArray[np.int64], ends: Sequence[int]) -> Run:
        self._aligner.place(plan, rng, ends)
        seeds = [0] * len(ends) if self.is_fused else rng.integers(2**63, size=len(ends)).tolist()
        targets = targets_of(plan, index, ends, self._annotations, self._category_ids)
        return Run(plan, index, ends, targets, seeds)

    def _checked(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of images that there are; -1 is the last."""
        n = len(self.records)
        if positions.min() < -n or positions.max() >= n:
            wrong = positions[(positions < -n) | (positions >= n)][0]
            raise IndexError(f"the sampler asks for image {wrong} of a dataset of {n} images")
        return positions

    def deliver(self, skipped: dict[int, str], job: Job) -> Any:
        """What the user receives for an executed job. Failures raise DecodeError, or are added to `skipped`."""
        self.cache.check_unchanged()
        if job.failures:
            self._account(job, job.failures, skipped)
        if self.feed is not None:
            return self.feed.receive(job.sent or self.feed.send(self.make(job), job.images))
        batch = self.make(job)
        return pin_memory(batch) if self.pin else batch  # type: ignore[no-untyped-call]

    def send_ahead(self, job: Job) -> None:
        """Start taking an executed job's batch to the device, before `deliver` is called for it."""
        assert self.feed is not None
        with suppress(DeviceError):  # no memory now: there may be when its turn comes
            job.sent = self.feed.send(self.make(job), job.images)

    def make(self, job: Job) -> Any:
        """The batch of a job, on the host."""
        assert job.images is not None
        batch = Batch(job.images, job.targets)
        if self.is_fused:
            return batch
        return self._collate(self._samples(job, batch), np.random.default_rng(job.run.seeds[job.number]))

    def _account(self, job: Job, failures: dict[int, str], skipped: dict[int, str]) -> None:
        """Raise for the first failure, or note all of them and take their boxes away."""
        run = job.alone()
        records = {int(run.plan.index[row]): reason for row, reason in failures.items()}
        if not self.skip_errors:
            raise DecodeError(self._complaint(records))
        skipped.update({int(self.cache.image_ids[record]): reason for record, reason in records.items()})
        failed = run.plan.slot[list(failures)].tolist()
        (job.targets,) = targets_of(run.plan, run.index, run.ends, self._annotations, self._category_ids, failed)

    def _complaint(self, records: dict[int, str]) -> str:
        record, reason = next(iter(records.items()))
        path = self.cache.path_of(record)
        others = f" ({len(records) - 1} more in the same batch)" if len(records) > 1 else ""
        return (
            f"image {self.cache.image_ids[record]} ({self.cache.name(record)}) of {path} does not decode: "
            f"{reason}{others}. Run `fastload verify {path}` to see what is damaged, or go on without such "
            'images by on_error="skip".'
        )

    def _samples(self, job: Job, batch: Batch) -> list[tuple[Any, Any]]:
        """Single images (3, H, W), views into the canvas without its padding, and dicts; functions applied."""
        samples = []
        for i, (width, height) in enumerate(job.alone().plan.size.tolist()):
            sample: tuple[Any, Any] = batch.images[i, :, :height, :width], batch.targets[i]
            if self._functions:
                sample = _as_tv_tensors(*sample)
            for function in self._functions:
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


def _as_tv_tensors(image: Tensor, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An image and its target as torchvision's transforms know them, if torchvision has been imported."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")
    if tv_tensors is None:
        return image, target
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=tuple(image.shape[-2:]))
    return tv_tensors.Image(image), {**target, "boxes": boxes}


def _raised(error: Exception) -> Exception:
    """What a generator would make of it: a StopIteration would end the loop without a word."""
    if not isinstance(error, StopIteration):
        return error
    try:
        raise RuntimeError("a transform or collator raised StopIteration") from error
    except RuntimeError as instead:
        return instead


def split_transforms(
    transforms: Sequence[Transform | SampleFunction],
) -> tuple[list[Transform], list[SampleFunction]]:
    """Edits of the plan, and the functions on samples that follow them."""
    if not isinstance(transforms, Sequence):
        raise ArgumentError(f"transforms is a list of fastload Transforms and functions, not {transforms!r}")
    edits: list[Transform] = []
    functions: list[SampleFunction] = []
    for transform in transforms:
        refuse_class(transform, "transforms")
        if not isinstance(transform, Transform):
            functions.append(transform)
        elif functions:
            raise ArgumentError(
                f"{transform!r} follows a plain function in transforms: put all fastload transforms first"
            )
        else:
            edits.append(transform)
    if wrong := [function for function in functions if not callable(function)]:
        raise ArgumentError(f"{wrong[0]!r} in transforms is neither a fastload Transform nor a function")
    return edits, functions


def refuse_class(given: Any, argument: str) -> None:
    """Raise ArgumentError for a class of ours where an object is wanted: the parentheses are easily forgotten."""
    if isinstance(given, type) and issubclass(given, Transform | Collator):
        raise ArgumentError(f"{given.__name__} in {argument} is a class: write {given.__name__}(...)")
