"""The protocol of engines, which turn plans into pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from fastload.masks import DrawnMasks
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.masks import MaskPlan


class Engine(Protocol):
    """Executes plans, several at once. Each batch is waited for at most once, in any order.

    Dropping a ticket cancels those of its batches that were not waited for. Dropping the engine ends its threads.
    """

    def submit(self, plan: BatchPlan, ends: Sequence[int]) -> Any:
        """Start executing the batches of a plan.

        They are executed in order, a limited number ahead of the batch that is waited for.

        Args:
            plan: a placed plan of several batches.
            ends: the slot after the last one of each batch.

        Returns:
            A ticket for all batches.

        Raises:
            PlanError: the plan is impossible.
            CacheError: `Cache.ensure` cannot provide the records.
        """

    def wait(self, ticket: Any, number: int) -> dict[int, str]:
        """Wait until batch `number` is executed.

        Returns:
            {row: reason} for each row of the batch, from 0, that did not decode. Its slot holds only the fill color.

        Raises:
            EngineError: the batch cannot be executed here. Other batches can.
        """

    def images(self, ticket: Any, number: int) -> Tensor | None:
        """The images of a batch: (B, 3, H, W) in the engine's `PixelFormat`. None is possible before `wait` returned.

        Call until the result is not None, and not again after that. The memory is not written to as long as a tensor
        refers to it.
        """

    def share(self) -> Engine:
        """An engine with the same threads, for another iterator.

        It has its own queue of batches, and memory for as many in flight. Several threads may wait for its batches, but
        only one for each.
        """

    def done(self, ticket: Any, number: int) -> bool:
        """Whether `wait` would return at once. Call it only before `wait`."""

    def close(self) -> None:
        """End all threads. The engine cannot be used afterwards."""


class MaskEngine(Engine, Protocol):
    """An engine that draws masks too: `NativeEngine`, or any other in a `MaskingEngine`."""

    def submit(self, plan: BatchPlan, ends: Sequence[int], masks: MaskPlan | None = None) -> Any:
        """See `Engine.submit`. `masks` are those to draw, if any."""

    def masks(self, ticket: Any, number: int) -> DrawnMasks:
        """The masks of a batch that was submitted with them, after `wait` and before `images`.

        An image whose masks cannot be drawn is among the failures that `wait` returned.
        """
