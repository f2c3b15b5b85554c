"""The core's clock of what it does without the GIL, by which benchmarks tell how much Python costs."""

from __future__ import annotations

import threading
import time

from fastload import _core
from fastload._core import testing


def test_what_is_done_without_the_gil_is_counted_by_thread():
    """Hashing 64 MB lets go of the GIL: nearly all its CPU time is counted, for the thread that does it alone."""
    data, found = bytes(64 << 20), []

    def measure() -> None:
        before, start = testing.cpu_seconds_without_gil(), time.thread_time()
        _core.xxh64(data)
        found.append((before, testing.cpu_seconds_without_gil() - before, time.thread_time() - start))

    measure()
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    assert found[1][0] == 0
    for _, without, whole in found:
        assert 0.5 * whole < without <= whole
