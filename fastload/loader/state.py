"""The state of a loader: where in its epoch it is, how the epoch was shared so far, and in what the next must agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastload.cache.read.cache import Cache
from fastload.errors import StateError
from fastload.loader.ranks import Share
from fastload.loader.sampler_order import SampledBatches, state_now
from fastload.loader.sampling import EpochOrder


@dataclass
class EpochProgress:
    """How far an epoch has come."""

    epoch: int
    start: int  # the first batch of the iteration
    done: bool = False
    skipped: dict[int, str] = field(default_factory=dict)  # image id: reason
    past: tuple[Share, ...] = ()  # how its first batches were shared, if otherwise than now
    resumed: dict[str, Any] | None = None  # the state of `sampled` that it began with
    sampled: SampledBatches | None = None  # of a sampler of the user's
    steps: int = 0  # batches of the iteration whose turn has come

    @property
    def step(self) -> int:
        """Batches of the epoch whose turn has come."""
        return self.start + self.steps

    def sampler_state(self, samplers: Sequence[Any]) -> dict[str, Any]:
        """See `SampledBatches.state`, of an epoch that may not have begun."""
        return self.sampled.state() if self.sampled else self.resumed or state_now(samplers)

    def __getstate__(self) -> dict[str, Any]:
        resumed = self.sampled.state() if self.sampled else self.resumed
        return {**vars(self), "sampled": None, "resumed": resumed}  # what reads a sampler stays in its process

    def count(self) -> None:
        """The turn of another batch has come."""
        self.steps += 1
        if self.sampled is not None:
            self.sampled.handed_out()

    @property
    def cut(self) -> int:
        """Batches handed out of those that are shared as now."""
        return self.step - sum(share.steps for share in self.past)


def state_of(order: EpochOrder, cache: Cache, here: EpochProgress, samplers: Sequence[Any]) -> dict[str, Any]:
    """All but the seed, of plain numbers and strings."""
    sampler_seed, order_epoch = order.ranks.order_key(here.epoch)
    return {
        "epoch": here.epoch,
        "step": here.step,
        "past": [(share.batch_size, share.world, share.steps) for share in here.past],
        "batch_size": order.batch_size,
        "world": order.ranks.world,
        "sampler_seed": sampler_seed,
        "order_epoch": order_epoch if here.step else here.epoch,
        "sampler_epochs": [getattr(sampler, "epoch", None) for sampler in samplers],
        "sampled": None if order.is_own else here.sampler_state(samplers),
        **_identity(order, cache),
    }


def restore(state: dict[str, Any], order: EpochOrder, cache: Cache, samplers: Sequence[Any]) -> EpochProgress:
    """Where to go on. The samplers are set to their epochs. StateError if it is of another dataset or order."""
    check(state, _identity(order, cache))
    for sampler, epoch in zip(samplers, state["sampler_epochs"], strict=True):
        if epoch is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
    order.ranks.seed = state["sampler_seed"]
    past = tuple(Share(*share) for share in state["past"])
    then = Share(state["batch_size"] or 1, state["world"])
    if then != order.share and (steps := state["step"] - sum(share.steps for share in past)):
        past += (Share(then.batch_size, then.world, steps),)
    epoch = state["epoch"] if order.ranks.sampler else state["order_epoch"]
    return EpochProgress(epoch, state["step"], past=past, resumed=state.get("sampled"))


def check(state: dict[str, Any], identity: dict[str, Any]) -> None:
    """StateError if `state` is of a loader that is not alike."""
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
