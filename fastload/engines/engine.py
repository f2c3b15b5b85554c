"""What every engine is: something that turns a plan into pixels."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastload.plan.batch_plan import BatchPlan


class Engine(Protocol):
    """Executes plans. Several may be under way at once; each is waited for at most once, in any order.

    A ticket keeps its `out` alive. Dropping one that was not waited for abandons its plan: nothing is written
    afterwards. Dropping the engine ends its threads.
    """

    def submit(self, plan: BatchPlan, out: NDArray[np.uint8]) -> Any:
        """Start writing `plan` into `out` (B, H, W, 3); every byte of it is written. Returns a ticket for `wait`."""

    def wait(self, ticket: Any) -> dict[int, str]:
        """Wait until a plan is executed. Returns {row: reason} for the rows that did not decode, whose slots hold
        nothing but the fill colour."""

    def done(self, ticket: Any) -> bool:
        """Whether `wait` would return at once. May be called before `wait` only."""

    def close(self) -> None:
        """End all threads. The engine cannot be used afterwards."""
