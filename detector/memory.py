"""Memory that a training step frees and the next one needs again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # as in glibc's malloc.h
MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process keep what it frees, where the C library is glibc; elsewhere nothing happens.

    A step on a CPU makes hundreds of tensors of many megabytes. By default each is mapped and unmapped alone, and the
    kernel clears its pages every time they are touched first: a tenth of a step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, MOST)
