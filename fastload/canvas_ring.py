"""CanvasRing: memory for batches, used again as soon as nobody sees it.

Fresh memory costs more than drawing an image into it: the kernel zeroes every page on first touch.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
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
        self._lent: dict[int, tuple[weakref.ref[Any], NDArray[np.uint8]]] = {}  # by the id of the reference
        self._take_back = partial(_take_back, weakref.ref(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return CanvasRing, (self._keep, self._allocate)  # memory stays in its process

    def lease(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """A uint8 array (B, H, W, 3) with arbitrary content.

        The lease lasts as long as the returned object itself: `torch.from_numpy` keeps that alive for every view of the
        tensor, whereas a NumPy view of it would not.
        """
        size = prod(shape)
        self._let_go()
        buffer = self._take(size)
        canvas = buffer[:size].reshape(shape)
        lease = weakref.ref(canvas, self._take_back)
        self._lent[id(lease)] = lease, buffer
        return canvas

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


def _take_back(ring: weakref.ref[CanvasRing], lease: weakref.ref[Any]) -> None:
    if (lender := ring()) is not None:
        lender._free.append(lender._lent.pop(id(lease))[1])


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
