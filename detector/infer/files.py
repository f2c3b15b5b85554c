"""Reads image files into batches."""

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

AHEAD = 16  # the least number of images read together


@dataclass(eq=False)
class ImageFiles:
    """Batches of image files, in order, for a `PredictStream`; `image_id` is a file's position in `paths`.

    Files are read while the network works on earlier ones; few are held in memory at a time. `skipped` lists the files
    that could not be read so far, with the reasons.
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
        """The upright image (3, H, W) uint8 of a file whose batch has come. It can be taken only once."""
        cache, position = self._held.pop(number)
        return cache[position][0]

    def _readable(self) -> Iterator[tuple[bytes, Any]]:
        for outcome in read_images(self.paths, workers=max(self.workers, 1)):
            if outcome.record is not None:
                yield outcome.record, outcome.entry
            else:
                self.skipped += [f"{problem.file} was skipped: {problem.reason}" for problem in outcome.problems]
