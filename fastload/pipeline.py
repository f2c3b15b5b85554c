"""The iterator over batches: it keeps several in the making and hands them out in order.

There is no Python thread: it submits plans ahead and waits for the oldest, while native threads do the work.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastload.batch import Targets
from fastload.canvas_ring import CanvasRing
from fastload.engines.engine import Engine
from fastload.errors import FastloadError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.ranks import Share
from fastload.stats import Meter

Canvas = NDArray[np.uint8] | Tensor  # (B, H, W, 3)
RUN = 32  # batches planned at once: most of what that costs is the same for one and for many
AHEAD = 2  # batches on their way to the device while one is in use


@dataclass
class Progress:
    """How far an epoch has come."""

    epoch: int
    step: int  # batches handed out
    done: bool = False
    skipped: dict[int, str] = field(default_factory=dict)  # image id: reason
    past: tuple[Share, ...] = ()  # how its first batches were shared, if otherwise than now

    @property
    def cut(self) -> int:
        """Batches handed out of those that are shared as now."""
        return self.step - sum(share.steps for share in self.past)


@dataclass
class Job:
    """A batch to be made of the records `index` (B). `seed` is for what chance is left when the pixels are there."""

    index: NDArray[np.int64]
    plan: BatchPlan
    targets: Targets
    seed: int
    images: Tensor | None = None  # (B, 3, H, W) on its canvas, once that is there
    sent: Any = None  # its batch, if on its way to the device already


@dataclass
class Submitted:
    """A job under way, or the error that came instead. Dropping it abandons the job: see `Engine`."""

    job: Job | None = None
    canvas: Canvas | None = None
    ticket: Any = None
    failures: dict[int, str] | None = None  # None: it was not waited for
    error: Exception | None = None

    def show_on(self, canvas: Canvas) -> None:
        """Say where the pixels are, or will be once it was waited for."""
        assert self.job is not None
        self.canvas = canvas
        if isinstance(canvas, Tensor):
            self.job.images = canvas.permute(0, 3, 1, 2)
        else:
            self.job.images = torch.from_numpy(canvas.transpose(0, 3, 1, 2))


class Runs(Iterator[Sequence[Job | Exception]]):
    """Plans `batches`, the first of which is number `start`, in runs of `RUN`; the first `cut` are passed over.

    The runs are the same wherever one begins, since what `plan(step, batches)` draws at random depends on them. What
    keeps a batch from being planned stands in its place.
    """

    def __init__(
        self,
        plan: Callable[[int, Sequence[NDArray[np.int64]]], Sequence[Job | Exception]],
        batches: Iterator[NDArray[np.int64]],
        start: int,
        cut: int,
    ) -> None:
        self._plan = plan
        self._skip = cut % RUN
        self._step = start + cut - self._skip
        self._batches = islice(batches, cut - self._skip, None)

    def __next__(self) -> Sequence[Job | Exception]:
        taken: list[NDArray[np.int64]] = []
        errors: list[Exception] = []
        try:
            taken.extend(islice(self._batches, RUN))
        except Exception as error:  # the sampler's, after what it gave
            errors.append(_without_our_frame(error))
        jobs = [*self._plan(self._step, taken), *errors]
        if not jobs:
            raise StopIteration
        self._step += len(jobs)
        skip, self._skip = self._skip, 0
        return jobs[skip:]


class BatchIterator(Iterator[Any]):
    """Keeps up to `depth` batches submitted, and half as many at least.

    `runs` plans them; an error in it is raised when its batch would have come, whatever the depth. `deliver` makes
    what the user gets from a job, its pixels and {row: reason} of what did not decode. `ahead`, if given, is called
    before with the next jobs that happen to be executed without failure. `report` is called once, at the end or when
    the iterator is dropped.
    """

    def __init__(
        self,
        runs: Iterator[Sequence[Job | Exception]],
        deliver: Callable[[Job, Canvas, dict[int, str]], Any],
        report: Callable[[], None],
        engine: Engine,
        ring: CanvasRing,
        progress: Progress,
        meter: Meter,
        depth: int,
        ahead: Callable[[Job, Canvas], None] | None = None,
    ) -> None:
        self._runs = runs
        self._deliver = deliver
        self._engine = engine
        self._ring = ring
        self._progress = progress
        self._meter = meter
        self._depth = depth
        self._ahead = ahead
        self._planned: deque[Job | Exception] = deque()
        self._flight: deque[Submitted] = deque()
        self._end = weakref.finalize(self, _end, self._flight, report)

    def __next__(self) -> Any:
        asked = perf_counter()
        self._top_up()
        planned = perf_counter()
        if not self._flight:
            self._meter.batch(0, asked, planned, ready=planned)
            self._progress.done = True
            self._end()
            raise StopIteration
        first = self._flight[0]
        failures = self._failures(first)  # Ctrl-C leaves it in its place
        ready = perf_counter()
        self._flight.popleft()
        self._progress.step += 1
        if first.error is not None:
            raise first.error
        assert first.job is not None and first.canvas is not None
        batch = self._deliver(first.job, first.canvas, failures)
        if self._ahead is not None:
            self._send_ahead(self._ahead)
        self._meter.batch(len(first.job.index), asked, planned, ready)
        return batch

    def at_end(self) -> bool:
        """Whether no batch is to come."""
        self._top_up()
        return not self._flight

    def _failures(self, submitted: Submitted) -> dict[int, str]:
        """{row: reason} of what did not decode; an error of the engine itself becomes the batch's."""
        if submitted.error is None and submitted.failures is None:
            try:
                submitted.failures = self._engine.wait(submitted.ticket)
                if submitted.canvas is None:
                    submitted.show_on(submitted.ticket.canvases)
            except FastloadError as error:
                submitted.error = error
        return submitted.failures or {}

    def _send_ahead(self, ahead: Callable[[Job, Canvas], None]) -> None:
        for later in islice(self._flight, AHEAD):
            if later.job is None or later.job.sent is not None:
                continue
            if not self._engine.done(later.ticket) or self._failures(later) or later.error is not None:
                return
            assert later.canvas is not None
            ahead(later.job, later.canvas)

    def _top_up(self) -> None:
        if len(self._flight) * 2 > self._depth:
            return  # several in a row here too
        while len(self._flight) < self._depth and (submitted := self._submit_next()):
            self._flight.append(submitted)

    def _submit_next(self) -> Submitted | None:
        if not self._planned:
            self._planned.extend(next(self._runs, ()))
        if not self._planned:
            return None
        job = self._planned.popleft()
        if isinstance(job, Exception):
            return Submitted(error=job)
        try:
            shape = (len(job.index), *job.plan.canvas, 3)
            canvas = None if self._engine.makes_canvases else self._ring.lease(shape)
            submitted = Submitted(job, ticket=self._engine.submit(job.plan, canvas))
            if canvas is not None:
                submitted.show_on(canvas)  # here rather than after the wait, when Python is slow to wake
            return submitted
        except Exception as error:
            return Submitted(error=_without_our_frame(error))


def _without_our_frame(error: Exception) -> Exception:
    """The frame that caught `error` would keep the iterator alive."""
    return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)


def _end(flight: deque[Submitted], report: Callable[[], None]) -> None:
    flight.clear()
    report()
