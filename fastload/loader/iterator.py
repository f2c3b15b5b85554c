"""The iterator over batches: it keeps several in flight and hands them out in order.

It submits plans to the engine ahead of time, native threads execute them, and it waits for the oldest. Each iterator
has its own share of the engine, so several can run at once.
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
from typing import Any, cast

from torch import Tensor

from fastload.engines.base import Engine, MaskEngine
from fastload.errors import FastloadError
from fastload.loader.planner import BatchTargets, Planned, PlannedRun
from fastload.loader.state import EpochProgress
from fastload.loader.stats import Meter
from fastload.masks import DrawnMasks

AHEAD = 2  # batches being copied to the device while one is in use


@dataclass(eq=False, slots=True)
class PendingBatch:
    """A batch in flight: number `number` of its run. Dropping it cancels the batch: see `Engine`."""

    run: PlannedRun
    number: int
    size: int  # B
    targets: BatchTargets
    ticket: Any  # of its run
    images: Tensor | None = None  # (B, 3, H, W), after waiting for it
    failures: dict[int, str] | None = None  # {row: reason} of images that did not decode; None before waiting for it
    masks: DrawnMasks | None = None  # after waiting for it, if masks are drawn
    sent: Any = None  # the batch, if it is being copied to the device

    def alone(self) -> PlannedRun:
        """A run of this batch alone."""
        return self.run.part(self.number, self.number + 1)


class BatchIterator(Iterator[Any]):
    """Keeps at least `depth` batches submitted, and hands them out in order.

    Args:
        runs: runs of planned batches; an error is raised in the place of its batch.
        deliver: turns an executed batch into what the user receives.
        report: called once, at the end or when the iterator is dropped.
        engine: executes plans, for this iterator only: see `Engine.share`.
        progress: counts the batches handed out.
        meter: measures where the time is spent.
        depth: batches in flight.
        length: returns the number of batches of an epoch.
        ahead: called with the next batches that are executed without failures, to start copying them to the device.
        workers: threads that `deliver` runs in; 0: the calling thread.
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
        self._caller: dict[str, int] = {}  # the thread that waits for the next batch
        self._planned: deque[Planned] = deque()  # not yet submitted
        self._flight: deque[PendingBatch | Exception] = deque()  # submitted
        self._threads = ThreadPoolExecutor(workers, "fastload-function") if workers else None
        self._delivered: deque[Future[Any]] = deque()  # delivered by threads, before those in flight
        # Its arguments must not hold an error: the traceback may hold this iterator, which then never ends.
        self._end = weakref.finalize(self, _end, self._threads, report)

    def __next__(self) -> Any:
        me = threading.get_ident()  # no lock, since Ctrl-C could leave it locked for good
        if self._caller.setdefault("thread", me) != me:
            raise FastloadError("another thread is waiting for this iterator's next batch: give each thread its own")
        try:
            self._submit_ahead()
            return self._next_delivered() if self._threads else self._next()
        finally:
            self._caller.clear()

    def __len__(self) -> int:
        return self._length()

    def at_end(self) -> bool:
        """Whether there are no more batches."""
        self._submit_ahead()
        return not self._flight and not self._delivered

    def _submit_ahead(self) -> None:
        """Submit runs until enough batches are in flight."""
        if len(self._flight) >= self._depth:
            return
        began = perf_counter()
        while len(self._flight) < self._depth and self._plan():
            batches = self._submitted(self._planned[0])
            self._planned.popleft()  # only now: Ctrl-C may come at any moment
            self._flight.extend(batches)
        self._meter.planned(began)

    def _plan(self) -> bool:
        """Plan a run if none is left. Returns whether there is one to submit."""
        while not self._planned and (runs := next(self._runs, None)) is not None:
            self._planned.extend(runs)
        return bool(self._planned)

    def _next(self) -> Any:
        """The first batch in flight, delivered in this thread."""
        if not self._flight:
            self._stop()
        try:
            size, batch = self._finish(self._flight[0])
        except Exception:  # not Ctrl-C, after which the batch can be read again
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
        """The size of a batch, and what the user receives."""
        if isinstance(first, Exception):
            try:
                raise first
            finally:
                del first  # or frame and error would hold one another
        began = perf_counter()
        _wait(self._engine, first)
        executed = self._meter.waited(began)
        batch = self._deliver(first)
        self._meter.planned(executed)
        return first.size, batch

    def _take(self) -> None:
        self._flight.popleft()
        self._progress.count()

    def _next_delivered(self) -> Any:
        """The next batch that a thread delivers."""
        assert self._threads is not None
        while self._flight and len(self._delivered) < self._depth:
            pending = self._flight.popleft()
            self._delivered.append(self._threads.submit(_execute, self._engine, self._deliver, pending))
        if not self._delivered:
            self._stop()
        began = perf_counter()
        wait(islice(self._delivered, 1))  # before `popleft`: after Ctrl-C the batch can be read again
        self._meter.waited(began)
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
            except FastloadError:  # raised again when it is this batch's turn
                return
            if later.failures:
                return
            ahead(later)

    def _submitted(self, run: Planned) -> list[PendingBatch | Exception]:
        """Submit a run; returns its batches, and errors in the place of those that could not be submitted."""
        if isinstance(run, Exception):
            return [run]
        try:
            if run.masks is None:
                ticket = self._engine.submit(run.plan, run.ends)
            else:
                ticket = cast(MaskEngine, self._engine).submit(run.plan, run.ends, run.masks)
        except Exception as error:
            if len(run.ends) == 1:
                return [error]
            # Only some of its batches are at fault.
            return [batch for k in range(len(run.ends)) for batch in self._submitted(run.part(k, k + 1))]
        sizes = [end - start for start, end in pairwise([0, *run.ends])]
        return list(map(PendingBatch, repeat(run), count(), sizes, run.targets, repeat(ticket)))


def _wait(engine: Engine, pending: PendingBatch) -> None:
    """Wait until the batch is executed, and set its images, masks and failures."""
    if pending.images is None:
        if pending.failures is None:
            pending.failures = engine.wait(pending.ticket, pending.number)
        if pending.run.masks is not None and pending.masks is None:
            pending.masks = cast(MaskEngine, engine).masks(pending.ticket, pending.number)
        pending.images = engine.images(pending.ticket, pending.number)


def _execute(
    engine: Engine, deliver: Callable[[PendingBatch], Any], pending: PendingBatch | Exception
) -> tuple[int, Any]:
    """The size of a batch, and what the user receives; runs in a thread."""
    if isinstance(pending, Exception):
        raise pending
    _wait(engine, pending)
    return pending.size, deliver(pending)


def _end(threads: ThreadPoolExecutor | None, report: Callable[[], None]) -> None:
    if threads:
        threads.shutdown(wait=False, cancel_futures=True)
    report()
