"""The native engine: libjpeg-turbo and the fused resampling kernel, on threads that never hold the GIL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fastload import _core
from fastload.errors import PlanError
from fastload.plan.batch_plan import BatchPlan
from fastload.stats import ThreadTimes

if TYPE_CHECKING:
    from fastload.cache.reader import Cache

Check = Literal["never", "first", "always"]  # numbered as in the core


class NativeEngine:
    """Executes plans over `cache` on `threads` native threads; with 0, in the thread that waits.

    A record's checksum is verified the first time this engine reads it, or every time, or never.
    """

    makes_canvases = False

    def __init__(self, cache: Cache, threads: int, check: Check = "first", emulated_microseconds: int = 0) -> None:
        places = cache.addresses, cache.lengths, cache.checksums
        self._core = _core.Engine(*places, threads, get_args(Check).index(check), cache, emulated_microseconds)

    def submit(self, plan: BatchPlan, out: NDArray[np.uint8]) -> _core.Ticket:
        """See `Engine.submit`."""
        try:
            return self._core.submit(plan.index, plan.slot, plan.crop, plan.rect, plan.flip, plan.color, plan.fill, out)
        except ValueError as error:
            raise PlanError(f"this plan cannot be executed: {error}") from None

    def wait(self, ticket: _core.Ticket) -> dict[int, str]:
        """See `Engine.wait`. Ctrl-C gets through."""
        return self._core.wait(ticket)

    def times(self) -> ThreadTimes:
        """Seconds that all threads together have spent since the engine began: see `stats.Stats`."""
        return self._core.times()

    def done(self, ticket: _core.Ticket) -> bool:
        """See `Engine.done`."""
        return self._core.done(ticket)

    def close(self) -> None:
        """End all threads."""
        self._core.close()
