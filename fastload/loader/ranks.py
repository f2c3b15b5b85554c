"""Ranks: how the processes of a training run share an epoch, by the rules of torch's DistributedSampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data.distributed import DistributedSampler


@dataclass(frozen=True)
class Share:
    """A way to share an epoch: batches of `batch_size` images on each of `world` ranks, for `steps` batches each."""

    batch_size: int
    world: int
    steps: int = 0


@dataclass
class Ranks:
    """This process is number `rank` of `world`.

    Images that do not divide evenly are left out at the end of an epoch if `drop_uneven`, else the first ones of its
    order come again. `seed` is a DistributedSampler's, whose order of images an epoch then has: its ranks agree on it.
    `sampler` is asked for the epoch's number; without it, the loader's own counts.
    """

    rank: int = 0
    world: int = 1
    drop_uneven: bool = False
    seed: int | None = None
    sampler: DistributedSampler[Any] | None = None

    @classmethod
    def of(cls, sampler: Any, images: int) -> Ranks | None:
        """What `sampler` says, if it is a DistributedSampler of that many images. None: its order is its own affair."""
        if type(sampler) is not DistributedSampler or len(sampler.dataset) != images:  # type: ignore[arg-type]
            return None
        return cls(sampler.rank, sampler.num_replicas, sampler.drop_last, sampler.seed, sampler)

    def order_key(self, epoch: int) -> tuple[int | None, int]:
        """The seed of the sampler, and the number of the epoch of which it gives the order."""
        if self.seed is None or self.sampler is None:
            return self.seed, epoch
        return self.seed, self.sampler.epoch

    def permutation(self, images: int, epoch: int) -> NDArray[np.int64]:
        """The order in which a DistributedSampler of one rank shuffles."""
        generator = torch.Generator().manual_seed((self.seed or 0) + epoch)
        order: NDArray[np.int64] = torch.randperm(images, generator=generator).numpy()
        return order

    def even(self, batch: NDArray[np.int64], world: int, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last `batch` of `order`, made a multiple of `world` long."""
        over = len(batch) % world
        if self.drop_uneven or not over:
            return batch[: len(batch) - over]
        return np.concatenate([batch, np.resize(order, world - over)])

    def part(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's part of a batch of all ranks, dealt out as by a DistributedSampler; else in one piece each, so
        that what ranks gather is in order."""
        if self.sampler is not None:
            return batch[self.rank :: self.world]
        each = len(batch) // self.world
        return batch[self.rank * each : (self.rank + 1) * each]
