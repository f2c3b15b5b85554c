"""Engines for measuring Python's part: they time the calling thread's waits, and one sleeps instead of decoding."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from fastload.engines.native import NativeEngine


class DecodingEngine(NativeEngine):
    """The native engine. `waits` is the CPU time of the calling thread within `wait`, in seconds over all
    engines: that of falling asleep and waking up, all without the GIL but for a few instructions."""

    waits: ClassVar[float] = 0.0

    def wait(self, ticket: Any, number: int) -> dict[int, str]:
        start = time.thread_time()
        failures = super().wait(ticket, number)
        DecodingEngine.waits += time.thread_time() - start
        return failures


class SleepingEngine(DecodingEngine):
    """The same with its queue and threads, whose work on an image is `microseconds` of sleep.

    To Python that is a machine with a core for every thread.
    """

    microseconds: ClassVar[int] = 2000

    def __init__(self, *settings: Any, **further: Any) -> None:
        super().__init__(*settings, **further, emulated_microseconds=self.microseconds)


# By the names that FastLoader is to know them by: ENGINES.update(MEASURING)
MEASURING = {"decoding": (__name__, "DecodingEngine"), "sleeping": (__name__, "SleepingEngine")}
