"""What every engine is: something that turns a plan into pixels."""

from __future__ import annotations

from typing import Any, Protocol

from fastload.plan.batch_plan import BatchPlan


class Engine(Protocol):
    """Executes plans. Several may be under way at once; each is waited for at most once, in any order.

    A ticket keeps its `out` alive. Dropping one that was not waited for abandons its plan: nothing is written
    afterwards. Dropping the engine ends its threads.
    """

    makes_canvases: bool
    """Whether memory is the engine's own: then `submit` is given no `out`, and once it was waited for, the ticket's
    `canvases` are the batch, a uint8 tensor (B, H, W, 3)."""

    def submit(self, plan: BatchPlan, out: Any) -> Any:
        """Start writing `plan` into `out` (B, H, W, 3) uint8; every byte is written. Returns a ticket for `wait`."""

    def wait(self, ticket: Any) -> dict[int, str]:
        """Wait until a plan is executed. Returns {row: reason} for the rows that did not decode, whose slots hold
        nothing but the fill colour. EngineError when the plan cannot be executed here, after which others can."""

    def done(self, ticket: Any) -> bool:
        """Whether `wait` would return at once. May be called before `wait` only."""

    def close(self) -> None:
        """End all threads. The engine cannot be used afterwards."""
