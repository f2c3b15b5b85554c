"""The state of a loader: its position in an epoch, how ranks shared the epoch so far, and which loaders may load it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastload.cache.read.cache import Cache
from fastload.errors import StateError
from fastload.loader.ranks import Share
from fastload.loader.sampler_order import SampledBatches, state_now
from fastload.loader.sampling import EpochOrder


@dataclass
class EpochProgress:
    """The position in an epoch."""

    epoch: int
    start: int  # the number of the iteration's first batch
    done: bool = False
    skipped: dict[int, str] = field(default_factory=dict)  # image id: reason
    past: tuple[Share, ...] = ()  # how its first batches were shared, if not as they are now
    resumed: dict[str, Any] | None = None  # the state of `sampled` at the start of the iteration
    sampled: SampledBatches | None = None  # batches of the user's sampler
    steps: int = 0  # batches handed out by this iteration, or failed

    @property
    def step(self) -> int:
        """Batches of the epoch handed out, or failed."""
        return self.start + self.steps

    def sampler_state(self, samplers: Sequence[Any]) -> dict[str, Any]:
        """See `SampledBatches.state`; the epoch may not have begun."""
        return self.sampled.state() if self.sampled else self.resumed or state_now(samplers)

    def __getstate__(self) -> dict[str, Any]:
        resumed = self.sampled.state() if self.sampled else self.resumed
        return {**vars(self), "sampled": None, "resumed": resumed}  # an iterator cannot be pickled

    def count(self) -> None:
        """Count a batch, handed out or failed."""
        self.steps += 1
        if self.sampled is not None:
            self.sampled.handed_out()

    @property
    def cut(self) -> int:
        """Batches handed out since the epoch was last shared again."""
        return self.step - sum(share.steps for share in self.past)


def state_of(order: EpochOrder, cache: Cache, progress: EpochProgress, samplers: Sequence[Any]) -> dict[str, Any]:
    """The state as plain numbers and strings, without the seed."""
    sampler_seed, order_epoch = order.ranks.order_key(progress.epoch)
    return {
        "epoch": progress.epoch,
        "step": progress.step,
        "past": [(share.batch_size, share.world, share.steps) for share in progress.past],
        "batch_size": order.batch_size,
        "world": order.ranks.world,
        "sampler_seed": sampler_seed,
        "order_epoch": order_epoch if progress.step else progress.epoch,
        "sampler_epochs": [getattr(sampler, "epoch", None) for sampler in samplers],
        "sampled": None if order.is_own else progress.sampler_state(samplers),
        **_identity(order, cache),
    }


def restore(state: dict[str, Any], order: EpochOrder, cache: Cache, samplers: Sequence[Any]) -> EpochProgress:
    """Return the position to resume from, and set the epochs of the samplers.

    Raises:
        StateError: the state belongs to another dataset or order.
    """
    check(state, _identity(order, cache))
    for sampler, epoch in zip(samplers, state["sampler_epochs"], strict=True):
        if epoch is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
    order.ranks.seed = state["sampler_seed"]
    past = tuple(Share(*share) for share in state["past"])
    saved = Share(state["batch_size"] or 1, state["world"])
    if saved != order.share and (steps := state["step"] - sum(share.steps for share in past)):
        past += (replace(saved, steps=steps),)
    epoch = state["epoch"] if order.ranks.sampler else state["order_epoch"]
    return EpochProgress(epoch, state["step"], past=past, resumed=state.get("sampled"))


def check(state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise StateError unless `state` belongs to a loader with this identity."""
    for name, here in identity.items():
        if state.get(name) != here:
            raise StateError(
                f"this state is of a loader with {name} {state.get(name)!r}, here it is {here!r}: "
                "load it into a FastLoader over the same cache with the same settings"
            )


def _identity(order: EpochOrder, cache: Cache) -> dict[str, Any]:
    return {
        "fingerprint": cache.fingerprint,
        "images": len(order.aspect),
        "shuffle": order.shuffle,
        "group_by_aspect": order.grouped,
        "order": "own" if order.is_own else f"of a sampler, in batches of {order.batch_size}",
    }
