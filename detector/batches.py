"""The order of training, the same however many processes share it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from detector.errors import DataError
from fastload.plan.sampling import EpochOrder


class RankBatches(Sampler[list[int]]):
    """One process's share of every batch.

    The batches of an epoch depend on the seed, the epoch and the dataset alone; process r of n takes images r, r + n,
    ... of each. So every image comes exactly once an epoch, and n processes together take the steps of one.

    Args:
        sizes: (n, 2) width, height of the images; batches are of similar shapes.
        batch_size: images over all processes.
    """

    def __init__(self, sizes: NDArray[np.int32], batch_size: int, seed: int, rank: int, world: int) -> None:
        if len(sizes) < world:
            raise DataError(f"{len(sizes)} images are too few for {world} processes.")
        aspect = sizes[:, 0] / sizes[:, 1]
        self.images, self.batch_size, self.seed, self.rank, self.world = len(sizes), batch_size, seed, rank, world
        self.order = EpochOrder(aspect, batch_size, drop_last=False, shuffle=True, grouped=True)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.images, self.batch_size)
        return whole + (rest >= self.world)

    def __iter__(self) -> Iterator[list[int]]:
        batches = list(self.order.batches(self.seed, self.epoch))
        if len(batches[-1]) < self.world:  # too few for each process to have one: they join the batch before
            batches[-2:] = [np.concatenate(batches[-2:])]
        return (batch[self.rank :: self.world].tolist() for batch in batches)
