"""The processor time of a peer and its worker processes. Runs in environments without FastLoader."""

from __future__ import annotations

import contextlib

import psutil


def cpu_seconds() -> dict[int, float]:
    """Return the processor time of this process and of its workers, by process id."""
    own = psutil.Process()
    found = {}
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = process.cpu_times()
            found[process.pid] = spent.user + spent.system
    return found
