"""BatchPlanner: turns positions of images into plans and targets, before any pixel is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastload.batch import Targets, targets_of
from fastload.cache.read.cache import Cache
from fastload.class_batch import SoftLabels, TargetKind, class_ids_of, soft_labels_of
from fastload.errors import FastloadError, PlanError
from fastload.loader.sampling import EpochRandom
from fastload.loader.stop_iteration import refuse_stop_iteration
from fastload.plan.align import Collator
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.masks import MaskPlan, MaskSettings
from fastload.plan.transforms import Transform

RUN = 128  # batches planned together in the loader's own order; most of the cost does not depend on their number


BatchTargets = Targets | Tensor | SoftLabels  # of one batch; the tensor has classes (B)


@dataclass(eq=False)
class PlannedRun:
    """Batches planned together. Batch k has the slots of `plan` from `ends[k - 1]` to `ends[k]`."""

    plan: BatchPlan
    index: NDArray[np.int64]  # (slots) the record that was asked for; a mosaic shows further ones
    ends: Sequence[int]  # (batches)
    targets: list[BatchTargets]  # (batches)
    seeds: Sequence[int]  # (batches) for random steps after decoding; 0 if there are none
    masks: MaskPlan | None = None  # of all batches

    def part(self, begin: int, end: int) -> PlannedRun:
        """The batches from number `begin` up to `end`, exclusive."""
        start, stop = self.ends[begin - 1] if begin else 0, self.ends[end - 1]
        return PlannedRun(
            self.plan.part(start, stop),
            self.index[start:stop],
            [later - start for later in self.ends[begin:end]],
            self.targets[begin:end],
            self.seeds[begin:end],
            self.masks and self.masks.part(self.plan, start, stop),
        )


Planned = PlannedRun | Exception  # an error takes the place of the batch that could not be planned


@dataclass
class BatchPlanner:
    """Plans batches of `images` of `cache`.

    Args:
        cache: holds the images and their annotations.
        images: the images that positions refer to.
        edits: transforms, which change each plan.
        aligner: places the images of a batch on its canvas.
        draws_seeds: draw a seed for each batch, for random steps after decoding.
        skip_crowd: skip boxes that mark a crowd.
        masks: how masks are drawn. None: there are none.
        kind: what the targets are: see FastLoader.
        supported: raises PlanError for a plan that the engine cannot draw; called after each transform, so that the
            message names it.
    """

    cache: Cache
    images: ImageIndex
    edits: Sequence[Transform]
    aligner: Collator
    draws_seeds: bool = False
    skip_crowd: bool = False
    masks: MaskSettings | None = None
    kind: TargetKind = "objects"
    supported: Callable[[BatchPlan], None] | None = None

    def __post_init__(self) -> None:
        self._category_ids = torch.tensor([category.id for category in self.cache.categories], dtype=torch.int64)
        self._annotations = self.cache.annotations_without_crowds if self.skip_crowd else self.cache.annotations
        if self.skip_crowd and self.images.box_offsets is not None:  # transforms see the boxes that targets have
            single, offsets = ~self.cache.crowd, self._annotations.box_offsets
            self.images = replace(self.images, box_offsets=offsets, source_boxes=self.cache.boxes[single])
        self._spans_batches = self.aligner.spans_batches and all(edit.spans_batches for edit in self.edits)

    def plan(self, random: EpochRandom, step: int, batches: Sequence[NDArray[np.int64]]) -> Sequence[Planned]:
        """Plan consecutive batches.

        The result depends only on the arguments and the settings.

        Args:
            random: the random numbers of the epoch.
            step: the number of the first batch.
            batches: (B) positions of the images of each batch.

        Returns:
            One run of all batches, or one run or error for each; or a single error if none could be planned.
        """
        if self._spans_batches and len(batches) > 1:
            try:
                return self._plan(random, step, batches)
            except Exception as error:
                return [error]
        return [self._plan_one(random, step + k, positions) for k, positions in enumerate(batches)]

    def _plan_one(self, random: EpochRandom, step: int, positions: NDArray[np.int64]) -> Planned:
        try:
            (run,) = self._plan(random, step, [positions])
            return run
        except Exception as error:
            return error

    @refuse_stop_iteration("a transform or collator")
    def _plan(self, random: EpochRandom, step: int, batches: Sequence[NDArray[np.int64]]) -> Sequence[Planned]:
        """Call each transform once for all batches. If one of them does not fit its canvas, place each separately."""
        if not all(map(len, batches)):
            raise PlanError(f"batch {step} of the epoch is empty: check the batch sampler")
        self.cache.check_unchanged()
        rng = random.step(step)
        positions, ends = self._checked(np.concatenate(batches)), list(accumulate(map(len, batches)))
        plan = self.images.plan(positions)
        plan.epoch, plan.batch = random.epoch, np.arange(len(batches), dtype=np.int32).repeat([*map(len, batches)])
        for edit in self.edits:
            if edit(plan, rng, self.images) is not None:  # type: ignore[func-returns-value]  # an easy mistake
                raise PlanError(f"{edit!r} returned a value: a transform changes the plan it is given")
            if self.supported is not None:
                try:
                    self.supported(plan)
                except PlanError as error:
                    raise PlanError(f"{edit!r}: {error}") from error
        if plan.objects is not None and self.masks is None:
            raise PlanError("objects are cut out by their masks: use FastLoader(..., masks=True)")
        index = self.images.index.take(positions)
        try:
            return [self._place(plan, rng, index, ends)]
        except PlanError:
            if len(ends) == 1:
                raise
        return [self._place_one(plan.part(*slots), rng, index[slice(*slots)]) for slots in pairwise([0, *ends])]

    def _place_one(self, plan: BatchPlan, rng: np.random.Generator, index: NDArray[np.int64]) -> Planned:
        try:
            return self._place(plan, rng, index, [len(index)])
        except PlanError as error:
            return error

    def _place(
        self, plan: BatchPlan, rng: np.random.Generator, index: NDArray[np.int64], ends: Sequence[int]
    ) -> PlannedRun:
        self.aligner.place(plan, rng, ends)
        seeds = rng.integers(2**63, size=len(ends)).tolist() if self.draws_seeds else [0] * len(ends)
        targets, masks = self._targets(plan, index, ends)
        return PlannedRun(plan, index, ends, targets, seeds, masks)

    def _targets(
        self, plan: BatchPlan, index: NDArray[np.int64], ends: Sequence[int], failed: Sequence[int] = ()
    ) -> tuple[list[BatchTargets], MaskPlan | None]:
        """The targets of each batch of a placed plan, of whose slots some `failed`, and the masks to draw."""
        if self.kind == "class_ids":
            return [*class_ids_of(plan, index, ends, self.cache.class_ids, failed)], None
        if self.kind == "soft_labels":
            classes = len(self._category_ids)
            return [*soft_labels_of(plan, index, ends, self.cache.class_ids, classes, failed)], None
        targets, masks = targets_of(plan, index, ends, self._annotations, self._category_ids, failed, self.masks)
        return [*targets], masks

    def _checked(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same positions. Raises IndexError if one is out of range; -1 is the last image, as in a list."""
        n = len(self.images)
        if positions.min() < -n or positions.max() >= n:
            wrong = positions[(positions < -n) | (positions >= n)][0]
            raise IndexError(f"the sampler asks for image {wrong} of a dataset of {n} images")
        return positions

    def targets_without(self, run: PlannedRun, failed: Sequence[int]) -> BatchTargets:
        """The targets of a run of one batch, without the boxes or classes of the images `failed`."""
        ((targets,), _) = self._targets(run.plan, run.index, run.ends, failed)
        return targets


