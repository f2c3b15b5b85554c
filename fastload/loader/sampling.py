"""The order of an epoch: shuffled, grouped by aspect ratio, cut into batches.

Random numbers come from counter-based generators keyed by (seed, epoch, step), which have no running state. So any
batch of any epoch can be planned separately, on any thread, and again after a resume, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastload.errors import PlanError
from fastload.loader.ranks import Ranks, Share

ORDER, CONTENT = 0, 1  # separate streams of one (seed, epoch)
WINDOW = 32  # batches sorted by aspect ratio together


@dataclass
class EpochOrder:
    """The positions of the images in each batch of an epoch.

    Positions come from `batch_sampler`, else from `sampler`, else from all images. Ranks share an order of all images:
    batches are cut for all ranks together, so the batches of one step have similar shapes on all of them.

    Args:
        aspect: (n) aspect ratio of each image.
        batch_size: images per batch of one rank; None: each position is a batch.
        drop_last: drop a last batch that is not full.
        shuffle: shuffle the images if there is no sampler.
        grouped: put images of similar shapes in one batch: see `cut_batches_by_aspect`.
        sampler: gives positions.
        batch_sampler: gives lists of positions.
        ranks: the processes that share an epoch.
    """

    aspect: NDArray[np.float64]
    batch_size: int | None
    drop_last: bool
    shuffle: bool
    grouped: bool
    sampler: Iterable[Any] | None = None
    batch_sampler: Iterable[Any] | None = None
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def is_own(self) -> bool:
        """Whether the loader makes the order itself, so that it can be shared again in the middle of an epoch."""
        return self.sampler is None and self.batch_sampler is None

    @property
    def share(self) -> Share:
        """How the ranks share the epoch now."""
        return Share(self.batch_size or 1, self.ranks.world)

    def steps(self) -> int:
        """Batches of an epoch for each rank, if the order `is_own`."""
        n, world, size = len(self.aspect), self.ranks.world, self.batch_size or 1
        images = n // world if self.ranks.drop_uneven else -(-n // world)
        return images // size if self.drop_last else -(-images // size)

    def batches(self, seed: int, epoch: int, past: Sequence[Share] = ()) -> Iterator[NDArray[np.int64]]:
        """The positions in each batch of this rank, in order; without those seen in `past`, if the order `is_own`."""
        if self.batch_sampler is not None:
            return map(_positions, self.batch_sampler)
        if self.sampler is not None:
            rng = EpochRandom(seed, epoch).order()
            return self._cut(self.sampler, self.batch_size or 1, self.drop_last, rng)
        sampler_seed, sampler_epoch = self.ranks.order_key(epoch)
        rng = EpochRandom(seed if sampler_seed is None else sampler_seed, sampler_epoch).order()
        rest = self._all_images(rng, sampler_epoch)
        for share in past:
            seen = islice(self._cut_for_ranks(rest, share, rng), share.steps)
            rest = rest[~np.isin(rest, np.concatenate([rest[:0], *seen]))]
        return map(self.ranks.part, self._cut_for_ranks(rest, self.share, rng))

    def _all_images(self, rng: np.random.Generator, epoch: int) -> NDArray[np.int64]:
        n = len(self.aspect)
        if not self.shuffle:
            return np.arange(n)
        return rng.permutation(n) if self.ranks.seed is None else self.ranks.permutation(n, epoch)

    def _cut_for_ranks(
        self, order: NDArray[np.int64], share: Share, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        size = share.batch_size * share.world
        for batch in self._cut(order, size, False, rng):
            even = batch if len(batch) == size else self.ranks.even(batch, share.world, order)
            if len(even) == size or (len(even) and not self.drop_last):
                yield even

    def _cut(
        self, order: Iterable[int], size: int, drop_last: bool, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        if not self.grouped:
            return cut_batches(order, size, drop_last)
        return cut_batches_by_aspect(order, self.aspect, size, drop_last, rng if self.shuffle else None)


class EpochRandom:
    """The random numbers of an epoch: `order` for shuffling, `step(k)` for transforms and collator.

    `step(k)` serves all batches that are planned together, starting with number k. Ranks draw the same numbers for
    shuffling and different numbers for their batches.

    Both return the same generator, set to another position, because making a generator costs more than a batch draws
    from it. So do not use it after the next call.
    """

    def __init__(self, seed: int, epoch: int, rank: int = 0) -> None:
        self.epoch = epoch
        self._rank = rank
        key = np.array([seed, epoch], np.uint64)
        self._bits = np.random.Philox(key=key)
        self._rng = np.random.Generator(self._bits)
        self._counter = np.zeros(4, np.uint64)  # the lowest word counts the numbers drawn
        self._state: Any = {**self._bits.state, "state": {"counter": self._counter, "key": key}}

    def order(self) -> np.random.Generator:
        """The generator for shuffling the epoch."""
        return self._at(0, ORDER, 0)

    def step(self, step: int) -> np.random.Generator:
        """The generator for the batches planned from batch `step` on."""
        return self._at(self._rank, CONTENT, step)

    def _at(self, rank: int, stream: int, step: int) -> np.random.Generator:
        self._counter[1:] = rank, stream, step
        self._bits.state = self._state
        return self._rng


def cut_batches(order: Iterable[int], batch_size: int, drop_last: bool) -> Iterator[NDArray[np.int64]]:
    """Cut `order` into batches of `batch_size` positions. The last may be shorter; `drop_last` drops it then."""
    for batch in _pieces(order, batch_size):
        if len(batch) == batch_size or not drop_last:
            yield batch


def cut_batches_by_aspect(
    order: Iterable[int],
    aspect: NDArray[np.float64],
    batch_size: int,
    drop_last: bool,
    rng: np.random.Generator | None,
) -> Iterator[NDArray[np.int64]]:
    """Like `cut_batches`, with images of similar `aspect` (n) in one batch.

    Each window of 32 batches is sorted by aspect ratio and cut, and its batches are shuffled with `rng` (None: they
    stay sorted). Every position comes exactly once. The last, short batch holds the last positions of `order`: a random
    choice rather than the widest images.
    """
    for window in _pieces(order, WINDOW * batch_size):
        cut = len(window) - len(window) % batch_size
        whole, rest = window[:cut], window[cut:]
        batches = whole[np.argsort(aspect[whole], kind="stable")].reshape(-1, batch_size)
        yield from batches if rng is None else rng.permutation(batches)
        if len(rest) and not drop_last:
            yield rest


def _pieces(order: Iterable[int], size: int) -> Iterator[NDArray[np.int64]]:
    """`order` in pieces of `size`; the last may be shorter. A sampler is read one piece at a time."""
    if isinstance(order, np.ndarray | Tensor):
        positions = _positions(order)
        yield from (positions[start : start + size] for start in range(0, len(positions), size))
        return
    stream = iter(order)
    while len(piece := _positions(islice(stream, size))):
        yield piece


def _positions(given: Iterable[Any]) -> NDArray[np.int64]:
    """Positions from a sampler as an array."""
    if isinstance(given, np.ndarray | Tensor):
        array = np.asarray(given)
        if array.dtype.kind not in "iu":
            raise PlanError(f"a sampler must give positions of images as integers, not {array.dtype}")
        return array.astype(np.int64, copy=False)
    return np.fromiter(map(index, given), np.int64)
