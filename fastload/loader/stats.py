"""Where the time of an epoch goes: who waits for whom, and what to do about it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

WORTH_A_WARNING = 0.25  # of the epoch spent waiting for data
LONG_ENOUGH = 10.0  # seconds: shorter epochs say little, and matter little
TRAINS = 0.05  # of the epoch spent between batches: with less, nothing is trained and the loop only reads

ThreadTimes = tuple[float, float, float, float]


@dataclass(frozen=True)
class Stats:
    """An epoch so far. Times are in seconds.

    `training`, `waiting` and `planning` are the calling thread's and make up `seconds`: from a batch to the next call;
    waiting for pixels (with `num_workers=0`, making them); planning batches, plain functions in `transforms` and
    `collate_fn`. The others are sums over the native threads; zero for engines that have none.
    """

    images: int
    batches: int
    threads: int
    seconds: float
    training: float
    waiting: float
    planning: float
    threads_waiting: float  # for a batch to work on
    threads_working: float  # on a core
    disk: float  # blocked, while a page of the cache was read
    starved: float  # ready to work, while others had the core

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """How much of the time training stands still for want of data, 0 to 1."""
        return (self.waiting + self.planning) / self.seconds if self.seconds else 0.0

    @property
    def bottleneck(self) -> str:
        """What to speed up first: "training", or else a part of the loader, which is a key of `ADVICE`."""
        if self.waiting_share < 0.1:
            return "training"
        if self.planning > self.waiting:
            return "planning"
        threads = {"prefetch": self.threads_waiting, "disk": self.disk, "cores": self.starved}
        name = max(threads, key=lambda key: threads[key])
        if threads[name] > self.threads_working:
            return name
        return "decoding" if self.threads else "workers"

    def advice(self) -> str:
        """A sentence that names the bottleneck, and one on what to do."""
        if self.bottleneck == "training":
            return f"Training waits for data {self.waiting_share:.0%} of the time: the loader keeps up."
        return (
            f"Training waits for data {self.waiting_share:.0%} of the time, at {self.images_per_second:.0f} images/s. "
            f"{ADVICE[self.bottleneck]}"
        )

    def warning(self) -> str | None:
        """What to tell the user when the epoch ends, if it is worth it."""
        telling = self.seconds >= LONG_ENOUGH and self.training >= TRAINS * self.seconds
        return self.advice() if telling and self.waiting_share >= WORTH_A_WARNING else None


ADVICE = {
    "disk": "The bottleneck is the disk: threads spend most of their time on reading the cache. Put it on a faster "
    "disk, make it smaller (`fastload plan` shows how much), or have more memory for it to stay in.",
    "cores": "The bottleneck is the processor, which others use: threads are ready but get no core. End what else "
    "runs there, or lower num_workers to the cores there are.",
    "decoding": "The bottleneck is decoding: all threads are busy with it. Raise num_workers if there are more cores, "
    "or convert the cache to a faster encoding (`fastload plan` compares them).",
    "workers": "The bottleneck is decoding in the calling thread: set num_workers to the number of cores.",
    "prefetch": "The bottleneck is the depth of prefetching: threads wait for batches to be asked for. Raise "
    "prefetch_factor.",
    "planning": "The bottleneck is Python in the calling thread: plain functions in transforms, a collate_fn, or very "
    "small batches. Write the function as a fastload Transform, which plans instead of touching pixels.",
}


class Meter:
    """Times one iteration, from when it is made. `engine_times` are the threads' since they began, of an engine that
    reports them. Moments are those of `time.perf_counter`."""

    def __init__(self, threads: int, engine_times: Callable[[], ThreadTimes] | None) -> None:
        self._process = os.getpid()
        self._threads = threads
        self._engine_times = engine_times
        self._before = self._read()
        self._began = self._last = time.perf_counter()
        self._planning = self._waiting = 0.0
        self._batches = self._images = 0

    def planned(self, since: float) -> None:
        """Planning, or Python functions of the user's, took from `since` until now."""
        self._last = time.perf_counter()
        self._planning += self._last - since

    def waited(self, since: float) -> float:
        """Waiting for pixels took from `since` until now, which is returned."""
        self._last = time.perf_counter()
        self._waiting += self._last - since
        return self._last

    def handed_out(self, images: int) -> None:
        """A batch of so many images was."""
        self._batches += 1
        self._images += images

    def stats(self) -> Stats:
        """Up to the last batch."""
        waiting, working, disk, starved = (max(b - a, 0) for a, b in zip(self._before, self._read(), strict=True))
        seconds = self._last - self._began
        return Stats(
            images=self._images,
            batches=self._batches,
            threads=self._threads,
            seconds=seconds,
            training=seconds - self._waiting - self._planning,
            waiting=self._waiting,
            planning=self._planning,
            threads_waiting=waiting,
            threads_working=working,
            disk=disk,
            starved=starved,
        )

    def _read(self) -> ThreadTimes:
        if self._engine_times is None or self._process != os.getpid():  # threads stay behind in a fork
            return 0.0, 0.0, 0.0, 0.0
        return self._engine_times()
