"""Image files as batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.preprocess import Preprocess
from fastload import Batch, MemoryCache, read_images

AHEAD = 16  # images that are read, at least, before the first of them goes to the network


@dataclass(eq=False)
class ImageFiles:
    """Image files as batches, in order, for a `PredictStream`; `image_id` is a file's position in `paths`.

    Files are read while earlier ones are with the network; few are held at a time. `skipped` says of each file that
    cannot be read why, as soon as its turn has come.
    """

    paths: Sequence[Path]
    preprocess: Preprocess
    batch_size: int
    workers: int
    device: torch.device
    dtype: torch.dtype
    skipped: list[str] = field(default_factory=list, init=False)
    _held: dict[int, tuple[MemoryCache, int]] = field(default_factory=dict, init=False)

    def __iter__(self) -> Iterator[Batch]:
        readable, size = self._readable(), self.batch_size
        while images := list(islice(readable, size * -(-AHEAD // size))):
            cache = MemoryCache(images)
            self._held.update({number: (cache, i) for i, number in enumerate(cache.image_ids.tolist())})
            yield from self.preprocess.loader(cache, size, self.workers, self.device, self.dtype)

    def take(self, number: int) -> Tensor:
        """The upright image of a file, (3, H, W) uint8, once its batch has come; it can be taken once."""
        cache, position = self._held.pop(number)
        return cache[position][0]

    def _readable(self) -> Iterator[tuple[bytes, Any]]:
        for outcome in read_images(self.paths, workers=max(self.workers, 1)):
            if outcome.record is not None:
                yield outcome.record, outcome.entry
            else:
                self.skipped += [f"{problem.file} was skipped: {problem.reason}" for problem in outcome.problems]
