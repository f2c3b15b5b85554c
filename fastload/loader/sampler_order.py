"""Batches of the user's sampler, which are resumed exactly or not at all."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastload.errors import StateError


class SampledBatches(Iterator[NDArray[np.int64]]):
    """The batches that `begin()` iterates, from number `cut` on.

    Samplers draw from torch's generators: the default one or their own `generator`. So `state()` holds the states of
    these generators at the start of the epoch, and a resumed epoch starts with them again.

    Args:
        begin: iterates the batches of positions of an epoch; called when the first batch is read.
        samplers: the samplers that `begin` reads.
        resumed: the `state()` after `cut` batches were handed out; None at the start of an epoch.
        cut: the number of batches to skip. A checksum compares them with those handed out before.

    Raises:
        StateError: the sampler gives other batches than before, or cannot be made to give them again.
    """

    def __init__(
        self,
        begin: Callable[[], Iterator[NDArray[np.int64]]],
        samplers: Sequence[Any],
        resumed: dict[str, Any] | None = None,
        cut: int = 0,
    ) -> None:
        self._begin = begin
        self._samplers = samplers
        self._resumed = resumed
        self._cut = cut
        self._batches = self._read()
        self._random: list[str] = []  # the generators' states at the start of the epoch
        self._checksum = 0  # of the batches read
        self._ahead: deque[int] = deque()  # the checksums up to each batch read but not handed out
        self._handed_out = 0  # the checksum of the batches handed out

    def __next__(self) -> NDArray[np.int64]:
        return next(self._batches)

    def handed_out(self) -> None:
        """Note that the next batch was handed out."""
        if self._ahead:
            self._handed_out = self._ahead.popleft()

    def state(self) -> dict[str, Any]:
        """The state after the batches handed out so far, as plain numbers and strings."""
        if not self._random:
            return self._resumed or state_now(self._samplers)
        return {"random": self._random, "seen": self._handed_out}

    def _read(self) -> Iterator[NDArray[np.int64]]:
        if self._resumed is None:
            self._random = state_now(self._samplers)["random"]
            batches = self._begin()
        else:
            batches = self._resume(self._resumed)
        for batch in batches:
            self._add(batch)
            self._ahead.append(self._checksum)
            yield batch

    def _resume(self, state: dict[str, Any]) -> Iterator[NDArray[np.int64]]:
        generators = _generators(self._samplers)
        if len(state["random"]) != len(generators):
            raise StateError("this state belongs to other samplers: load it into a loader with the same ones")
        self._random = state["random"]
        default = torch.get_rng_state()  # restored below: others draw from it too
        try:
            for generator, value in zip(generators, self._random, strict=True):
                generator.set_state(torch.frombuffer(bytearray.fromhex(value), dtype=torch.uint8))
            batches = self._begin()
            for batch in islice(batches, self._cut):
                self._add(batch)
            passed = torch.get_rng_state()
            following = list(islice(batches, 1))  # many samplers draw when the first batch is read
            keeps_drawing = self._cut > 0 and not torch.equal(passed, torch.get_rng_state())
        finally:
            torch.set_rng_state(default)
        if self._checksum != state["seen"]:
            raise StateError(
                "the sampler gives other batches than before the interruption: some images would come twice, others "
                "never. Give it the same seed, epoch and generator as then."
            )
        if keeps_drawing:
            raise StateError(
                "the sampler draws from torch's default generator while batches are read, as other code does, so its "
                "order cannot be repeated: give it a torch.Generator of its own as `generator`"
            )
        self._handed_out = self._checksum
        return chain(following, batches)

    def _add(self, batch: NDArray[np.int64]) -> None:
        self._checksum = zlib.crc32(batch.tobytes(), self._checksum)


def state_now(samplers: Sequence[Any]) -> dict[str, Any]:
    """The state of an epoch that begins now."""
    return {"random": [bytes(generator.get_state().numpy()).hex() for generator in _generators(samplers)], "seen": 0}


def _generators(samplers: Sequence[Any]) -> list[torch.Generator]:
    """The generators that the samplers draw from, torch's default one first."""
    own = [getattr(sampler, "generator", None) for sampler in samplers]
    return [torch.default_generator, *dict.fromkeys(g for g in own if isinstance(g, torch.Generator))]
