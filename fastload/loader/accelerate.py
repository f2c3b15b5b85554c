"""Does for FastLoader what Hugging Face Accelerate does for a loader in `prepare`.

Accelerate replaces a loader by a DataLoader of the same dataset and batch sampler, which would not read the cache as
FastLoader does. So FastLoader declares itself prepared and does the same work: it shares the epoch among processes,
moves batches to the device of the process, and reports the last batch for gradient accumulation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accelerate.data_loader import DataLoaderStateMixin
from accelerate.state import GradientState, PartialState
from accelerate.utils import broadcast_object_list, send_to_device

from fastload.errors import ArgumentError
from fastload.loader.iterator import BatchIterator
from fastload.loader.sampling import EpochOrder


def is_running() -> bool:
    """Whether there is an Accelerator in this process."""
    return bool(PartialState._shared_state)


class Preparation(DataLoaderStateMixin):  # type: ignore[misc]  # Accelerate has no types
    """A loader's part in an Accelerate run. `seed` is the seed of the first rank, which all ranks use."""

    def __init__(self, order: EpochOrder, seed: int) -> None:
        state = PartialState()
        if state.num_processes > 1 and order.ranks.sampler is None:
            if not order.is_own:
                raise ArgumentError(
                    f"Accelerate runs {state.num_processes} processes, and FastLoader shares an epoch among them in "
                    "its own order or a DistributedSampler's: give it shuffle=..., or a DistributedSampler as sampler"
                )
            order.ranks.rank, order.ranks.world = state.process_index, state.num_processes
        self.seed: int = broadcast_object_list([seed])[0]
        self.gradient_state = GradientState()
        self.dataset = range(len(order.aspect))
        self.total_batch_size = order.share.batch_size * order.share.world
        self._drop_last = order.drop_last
        self._device = state.device

    def batches(self, batches: BatchIterator) -> Iterator[Any]:
        """The batches on this process's device; `end_of_dataloader` is True while the last one is in use."""
        self.begin()
        try:
            for batch in batches:
                self.end_of_dataloader = batches.at_end()
                yield send_to_device(batch, self._device, non_blocking=True)
        finally:
            self.end()
