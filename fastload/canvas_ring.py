"""CanvasRing: memory for batches, used again as soon as nobody sees it.

Fresh memory costs more than drawing an image into it: the kernel zeroes every page on first touch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: a cache line, and the widest vector store


class CanvasRing:
    """Lends canvas stacks and takes each back when the last array or tensor that shows it is gone.

    At most `keep` unused buffers are held. `allocate` makes new ones of a number of bytes. Safe to use from several
    threads.
    """

    def __init__(self, keep: int, allocate: Callable[[int], NDArray[np.uint8]] | None = None) -> None:
        self._keep = keep
        self._allocate = allocate or _aligned
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=keep)  # beyond that, the oldest is let go
        self._largest = 0
        self._held: deque[tuple[Any, NDArray[np.uint8]]] = deque()  # oldest first
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return CanvasRing, (self._keep, self._allocate)  # memory stays in its process

    def lease(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """A uint8 array (B, H, W, 3) with arbitrary content. Its views, and tensors on them, keep the lease."""
        self._let_go()
        return np.asarray(_Lease(self._take(prod(shape)), shape, self._free))

    def hold(self, canvas: NDArray[np.uint8], until: Any) -> None:
        """Do not lend `canvas` again before `until.query()` is True, such as the event that its copy is done.

        Events are taken to happen in the order in which they are given.
        """
        with self._lock:
            self._held.append((until, canvas))

    def _let_go(self) -> None:
        with self._lock:
            while self._held and self._held[0][0].query():
                self._held.popleft()

    def _take(self, size: int) -> NDArray[np.uint8]:
        self._largest = max(self._largest, size)
        while True:
            try:
                buffer = self._free.pop()
            except IndexError:
                return self._allocate(self._largest)
            if buffer.size >= size:  # else it is from before the batches grew: let it go
                return buffer


class _Lease:
    """A buffer on loan to the arrays that NumPy makes of this, which all keep it: it goes back to `free` with it."""

    __slots__ = ("__array_interface__", "_buffer", "_free")

    def __init__(self, buffer: NDArray[np.uint8], shape: tuple[int, ...], free: deque[NDArray[np.uint8]]) -> None:
        self._buffer, self._free = buffer, free
        self.__array_interface__ = {**buffer.__array_interface__, "shape": shape}

    def __del__(self) -> None:
        self._free.append(self._buffer)


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
