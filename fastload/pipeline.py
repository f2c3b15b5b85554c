"""The iterator over batches: it keeps several in the making and hands them out in order.

There is no Python thread: it submits plans ahead and waits for the oldest, while native threads do the work.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice, pairwise, repeat
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastload import _core
from fastload.batch import Batch, Targets, from_capsule
from fastload.engines.engine import Engine
from fastload.errors import FastloadError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.ranks import Share
from fastload.stats import Meter

RUN = 128  # batches planned at once: most of what that costs is the same for one and for many
AHEAD = 2  # batches on their way to the device while one is in use


@dataclass
class Progress:
    """How far an epoch has come."""

    epoch: int
    start: int  # the first batch of the iteration
    done: bool = False
    skipped: dict[int, str] = field(default_factory=dict)  # image id: reason
    past: tuple[Share, ...] = ()  # how its first batches were shared, if otherwise than now
    tally: _core.Tally = field(default_factory=_core.Tally)  # of the iteration

    @property
    def step(self) -> int:
        """Batches of the epoch whose turn has come."""
        return self.start + self.tally.steps

    @property
    def cut(self) -> int:
        """Batches handed out of those that are shared as now."""
        return self.step - sum(share.steps for share in self.past)


@dataclass(eq=False)
class Run:
    """Batches planned together: the slots of `plan` up to each of `ends` are one."""

    plan: BatchPlan
    index: NDArray[np.int64]  # (slots) the only or first record that each shows
    ends: Sequence[int]  # (batches)
    targets: list[Targets]  # (batches)
    seeds: Sequence[int]  # (batches) for what chance is left when the pixels are there

    def part(self, begin: int, end: int) -> Run:
        """Its batches from number `begin` to `end`."""
        start, stop = self.ends[begin - 1] if begin else 0, self.ends[end - 1]
        return Run(
            self.plan.part(start, stop),
            self.index[start:stop],
            [later - start for later in self.ends[begin:end]],
            self.targets[begin:end],
            self.seeds[begin:end],
        )


@dataclass(eq=False, slots=True)
class Job:
    """A batch under way, number `number` of its run. Dropping it abandons the batch: see `Engine`."""

    run: Run
    number: int
    size: int  # B
    targets: Targets
    ticket: Any  # of its run
    images: Tensor | None = None  # (B, 3, H, W), once it was waited for
    failures: dict[int, str] | None = None  # {row: reason} of what did not decode; None: it was not waited for
    error: Exception | None = None  # the engine's own
    sent: Any = None  # its batch, if on its way to the device already

    def alone(self) -> Run:
        """A run of this batch only."""
        return self.run.part(self.number, self.number + 1)


class Runs(Iterator[Sequence[Run | Exception]]):
    """Plans `batches`, the first of which is number `start`, `RUN` at a time; the first `cut` are passed over.

    The runs are the same wherever one begins, since what `plan(step, batches)` draws at random depends on them. What
    keeps a batch from being planned stands in its place.
    """

    def __init__(
        self,
        plan: Callable[[int, Sequence[NDArray[np.int64]]], Sequence[Run | Exception]],
        batches: Iterator[NDArray[np.int64]],
        start: int,
        cut: int,
    ) -> None:
        self._plan = plan
        self._skip = cut % RUN
        self._step = start + cut - self._skip
        self._batches = islice(batches, cut - self._skip, None)

    def __next__(self) -> Sequence[Run | Exception]:
        taken: list[NDArray[np.int64]] = []
        errors: list[Exception] = []
        try:
            taken.extend(islice(self._batches, RUN))
        except Exception as error:  # the sampler's, after what it gave
            errors.append(_without_our_frame(error))
        if not taken and not errors:
            raise StopIteration
        runs: list[Run | Exception] = []
        for run in self._plan(self._step, taken):
            batches = 1 if isinstance(run, Exception) else len(run.ends)
            if self._skip < batches:
                runs.append(run if isinstance(run, Exception) or not self._skip else run.part(self._skip, batches))
            self._skip = max(self._skip - batches, 0)
        self._step += len(taken)
        return runs + errors


class BatchIterator(_core.Handout):
    """Keeps at least `depth` batches submitted, and hands them out in order.

    `runs` plans them; an error in it is raised when its batch would have come, whatever the depth. `deliver` makes
    what the user gets from an executed job. `plain`: from one without failures, that is a `Batch` of its images and
    targets. `ahead`, if given, is called before with the next jobs that happen to be executed without failure. `report`
    is called once, at the end or when the iterator is dropped.

    `__next__` is in the core. It keeps whole runs of plain batches, makes these and hands them out, and calls `_plan`
    for more. Other batches, and what stands in a batch's place, are in `_flight`, whose turn is after the core's:
    `_next`.
    """

    def __init__(
        self,
        runs: Iterator[Sequence[Run | Exception]],
        deliver: Callable[[Job], Any],
        report: Callable[[], None],
        engine: Engine,
        progress: Progress,
        meter: Meter,
        depth: int,
        plain: bool = False,
        ahead: Callable[[Job], None] | None = None,
    ) -> None:
        core: _core.Engine | None = getattr(engine, "core", None)
        super().__init__(progress.tally, core, depth, from_capsule, Batch)
        self._runs = runs
        self._deliver = deliver
        self._engine = engine
        self._progress = progress
        self._meter = meter
        self._depth = depth
        self._plain = plain and core is not None
        self._ahead = ahead
        self._flight: deque[Job | Exception] = deque()
        self._end = weakref.finalize(self, _end, self._flight, report)

    def _plan(self) -> None:
        """Submits runs until enough is under way."""
        began = perf_counter()
        while self.kept + len(self._flight) < self._depth and (runs := next(self._runs, None)) is not None:
            for run in runs:
                if isinstance(run, Exception):
                    self._flight.append(run)
                else:
                    self._submit(run)
        self._meter.planned(began)

    def _next(self) -> Any:
        """The first batch in flight."""
        if not self._flight:
            self._progress.done = True
            self._end()
            raise StopIteration
        job = self._flight[0]
        if isinstance(job, Job):
            asked = perf_counter()
            self._wait(job)  # Ctrl-C leaves it in its place
            self._progress.tally.waited(asked)
        self._flight.popleft()
        self._progress.tally.steps += 1
        if isinstance(job, Exception):
            raise job
        if job.error is not None:
            raise job.error
        return self._finish(job)

    def _failed(self, run: Run, number: int, batch: Batch, failures: dict[int, str]) -> Any:
        """What comes instead of a plain batch that did not turn out well."""
        job = Job(run, number, len(batch.images), batch.targets, None, batch.images, failures)
        return self._finish(job)

    def at_end(self) -> bool:
        """Whether no batch is to come."""
        self._plan()
        return not self._flight and not self.kept

    def _wait(self, job: Job) -> None:
        if job.images is not None or job.error is not None:
            return
        try:
            if job.failures is None:
                job.failures = self._engine.wait(job.ticket, job.number)
            job.images = self._engine.images(job.ticket, job.number)
        except FastloadError as error:
            job.error = error

    def _finish(self, job: Job) -> Any:
        """The batch of an executed job."""
        began = perf_counter()
        batch = self._deliver(job)
        if self._ahead is not None:
            self._send_ahead(self._ahead)
        self._meter.planned(began)
        self._progress.tally.handed_out(job.size)
        return batch

    def _send_ahead(self, ahead: Callable[[Job], None]) -> None:
        for later in islice(self._flight, AHEAD):
            if isinstance(later, Exception) or later.sent is not None:
                continue
            if later.failures is None and not self._engine.done(later.ticket, later.number):
                return
            self._wait(later)
            if later.error is not None or later.failures:
                return
            ahead(later)

    def _submit(self, run: Run) -> None:
        try:
            ticket = self._engine.submit(run.plan, run.ends)
        except Exception as error:
            if len(run.ends) == 1:
                self._flight.append(_without_our_frame(error))
            else:  # one of its batches is to blame: each by itself, then
                for k in range(len(run.ends)):
                    self._submit(run.part(k, k + 1))
            return
        if self._plain and not self._flight:
            self.keep(ticket, run, run.targets)
            return
        sizes = [end - start for start, end in pairwise([0, *run.ends])]
        self._flight.extend(map(Job, repeat(run), count(), sizes, run.targets, repeat(ticket)))


def _without_our_frame(error: Exception) -> Exception:
    """The frame that caught `error` would keep the iterator alive."""
    return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)


def _end(flight: deque[Job | Exception], report: Callable[[], None]) -> None:
    flight.clear()
    report()
