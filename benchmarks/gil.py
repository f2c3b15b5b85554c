"""Measures how long a thread holds the GIL."""

from __future__ import annotations

import time

from fastload._core import testing


def gil_seconds() -> float:
    """CPU seconds for which the calling thread has held the GIL; use the difference of two readings.

    The core counts its own time without the GIL. Time that other libraries spend without it counts as holding it.
    """
    return time.thread_time() - testing.cpu_seconds_without_gil()
