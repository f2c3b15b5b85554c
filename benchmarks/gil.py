"""How long a thread holds the GIL."""

from __future__ import annotations

import time

from fastload._core import testing


def gil_seconds() -> float:
    """CPU seconds that the calling thread has held the GIL for, of which two readings tell a difference.

    The core counts what it does without the GIL itself; what others do without it is not told apart.
    """
    return time.thread_time() - testing.cpu_seconds_without_gil()
