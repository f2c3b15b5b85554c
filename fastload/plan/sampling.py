"""The order of an epoch: shuffled, grouped by aspect ratio, cut into batches.

Random numbers come from counter-based generators keyed by (seed, epoch, step), never from a running state: any batch of
any epoch can be planned on its own, on any thread, and again after a resume, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDER, CONTENT = 0, 1  # separate streams of one (seed, epoch)
WINDOW = 32  # batches sorted by aspect ratio together


@dataclass
class EpochOrder:
    """Which positions make up each batch of an epoch, of the n images with these `aspect` ratios (n).

    They come from `batch_sampler` if there is one, else from `sampler` if there is one, else from all images, shuffled
    or not. With `batch_size` None each position is a batch. `grouped`: see `cut_batches_by_aspect`.
    """

    aspect: NDArray[np.float64]
    batch_size: int | None
    drop_last: bool
    shuffle: bool
    grouped: bool
    sampler: Iterable[Any] | None = None
    batch_sampler: Iterable[Any] | None = None

    def batches(self, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
        """The positions of each batch, in order."""
        if self.batch_sampler is not None:
            return (np.array(batch, np.int64) for batch in self.batch_sampler)
        rng = EpochRandom(seed, epoch).order()
        order = self.sampler
        if order is None:
            order = rng.permutation(len(self.aspect)) if self.shuffle else range(len(self.aspect))
        size = self.batch_size or 1
        if not self.grouped:
            return cut_batches(order, size, self.drop_last)
        return cut_batches_by_aspect(order, self.aspect, size, self.drop_last, rng if self.shuffle else None)


class EpochRandom:
    """The random numbers of an epoch: `order` shuffles it, `step(k)` serves the transforms and collator of batch k.

    There is one generator, moved to where it is wanted, since making one costs more than a batch draws from it:
    what one call returned is not to be used after the next call.
    """

    def __init__(self, seed: int, epoch: int) -> None:
        key = np.array([seed, epoch], np.uint64)
        self._bits = np.random.Philox(key=key)
        self._rng = np.random.Generator(self._bits)
        self._counter = np.zeros(4, np.uint64)  # the lowest word counts the numbers drawn
        self._state: Any = {**self._bits.state, "state": {"counter": self._counter, "key": key}}

    def order(self) -> np.random.Generator:
        """The generator at the numbers that shuffle the epoch."""
        return self._at(ORDER, 0)

    def step(self, step: int) -> np.random.Generator:
        """The generator at the numbers of batch `step`."""
        return self._at(CONTENT, step)

    def _at(self, stream: int, step: int) -> np.random.Generator:
        self._counter[2:] = stream, step
        self._bits.state = self._state
        return self._rng


def cut_batches(order: Iterable[int], batch_size: int, drop_last: bool) -> Iterator[NDArray[np.int64]]:
    """Batches of `batch_size` positions in the order given. Only the last may be shorter, unless `drop_last`."""
    stream = iter(order)
    while len(batch := _take(stream, batch_size)) == batch_size:
        yield batch
    if len(batch) and not drop_last:
        yield batch


def cut_batches_by_aspect(
    order: Iterable[int],
    aspect: NDArray[np.float64],
    batch_size: int,
    drop_last: bool,
    rng: np.random.Generator | None,
) -> Iterator[NDArray[np.int64]]:
    """Like `cut_batches`, with images of similar `aspect` (n) in one batch.

    Windows of 32 batches of the order are sorted by aspect ratio, cut, and the batches of each window are shuffled with
    `rng` (None: left sorted). Every position comes exactly once. The images over at the end, which make the short batch
    or are dropped by `drop_last`, are the last of `order`, so a random choice and not the widest ones.
    """
    stream = iter(order)
    while len(window := _take(stream, WINDOW * batch_size)):
        whole, rest = np.split(window, [len(window) - len(window) % batch_size])
        batches = whole[np.argsort(aspect[whole], kind="stable")].reshape(-1, batch_size)
        yield from batches if rng is None else rng.permutation(batches)
        if len(rest) and not drop_last:
            yield rest


def _take(stream: Iterator[int], count: int) -> NDArray[np.int64]:
    return np.fromiter(islice(stream, count), np.int64)
