"""How the processes of a training run share an epoch, following torch's DistributedSampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data.distributed import DistributedSampler


@dataclass(frozen=True)
class Share:
    """How an epoch is shared: `steps` batches of `batch_size` images on each of `world` ranks."""

    batch_size: int
    world: int
    steps: int = 0


@dataclass
class Ranks:
    """This process's place among those that share an epoch.

    Args:
        rank: the number of this process.
        world: the number of processes.
        drop_uneven: drop images at the end of an epoch that do not divide evenly among ranks. Else the first images
            of the order come again.
        seed: of a DistributedSampler, whose order the epoch then has.
        sampler: gives the number of the epoch. None: the loader counts epochs.
    """

    rank: int = 0
    world: int = 1
    drop_uneven: bool = False
    seed: int | None = None
    sampler: DistributedSampler[Any] | None = None

    @classmethod
    def of(cls, sampler: Any, images: int) -> Ranks | None:
        """The ranks of `sampler`, if it is a DistributedSampler of that many images; None for any other sampler."""
        if type(sampler) is not DistributedSampler or len(sampler.dataset) != images:  # type: ignore[arg-type]
            return None
        return cls(sampler.rank, sampler.num_replicas, sampler.drop_last, sampler.seed, sampler)

    def order_key(self, epoch: int) -> tuple[int | None, int]:
        """The sampler's seed (None without one) and the epoch number, which together decide the order."""
        if self.seed is None or self.sampler is None:
            return self.seed, epoch
        return self.seed, self.sampler.epoch

    def permutation(self, images: int, epoch: int) -> NDArray[np.int64]:
        """The order that a DistributedSampler shuffles into before it shares it."""
        generator = torch.Generator().manual_seed((self.seed or 0) + epoch)
        order: NDArray[np.int64] = torch.randperm(images, generator=generator).numpy()
        return order

    def even(self, batch: NDArray[np.int64], world: int, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last `batch` of `order`, made a multiple of `world` long."""
        excess = len(batch) % world
        if self.drop_uneven or not excess:
            return batch[: len(batch) - excess]
        return np.concatenate([batch, np.resize(order, world - excess)])

    def part(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's part of a batch of all ranks.

        Interleaved as by a DistributedSampler if there is one. Else contiguous, so that gathered results are in order.
        """
        if self.sampler is not None:
            return batch[self.rank :: self.world]
        each = len(batch) // self.world
        return batch[self.rank * each : (self.rank + 1) * each]
