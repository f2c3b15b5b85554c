"""MaskingEngine: adds masks to an engine that draws images only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastload.engines.base import Engine
from fastload.masks import DrawnMasks, draw_masks
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.masks import MaskPlan


class MaskedTicket(NamedTuple):
    """The ticket of the other engine, and what each of its batches needs for masks."""

    ticket: Any
    plan: BatchPlan
    ends: Sequence[int]
    masks: MaskPlan
    drawn: dict[int, DrawnMasks]


class MaskingEngine:
    """Draws the masks of the batches of another engine, in the thread that waits for them.

    Args:
        engine: draws the images.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def submit(self, plan: BatchPlan, ends: Sequence[int], masks: MaskPlan | None = None) -> MaskedTicket:
        """See `MaskEngine.submit`."""
        assert masks is not None
        return MaskedTicket(self._engine.submit(plan, ends), plan, ends, masks, {})

    def wait(self, ticket: MaskedTicket, number: int) -> dict[int, str]:
        """See `Engine.wait`."""
        slots = ticket.ends[number - 1] if number else 0, ticket.ends[number]
        ticket.drawn[number], failures = draw_masks(ticket.plan.part(*slots), ticket.masks.part(ticket.plan, *slots))
        return {**failures, **self._engine.wait(ticket.ticket, number)}

    def masks(self, ticket: MaskedTicket, number: int) -> DrawnMasks:
        """See `MaskEngine.masks`."""
        return ticket.drawn.pop(number)

    def images(self, ticket: MaskedTicket, number: int) -> Tensor | None:
        """See `Engine.images`."""
        return self._engine.images(ticket.ticket, number)

    def share(self) -> MaskingEngine:
        """See `Engine.share`."""
        return MaskingEngine(self._engine.share())

    def done(self, ticket: MaskedTicket, number: int) -> bool:
        """See `Engine.done`."""
        return self._engine.done(ticket.ticket, number)

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()
