"""Memory that a training step frees and the next one needs again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # as in glibc's malloc.h
MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process keep what it frees, where the C library is glibc; elsewhere nothing happens.

    A step on a CPU makes hundreds of tensors of many megabytes. By default each is mapped and unmapped alone, and the
    kernel clears its pages every time they are touched first: a tenth of a step. A thread of its own, such as the
    network's in a PredictStream, would take them from an arena of 64 MB at most and map what is larger: half its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, MOST)
        mallopt(M_ARENA_MAX, 1)
