"""The iterator over batches: it keeps several in the making and hands them out in order.

Plans are submitted ahead, native threads execute them, and the iterator waits for the oldest. Each iterator has its own
share of the engine, so any number of them may be under way.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count, islice, pairwise, repeat
from time import perf_counter
from typing import Any

from torch import Tensor

from fastload.batch import Targets
from fastload.engines.base import Engine
from fastload.errors import FastloadError
from fastload.loader.planner import Planned, PlannedRun
from fastload.loader.state import EpochProgress
from fastload.loader.stats import Meter

AHEAD = 2  # batches on their way to the device while one is in use


@dataclass(eq=False, slots=True)
class PendingBatch:
    """A batch under way, number `number` of its run. Dropping it abandons the batch: see `Engine`."""

    run: PlannedRun
    number: int
    size: int  # B
    targets: Targets
    ticket: Any  # of its run
    images: Tensor | None = None  # (B, 3, H, W), once it was waited for
    failures: dict[int, str] | None = None  # {row: reason} of what did not decode; None: it was not waited for
    sent: Any = None  # its batch, if on its way to the device already

    def alone(self) -> PlannedRun:
        """A run of this batch only."""
        return self.run.part(self.number, self.number + 1)


class BatchIterator(Iterator[Any]):
    """Keeps at least `depth` batches submitted, and hands them out in order.

    Args:
        runs: plans batches; an error in it is raised when its batch would have come, whatever the depth.
        deliver: makes what the user gets of an executed job.
        report: is called once, at the end or when the iterator is dropped.
        engine: executes plans, for this iterator only: see `Engine.share`.
        progress, meter: count what is handed out, and where the time goes.
        length: gives the batches of a whole epoch.
        ahead: is called before `deliver` with the next jobs, if they happen to be executed without failure.
        workers: threads that `deliver` runs in; 0: the caller's.
    """

    def __init__(
        self,
        runs: Iterator[Sequence[Planned]],
        deliver: Callable[[PendingBatch], Any],
        report: Callable[[], None],
        engine: Engine,
        progress: EpochProgress,
        meter: Meter,
        depth: int,
        length: Callable[[], int],
        ahead: Callable[[PendingBatch], None] | None = None,
        workers: int = 0,
    ) -> None:
        self._runs = runs
        self._deliver = deliver
        self._engine = engine
        self._progress = progress
        self._meter = meter
        self._depth = depth
        self._length = length
        self._ahead = ahead
        self._asking: dict[str, int] = {}  # the thread that asks for the next batch
        self._planned: deque[Planned] = deque()  # to be submitted
        self._flight: deque[PendingBatch | Exception] = deque()  # submitted
        self._threads = ThreadPoolExecutor(workers, "fastload-function") if workers else None
        self._delivered: deque[Future[Any]] = deque()  # being delivered by a thread, before those in flight
        # Nothing that holds an error is given to it: by the frames that it was raised in, that may hold the iterator.
        self._end = weakref.finalize(self, _end, self._threads, report)

    def __next__(self) -> Any:
        me = threading.get_ident()  # no lock: Ctrl-C could leave it locked for good
        if self._asking.setdefault("thread", me) != me:
            raise FastloadError("another thread is waiting for this iterator's next batch: give each thread its own")
        try:
            self._submit_ahead()
            return self._next_delivered() if self._threads else self._next()
        finally:
            self._asking.clear()

    def __len__(self) -> int:
        return self._length()

    def at_end(self) -> bool:
        """Whether no batch is to come."""
        self._submit_ahead()
        return not self._flight and not self._delivered

    def _submit_ahead(self) -> None:
        """Submit runs until enough is under way."""
        if len(self._flight) >= self._depth:
            return
        began = perf_counter()
        while len(self._flight) < self._depth and self._plan():
            jobs = self._submitted(self._planned[0])
            self._planned.popleft()  # right before they are in flight, for Ctrl-C may come at any moment
            self._flight.extend(jobs)
        self._meter.planned(began)

    def _plan(self) -> bool:
        """Whether there is something to submit."""
        while not self._planned and (runs := next(self._runs, None)) is not None:
            self._planned.extend(runs)
        return bool(self._planned)

    def _next(self) -> Any:
        """The first batch in flight, delivered here."""
        if not self._flight:
            self._stop()
        try:
            size, batch = self._finish(self._flight[0])
        except Exception:  # Ctrl-C leaves the batch in its place
            self._take()
            raise
        self._take()
        if self._ahead is not None:
            began = perf_counter()
            self._send_ahead(self._ahead)
            self._meter.planned(began)
        self._meter.handed_out(size)
        return batch

    def _finish(self, first: PendingBatch | Exception) -> tuple[int, Any]:
        """The size of a batch, and what the user gets."""
        if isinstance(first, Exception):
            try:
                raise first
            finally:
                del first  # this frame would hold the error that holds it
        asked = perf_counter()
        _wait(self._engine, first)
        executed = self._meter.waited(asked)
        batch = _without_stop_iteration(self._deliver, first)
        self._meter.planned(executed)
        return first.size, batch

    def _take(self) -> None:
        self._flight.popleft()
        self._progress.count()

    def _next_delivered(self) -> Any:
        """The first batch that a thread delivers."""
        assert self._threads is not None
        while self._flight and len(self._delivered) < self._depth:
            job = self._flight.popleft()
            self._delivered.append(self._threads.submit(_execute, self._engine, self._deliver, job))
        if not self._delivered:
            self._stop()
        asked = perf_counter()
        wait(islice(self._delivered, 1))  # Ctrl-C leaves the batch in its place
        self._meter.waited(asked)
        self._progress.count()
        size, batch = self._delivered.popleft().result()
        self._meter.handed_out(size)
        return batch

    def _stop(self) -> None:
        self._progress.done = True
        self._end()
        raise StopIteration

    def _send_ahead(self, ahead: Callable[[PendingBatch], None]) -> None:
        for later in islice(self._flight, AHEAD):
            if isinstance(later, Exception) or later.sent is not None:
                continue
            if later.failures is None and not self._engine.done(later.ticket, later.number):
                return
            try:
                _wait(self._engine, later)
            except FastloadError:  # raised again in its turn
                return
            if later.failures:
                return
            ahead(later)

    def _submitted(self, run: Planned) -> list[PendingBatch | Exception]:
        """Its batches under way; what keeps one from being so stands in its place."""
        if isinstance(run, Exception):
            return [run]
        try:
            ticket = self._engine.submit(run.plan, run.ends)
        except Exception as error:
            if len(run.ends) == 1:
                return [error]
            # One of its batches is to blame: each by itself, then.
            return [job for k in range(len(run.ends)) for job in self._submitted(run.part(k, k + 1))]
        sizes = [end - start for start, end in pairwise([0, *run.ends])]
        return list(map(PendingBatch, repeat(run), count(), sizes, run.targets, repeat(ticket)))


def _wait(engine: Engine, job: PendingBatch) -> None:
    """Until the job is executed. Raises the engine's error for it."""
    if job.images is None:
        if job.failures is None:
            job.failures = engine.wait(job.ticket, job.number)
        job.images = engine.images(job.ticket, job.number)


def _execute(engine: Engine, deliver: Callable[[PendingBatch], Any], job: PendingBatch | Exception) -> tuple[int, Any]:
    """The size of a batch and what the user gets, in a thread."""
    if isinstance(job, Exception):
        raise job
    _wait(engine, job)
    return job.size, _without_stop_iteration(deliver, job)


def _without_stop_iteration(deliver: Callable[[PendingBatch], Any], job: PendingBatch) -> Any:
    """What it returns. A StopIteration of the user's functions would end the loop: it becomes a RuntimeError."""
    try:
        return deliver(job)
    except StopIteration as error:
        raise RuntimeError("a function of transforms, or collate_fn, raised StopIteration") from error


def _end(threads: ThreadPoolExecutor | None, report: Callable[[], None]) -> None:
    if threads:
        threads.shutdown(wait=False, cancel_futures=True)
    report()
