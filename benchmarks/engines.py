"""Engines for measuring Python's part: both time the calling thread, and one sleeps instead of decoding."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastload import Cache
from fastload.engines.native import Check, NativeEngine
from fastload.plan.batch_plan import BatchPlan


class CallingThread:
    """The CPU time of the calling thread within `submit` and `wait`, over all engines."""

    seconds: ClassVar[float] = 0.0


class DecodingEngine(NativeEngine):
    """The native engine, timed."""

    def submit(self, plan: BatchPlan, out: NDArray[np.uint8]) -> Any:
        start = time.thread_time()
        ticket = super().submit(plan, out)
        CallingThread.seconds += time.thread_time() - start
        return ticket

    def wait(self, ticket: Any) -> dict[int, str]:
        start = time.thread_time()
        failures = super().wait(ticket)
        CallingThread.seconds += time.thread_time() - start
        return failures


class SleepingEngine(DecodingEngine):
    """The same with its queue and threads, whose work on an image is `microseconds` of sleep.

    To Python that is a machine with a core for every thread.
    """

    microseconds: ClassVar[int] = 2000

    def __init__(self, cache: Cache, threads: int, check: Check = "first") -> None:
        super().__init__(cache, threads, check, emulated_microseconds=self.microseconds)


# By the names that FastLoader is to know them by: ENGINES.update(MEASURING)
MEASURING = {"decoding": (__name__, "DecodingEngine"), "sleeping": (__name__, "SleepingEngine")}