class PlannedRuns(Iterator[Sequence[Planned]]):
    """Plans the batches of an epoch, `length` at a time.

    Batches are divided into the same runs wherever one starts, because their random numbers depend on that division. An
    error takes the place of the batch that could not be planned. If a whole run could not be planned, its error is the
    last item.

    Args:
        plan: plans a run, given the number of its first batch and its batches: see `BatchPlanner.plan`.
        batches: positions of the images of each batch.
        start: the number of the first batch of `batches`.
        cut: the number of batches to skip.
        length: batches per run. Default: `RUN`.
    """

    def __init__(
        self,
        plan: Callable[[int, Sequence[NDArray[np.int64]]], Sequence[Planned]],
        batches: Iterator[NDArray[np.int64]],
        start: int,
        cut: int = 0,
        length: int | None = None,
    ) -> None:
        self._plan = plan
        self._length = length or RUN
        self._skip = cut % self._length
        self._step = start + cut - self._skip
        self._batches: Iterator[NDArray[np.int64]] = islice(batches, cut - self._skip, None)
        self._taken: list[NDArray[np.int64]] = []  # read but not yet planned: Ctrl-C may come in between
        self._errors: list[Exception] = []  # raised by the sampler after the batches taken

    def __next__(self) -> Sequence[Planned]:
        self._take()
        if not self._taken and not self._errors:
            raise StopIteration
        planned = self._plan(self._step, self._taken) if self._taken else []
        if len(planned) < len(self._taken) and isinstance(planned[-1], Exception):
            self._batches = islice((), 0)
            runs, self._errors = planned, []
        else:
            runs = [*self._without_skipped(planned), *self._errors]
        self._step += len(self._taken)
        self._skip, self._taken, self._errors = 0, [], []
        return runs

    def _take(self) -> None:
        try:
            self._taken.extend(islice(self._batches, self._length - len(self._taken)))
        except Exception as error:
            self._errors.append(error)
            self._batches = islice((), 0)
        except BaseException:
            self._batches = _interrupted()
            raise

    def _without_skipped(self, planned: Sequence[Planned]) -> Iterator[Planned]:
        skip = self._skip
        for run in planned:
            batches = 1 if isinstance(run, Exception) else len(run.ends)
            if skip < batches:
                yield run if isinstance(run, Exception) or not skip else run.part(skip, batches)
            skip = max(skip - batches, 0)


def _interrupted() -> Iterator[Any]:
    """Replaces the batches after Ctrl-C ended their generator, which would then look like the end of the epoch."""
    raise FastloadError(
        "reading the sampler was interrupted: start another iteration, after "
        "`loader.load_state_dict(loader.state_dict())` to continue with the next batch"
    )
    yield
