"""Losses and times of training steps, collected without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from detector import distributed
from detector.errors import TrainingError
from detector.train.trainer import ADVICE


class StepMetrics:
    """Collects the metrics of steps until `reset`. Only `summary` makes the host wait for the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all steps; the next one starts now."""
        self._losses: list[dict[str, Tensor]] = []
        self._image_ids: list[list[int]] = []
        self._lr = 0.0
        self._data_time = 0.0
        self._start = time.perf_counter()

    def __len__(self) -> int:
        return len(self._losses)

    def timed(self, loader: Iterable[Any], count: int) -> Iterator[list[Any]]:
        """Yield lists of `count` batches, the last maybe shorter. The wait for them is `data_time`."""
        batches = iter(loader)
        while True:
            start = time.perf_counter()
            step_batches = list(islice(batches, count))
            self._data_time += time.perf_counter() - start
            if not step_batches:
                return
            yield step_batches

    def add(self, lr: float, losses: dict[str, Tensor], batches: list[Any]) -> None:
        """Add a step: its learning rate, its losses by name as scalars on the device, and its batches."""
        self._lr = lr
        self._losses.append(losses)
        self._image_ids.append([int(i) for _, targets in batches for i in targets.image_id])

    def summary(self) -> dict[str, float]:
        """Summarize the steps over all processes. Every process must call this.

        Returns:
            The mean losses, the last `lr`, `data_time` and `step_time` in seconds, and `images_per_second`.

        Raises:
            TrainingError: a loss is not a number. Raised on every process.
        """
        history = torch.stack([torch.stack(list(losses.values())) for losses in self._losses])
        mean = distributed.sum_over_ranks(history.mean(0)) / distributed.world_size()
        values = mean.tolist()
        if not all(map(_is_finite, values)):
            raise TrainingError(self._error(history))
        elapsed = time.perf_counter() - self._start
        images = sum(map(len, self._image_ids)) * distributed.world_size()
        return {
            **dict(zip(self._losses[0], values, strict=True)),
            "lr": self._lr,
            "data_time": self._data_time / len(self),
            "step_time": elapsed / len(self),
            "images_per_second": images / elapsed,
        }

    def _error(self, history: Tensor) -> str:
        """Names the images of the first step with such a loss."""
        bad = ~history.isfinite().all(1)
        first = [int(bad.int().argmax())] if bad.any() else []
        ids = distributed.gather([image_id for step in first for image_id in self._image_ids[step]])
        return f"The loss is not a number on the batch of images {', '.join(map(str, ids))}. {ADVICE}"


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")
