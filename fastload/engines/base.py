"""What every engine is: something that turns a plan into pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from fastload.plan.batch_plan import BatchPlan


class Engine(Protocol):
    """Executes plans. Several may be under way at once; each batch is waited for at most once, in any order.

    Dropping a ticket abandons those of its batches that were not waited for. Dropping the engine ends its threads.
    """

    def submit(self, plan: BatchPlan, ends: Sequence[int]) -> Any:
        """Take on a placed plan of several batches, the slots up to each of `ends`. Returns a ticket for all of them.

        They are executed in this order, and not far ahead of what is waited for, once `Cache.ensure` has answered for
        their records. Raises PlanError when the plan is impossible, and CacheError when records cannot be had.
        """

    def wait(self, ticket: Any, number: int) -> dict[int, str]:
        """Wait until batch `number` is executed. Returns {row: reason} of the rows that did not decode, whose slots
        hold nothing but the fill colour; rows are the batch's own, from 0. EngineError when the batch cannot be
        executed here, after which others can."""

    def images(self, ticket: Any, number: int) -> Tensor | None:
        """Where a batch is once it was waited for: (B, 3, H, W) in the engine's `PixelFormat`. Before that None is
        possible.

        Nobody else writes there as long as somebody sees it. To be asked until it is not None, then no more."""

    def share(self) -> Engine:
        """An engine with the same threads, for another iterator: with an order of batches of its own, and memory for as
        many in flight. Each of its batches is waited for by one thread, several of them by several."""

    def done(self, ticket: Any, number: int) -> bool:
        """Whether `wait` would return at once. May be called before `wait` only."""

    def close(self) -> None:
        """End all threads. The engine cannot be used afterwards."""
