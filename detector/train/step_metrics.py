"""Losses and times between two lines of metrics, collected without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from detector import distributed
from detector.errors import TrainingError
from detector.train.trainer import ADVICE

NAMES = ("loss", "classification", "box", "quality")


class StepMetrics:
    """Collects steps since the last line of metrics; `summary` is where the host waits for the device."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._image_ids: list[list[int]] = []
        self._lr = 0.0
        self._data_time = 0.0
        self._start = time.perf_counter()

    def __len__(self) -> int:
        return len(self._losses)

    def take(self, batches: Iterator[Any], count: int) -> list[Any]:
        """The next `count` batches, or what is left; the wait for them is `data_time`."""
        start = time.perf_counter()
        taken = list(islice(batches, count))
        self._data_time += time.perf_counter() - start
        return taken

    def add(self, lr: float, losses: Tensor, batches: list[Any]) -> None:
        """A step's learning rate, its losses (4), still on the device, and what it was made on."""
        self._lr = lr
        self._losses.append(losses)
        self._image_ids.append([int(i) for _, targets in batches for i in targets.image_id])

    def summary(self) -> dict[str, float]:
        """Mean losses over steps and processes, the last learning rate, data_time and step_time in seconds, and
        images a second over all processes.

        Raises TrainingError, on every process, if a loss was not a number.
        """
        history = torch.stack(self._losses)
        mean = distributed.sum_over_ranks(history.mean(0)) / distributed.world_size()
        values = mean.tolist()
        if not all(map(_is_finite, values)):
            raise TrainingError(self._blame(history))
        elapsed = time.perf_counter() - self._start
        images = sum(map(len, self._image_ids)) * distributed.world_size()
        return {
            **dict(zip(NAMES, values, strict=True)),
            "lr": self._lr,
            "data_time": self._data_time / len(self),
            "step_time": elapsed / len(self),
            "images_per_second": images / elapsed,
        }

    def _blame(self, history: Tensor) -> str:
        bad = ~history.isfinite().all(1)
        first = [int(bad.int().argmax())] if bad.any() else []
        ids = distributed.gather([image_id for step in first for image_id in self._image_ids[step]])
        return f"The loss is not a number on the batch of images {', '.join(map(str, ids))}. {ADVICE}"


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")
