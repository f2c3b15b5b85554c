"""The native engine: decoders and the fused resampling kernel, on threads that never hold the GIL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch._C import _from_dlpack

from fastload import _core
from fastload.engines.validate import check_aligned
from fastload.errors import PlanError
from fastload.pixel_format import DTYPES, PixelFormat
from fastload.plan.batch_plan import BatchPlan

if TYPE_CHECKING:
    from fastload.cache.read.cache import Cache

Check = Literal["never", "first", "always"]  # numbered as in the core
ALIGNMENT = 64  # bytes: a cache line, and the widest vector store


class NativeEngine:
    """Executes plans over `cache` on `threads` native threads; with 0, in the thread that waits.

    One iterator's: see `share`. Images are made in the format `pixels`, each row as soon as it is drawn. A record's
    checksum is verified the first time it is read, or every time, or never. At most `in_flight` batches are in the
    making at a time; `allocate` makes memory for them, of a number of bytes, which is used again when nobody sees it.
    """

    def __init__(
        self,
        cache: Cache,
        threads: int,
        check: Check = "first",
        in_flight: int = 6,
        allocate: Callable[[int], NDArray[np.uint8]] | None = None,
        pixels: PixelFormat | None = None,
        emulated_microseconds: int = 0,
    ) -> None:
        self._cache = cache
        places = cache.addresses, cache.lengths, cache.checksums
        number = get_args(Check).index(check)
        memory, pixel_format = allocate or aligned_memory, core_format(pixels or PixelFormat())
        self.core = _core.Engine(
            *places, threads, number, cache, in_flight, memory, pixel_format, emulated_microseconds
        )

    def share(self) -> NativeEngine:
        """See `Engine.share`."""
        other = copy(self)
        other.core = self.core.share()
        return other

    def submit(self, plan: BatchPlan, ends: Sequence[int]) -> _core.Ticket:
        """See `Engine.submit`."""
        check_aligned(plan)
        self._cache.ensure(plan.index)
        try:
            return self.core.submit(plan, ends)
        except ValueError as error:
            raise PlanError(f"this plan cannot be executed: {error}") from None

    def wait(self, ticket: _core.Ticket, number: int) -> dict[int, str]:
        """See `Engine.wait`. Ctrl-C gets through, after which it may be waited for again."""
        return self.core.wait(ticket, number)

    def images(self, ticket: _core.Ticket, number: int) -> Tensor | None:
        """See `Engine.images`. They are there as soon as there is memory for them, and then written."""
        capsule = self.core.images(ticket, number)
        return None if capsule is None else _from_dlpack(capsule)  # torch.from_dlpack, without its checks

    def times(self) -> tuple[float, float, float, float]:
        """Seconds that all threads together have spent since the engine began: see `stats.Stats`."""
        return self.core.times()

    def done(self, ticket: _core.Ticket, number: int) -> bool:
        """See `Engine.done`."""
        return self.core.done(ticket, number)

    def close(self) -> None:
        """End all threads, when all that share them are closed or dropped."""
        self.core.close()


def core_format(pixels: PixelFormat) -> _core.PixelFormat:
    """The same for the core."""
    return _core.PixelFormat(DTYPES.index(pixels.dtype), pixels.is_planar, pixels.mean, pixels.std)


def aligned_memory(size: int) -> NDArray[np.uint8]:
    """`size` bytes of memory with arbitrary content."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
