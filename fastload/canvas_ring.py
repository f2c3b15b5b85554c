"""CanvasRing: memory for batches, used again as soon as nobody sees it.

Fresh memory costs more than drawing an image into it: the kernel zeroes every page on first touch.
"""

from __future__ import annotations

import weakref
from collections import deque
from math import prod

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: a cache line, and the widest vector store


class CanvasRing:
    """Lends canvas stacks and takes each back when the last array or tensor that shows it is gone.

    At most `keep` unused buffers are held. Safe to use from several threads.
    """

    def __init__(self, keep: int) -> None:
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=keep)  # beyond that, the oldest is let go
        self._largest = 0

    def lease(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """A uint8 array (B, H, W, 3) with arbitrary content.

        The lease lasts as long as the returned object itself: `torch.from_numpy` keeps that alive for every view of the
        tensor, whereas a NumPy view of it would not.
        """
        size = prod(shape)
        buffer = self._take(size)
        canvas = buffer[:size].reshape(shape)
        weakref.finalize(canvas, self._free.append, buffer).atexit = False
        return canvas

    def _take(self, size: int) -> NDArray[np.uint8]:
        self._largest = max(self._largest, size)
        while True:
            try:
                buffer = self._free.pop()
            except IndexError:
                return _aligned(self._largest)
            if buffer.size >= size:  # else it is from before the batches grew: let it go
                return buffer


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
