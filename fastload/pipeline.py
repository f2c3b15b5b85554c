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
from dataclasses import dataclass, field
from itertools import count, islice, pairwise, repeat
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastload.batch import Targets
from fastload.engines.engine import Engine
from fastload.errors import FastloadError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.ranks import Share
from fastload.plan.sampled import SampledBatches, state_now
from fastload.stats import Meter

RUN = 128  # batches planned at once in an order of the loader's own: most of what that costs is the same for one
AHEAD = 2  # batches on their way to the device while one is in use


@dataclass
class Progress:
    """How far an epoch has come."""

    epoch: int
    start: int  # the first batch of the iteration
    done: bool = False
    skipped: dict[int, str] = field(default_factory=dict)  # image id: reason
    past: tuple[Share, ...] = ()  # how its first batches were shared, if otherwise than now
    resumed: dict[str, Any] | None = None  # the state of `sampled` that it began with
    sampled: SampledBatches | None = None  # of a sampler of the user's
    steps: int = 0  # batches of the iteration whose turn has come

    @property
    def step(self) -> int:
        """Batches of the epoch whose turn has come."""
        return self.start + self.steps

    def sampler_state(self, samplers: Sequence[Any]) -> dict[str, Any]:
        """See `SampledBatches.state`, of an epoch that may not have begun."""
        return self.sampled.state() if self.sampled else self.resumed or state_now(samplers)

    def __getstate__(self) -> dict[str, Any]:
        resumed = self.sampled.state() if self.sampled else self.resumed
        return {**vars(self), "sampled": None, "resumed": resumed}  # what reads a sampler stays in its process

    def count(self) -> None:
        """The turn of another batch has come."""
        self.steps += 1
        if self.sampled is not None:
            self.sampled.handed_out()

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
    sent: Any = None  # its batch, if on its way to the device already

    def alone(self) -> Run:
        """A run of this batch only."""
        return self.run.part(self.number, self.number + 1)


class Runs(Iterator[Sequence[Run | Exception]]):
    """Plans `batches`, the first of which is number `start`, `length` at a time; the first `cut` are passed over.
    `length` is `RUN` by default.

    The runs are the same wherever one begins, since what `plan(step, batches)` draws at random depends on them. What
    keeps a batch from being planned stands in its place. If it keeps a whole run from being planned, nothing follows.
    """

    def __init__(
        self,
        plan: Callable[[int, Sequence[NDArray[np.int64]]], Sequence[Run | Exception]],
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

    def __next__(self) -> Sequence[Run | Exception]:
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

    def _without_skipped(self, planned: Sequence[Run | Exception]) -> Iterator[Run | Exception]:
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
        runs: Iterator[Sequence[Run | Exception]],
        deliver: Callable[[Job], Any],
        report: Callable[[], None],
        engine: Engine,
        progress: Progress,
        meter: Meter,
        depth: int,
        length: Callable[[], int],
        ahead: Callable[[Job], None] | None = None,
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
        self._planned: deque[Run | Exception] = deque()  # to be submitted
        self._flight: deque[Job | Exception] = deque()  # submitted
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

    def _finish(self, first: Job | Exception) -> tuple[int, Any]:
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

    def _send_ahead(self, ahead: Callable[[Job], None]) -> None:
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

    def _submitted(self, run: Run | Exception) -> list[Job | Exception]:
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
        return list(map(Job, repeat(run), count(), sizes, run.targets, repeat(ticket)))


def _wait(engine: Engine, job: Job) -> None:
    """Until the job is executed. Raises the engine's error for it."""
    if job.images is None:
        if job.failures is None:
            job.failures = engine.wait(job.ticket, job.number)
        job.images = engine.images(job.ticket, job.number)


def _execute(engine: Engine, deliver: Callable[[Job], Any], job: Job | Exception) -> tuple[int, Any]:
    """The size of a batch and what the user gets, in a thread."""
    if isinstance(job, Exception):
        raise job
    _wait(engine, job)
    return job.size, _without_stop_iteration(deliver, job)


def _without_stop_iteration(deliver: Callable[[Job], Any], job: Job) -> Any:
    """What it returns. A StopIteration of the user's functions would end the loop: it becomes a RuntimeError."""
    try:
        return deliver(job)
    except StopIteration as error:
        raise RuntimeError("a function of transforms, or collate_fn, raised StopIteration") from error


def _end(threads: ThreadPoolExecutor | None, report: Callable[[], None]) -> None:
    if threads:
        threads.shutdown(wait=False, cancel_futures=True)
    report()
