"""The iterator over batches: it keeps several in the making and hands them out in order.

There is no Python thread: it submits plans ahead and waits for the oldest, while native threads do the work.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
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
PLANNED_IN_A_ROW = 8  # batches: waiting and pixels drive the code that plans out of the CPU's caches
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
    sent: Any = None  # its batch, if on its way to the device already


@dataclass
class Submitted:
    """A job under way, or the error that came instead. Dropping it abandons the job: see `Engine`."""

    job: Job | None = None
    canvas: Canvas | None = None
    ticket: Any = None
    failures: dict[int, str] | None = None  # None: it was not waited for
    error: Exception | None = None


class BatchIterator(Iterator[Any]):
    """Keeps up to `depth` batches submitted, and half as many at least.

    `jobs` plans them; an error of it is raised when its batch would have come, whatever the depth. `deliver` makes
    what the user gets from a job, its pixels and {row: reason} of what did not decode. `ahead`, if given, is called
    before with the next jobs that happen to be executed without failure. `report` is called once, at the end or when
    the iterator is dropped.
    """

    def __init__(
        self,
        jobs: Iterator[Job],
        deliver: Callable[[Job, Canvas, dict[int, str]], Any],
        report: Callable[[], None],
        engine: Engine,
        ring: CanvasRing,
        progress: Progress,
        meter: Meter,
        depth: int,
        ahead: Callable[[Job, Canvas], None] | None = None,
    ) -> None:
        self._jobs = jobs
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
        self._meter.lap("training")
        self._top_up()
        self._meter.lap("planning")
        if not self._flight:
            self._progress.done = True
            self._end()
            raise StopIteration
        first = self._flight[0]
        failures = self._failures(first)  # Ctrl-C leaves it in its place
        self._meter.lap("waiting")
        self._flight.popleft()
        self._progress.step += 1
        if first.error is not None:
            raise first.error
        assert first.job is not None and first.canvas is not None
        batch = self._deliver(first.job, first.canvas, failures)
        self._send_ahead()
        self._meter.count(len(first.job.index))
        self._meter.lap("planning")
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
                    submitted.canvas = submitted.ticket.canvases
            except FastloadError as error:
                submitted.error = error
        return submitted.failures or {}

    def _send_ahead(self) -> None:
        for later in islice(self._flight, AHEAD if self._ahead else 0):
            if later.job is None or later.job.sent is not None:
                continue
            if not self._engine.done(later.ticket) or self._failures(later) or later.error is not None:
                return
            assert self._ahead is not None and later.canvas is not None
            self._ahead(later.job, later.canvas)

    def _top_up(self) -> None:
        if len(self._flight) * 2 > self._depth:
            return  # several in a row here too
        while len(self._flight) < self._depth and (submitted := self._submit_next()):
            self._flight.append(submitted)

    def _submit_next(self) -> Submitted | None:
        if not self._planned:
            self._plan()
        if not self._planned:
            return None
        job = self._planned.popleft()
        if isinstance(job, Exception):
            return Submitted(error=job)
        try:
            shape = (len(job.index), *job.plan.canvas, 3)
            canvas = None if self._engine.makes_canvases else self._ring.lease(shape)
            return Submitted(job, canvas, self._engine.submit(job.plan, canvas))
        except Exception as error:
            return Submitted(error=_without_our_frame(error))

    def _plan(self) -> None:
        """Plan the next few batches, or up to one that cannot be planned."""
        try:
            self._planned.extend(islice(self._jobs, PLANNED_IN_A_ROW))
        except Exception as error:
            self._planned.append(_without_our_frame(error))


def _without_our_frame(error: Exception) -> Exception:
    """The frame that caught `error` would keep the iterator alive."""
    return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)


def _end(flight: deque[Submitted], report: Callable[[], None]) -> None:
    flight.clear()
    report()
