"""BatchPlanner: from the positions of a batch's images to its plan and its targets, before a pixel is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastload.batch import Targets, targets_of
from fastload.cache.read.cache import Cache
from fastload.errors import FastloadError, PlanError
from fastload.loader.sampling import EpochRandom
from fastload.plan.align import Collator
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms import Transform

RUN = 128  # batches planned at once in an order of the loader's own: most of what that costs is the same for one


@dataclass(eq=False)
class PlannedRun:
    """Batches planned together: the slots of `plan` up to each of `ends` are one."""

    plan: BatchPlan
    index: NDArray[np.int64]  # (slots) the only or first record that each shows
    ends: Sequence[int]  # (batches)
    targets: list[Targets]  # (batches)
    seeds: Sequence[int]  # (batches) for what chance is left when the pixels are there

    def part(self, begin: int, end: int) -> PlannedRun:
        """Its batches from number `begin` to `end`."""
        start, stop = self.ends[begin - 1] if begin else 0, self.ends[end - 1]
        return PlannedRun(
            self.plan.part(start, stop),
            self.index[start:stop],
            [later - start for later in self.ends[begin:end]],
            self.targets[begin:end],
            self.seeds[begin:end],
        )


Planned = PlannedRun | Exception  # what keeps a batch from being planned stands in its place


@dataclass
class BatchPlanner:
    """Plans batches of `images` of `cache`: `edits` change each plan, `aligner` places its images on the canvas.

    `draws_seeds` is True if chance is left for when the pixels are there; each batch then has a seed for it.
    """

    cache: Cache
    images: ImageIndex
    edits: Sequence[Transform]
    aligner: Collator
    draws_seeds: bool = False
    skip_crowd: bool = False

    def __post_init__(self) -> None:
        self._category_ids = torch.tensor([category.id for category in self.cache.categories], dtype=torch.int64)
        self._annotations = self.cache.annotations_without_crowds if self.skip_crowd else self.cache.annotations
        self._spans_batches = self.aligner.spans_batches and all(edit.spans_batches for edit in self.edits)

    def plan(self, random: EpochRandom, step: int, batches: Sequence[NDArray[np.int64]]) -> Sequence[Planned]:
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

    def _plan_one(self, random: EpochRandom, step: int, positions: NDArray[np.int64]) -> Planned:
        try:
            (run,) = self._plan(random, step, [positions])
            return run
        except Exception as error:
            return _raised(error)

    def _plan(self, random: EpochRandom, step: int, batches: Sequence[NDArray[np.int64]]) -> Sequence[Planned]:
        """Transforms are called once. Batches that do not fit their canvases stand by themselves."""
        if not all(map(len, batches)):
            raise PlanError(f"batch {step} of the epoch is empty: check the batch sampler")
        self.cache.check_unchanged()
        rng = random.step(step)
        positions, ends = self._checked(np.concatenate(batches)), list(accumulate(map(len, batches)))
        plan = self.images.plan(positions)
        for edit in self.edits:
            if edit(plan, rng, self.images) is not None:  # type: ignore[func-returns-value]  # easily got wrong
                raise PlanError(f"{edit!r} returned something: a transform changes the plan it is given")
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
        targets = targets_of(plan, index, ends, self._annotations, self._category_ids)
        return PlannedRun(plan, index, ends, targets, seeds)

    def _checked(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of images that there are; -1 is the last."""
        n = len(self.images)
        if positions.min() < -n or positions.max() >= n:
            wrong = positions[(positions < -n) | (positions >= n)][0]
            raise IndexError(f"the sampler asks for image {wrong} of a dataset of {n} images")
        return positions

    def targets_without(self, run: PlannedRun, failed: Sequence[int]) -> Targets:
        """The targets of a run of one batch in which the images `failed` have no boxes."""
        (targets,) = targets_of(run.plan, run.index, run.ends, self._annotations, self._category_ids, failed)
        return targets


class PlannedRuns(Iterator[Sequence[Planned]]):
    """Plans `batches`, the first of which is number `start`, `length` at a time; the first `cut` are passed over.
    `length` is `RUN` by default.

    The runs are the same wherever one begins, since what `plan(step, batches)` draws at random depends on them. What
    keeps a batch from being planned stands in its place. If it keeps a whole run from being planned, nothing follows.
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
        self._taken: list[NDArray[np.int64]] = []  # read, and not yet planned: Ctrl-C may come in between
        self._errors: list[Exception] = []  # the sampler's, after what it gave

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
    """Instead of what is left of an order that was interrupted: Python ends it then, as if no batch were to come."""
    raise FastloadError(
        "the order of the batches was being read when it was interrupted: begin another iteration, with "
        "`loader.load_state_dict(loader.state_dict())` before it to go on here"
    )
    yield


def _raised(error: Exception) -> Exception:
    """What a generator would make of it: a StopIteration would end the loop without a word."""
    if not isinstance(error, StopIteration):
        return error
    try:
        raise RuntimeError("a transform or collator raised StopIteration") from error
    except RuntimeError as instead:
        return instead
