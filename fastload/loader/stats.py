"""Where the time of an epoch is spent, what the bottleneck is, and what to do about it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

WORTH_A_WARNING = 0.25  # of the epoch spent waiting for data
LONG_ENOUGH = 10.0  # seconds: shorter epochs say little, and matter little
TRAINS = 0.05  # of the epoch spent between batches; a loop with less only reads, and trains nothing

ThreadTimes = tuple[float, float, float, float]


@dataclass(frozen=True)
class Stats:
    """Times and counts of an epoch so far. Times are in seconds.

    `training`, `waiting` and `planning` are times of the calling thread and add up to `seconds`. The times `threads_*`,
    `disk` and `starved` are sums over the native threads; they are 0 for engines without native threads.
    """

    images: int
    batches: int
    threads: int  # native threads
    seconds: float  # from the start of the epoch to the last batch
    training: float  # between batches, in the user's code
    waiting: float  # for pixels; with `num_workers=0`, making them
    planning: float  # planning batches, and running functions of `transforms` and `collate_fn`
    threads_waiting: float  # waiting for a batch to decode
    threads_working: float  # running on a core
    disk: float  # blocked while a page of the cache was read
    starved: float  # ready to run, while other processes had the core

    @property
    def images_per_second(self) -> float:
        """Images handed out per second."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """The share of the time in which training waits for data, 0 to 1."""
        return (self.waiting + self.planning) / self.seconds if self.seconds else 0.0

    @property
    def bottleneck(self) -> str:
        """What to speed up first: "training", or a part of the loader (a key of `ADVICE`)."""
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
        """The bottleneck, and how to remove it."""
        if self.bottleneck == "training":
            return f"Training waits for data {self.waiting_share:.0%} of the time: the loader keeps up."
        return (
            f"Training waits for data {self.waiting_share:.0%} of the time, at {self.images_per_second:.0f} images/s. "
            f"{ADVICE[self.bottleneck]}"
        )

    def warning(self) -> str | None:
        """`advice()`, if the epoch was long enough to judge and training waited for much of it."""
        is_training = self.seconds >= LONG_ENOUGH and self.training >= TRAINS * self.seconds
        return self.advice() if is_training and self.waiting_share >= WORTH_A_WARNING else None


ADVICE = {
    "disk": "The bottleneck is the disk: threads spend most of their time reading the cache. Put it on a faster "
    "disk, make it smaller (`fastload plan` shows how much), or add memory to keep it in.",
    "cores": "The bottleneck is the processor: threads are ready to run but get no core. Stop other programs, or lower "
    "num_workers to the number of cores.",
    "decoding": "The bottleneck is decoding: all threads are busy. Raise num_workers if there are more cores, "
    "or convert the cache to a faster encoding (`fastload plan` compares them).",
    "workers": "The bottleneck is decoding in the calling thread: set num_workers to the number of cores.",
    "prefetch": "The bottleneck is prefetching: threads wait for batches to decode. Raise prefetch_factor.",
    "planning": "The bottleneck is Python in the calling thread: plain functions in transforms, a collate_fn, or very "
    "small batches. Replace the functions by fastload Transforms, which plan instead of touching pixels.",
}


class Meter:
    """Measures one iteration, starting when it is made. Times are those of `time.perf_counter`.

    Args:
        threads: the number of native threads.
        engine_times: returns the times of the threads since they started; None if the engine does not report them.
    """

    def __init__(self, threads: int, engine_times: Callable[[], ThreadTimes] | None) -> None:
        self._process = os.getpid()
        self._threads = threads
        self._engine_times = engine_times
        self._before = self._read()
        self._began = self._last = time.perf_counter()
        self._planning = self._waiting = 0.0
        self._batches = self._images = 0

    def planned(self, since: float) -> None:
        """Planning, or the user's Python functions, took from `since` until now."""
        self._last = time.perf_counter()
        self._planning += self._last - since

    def waited(self, since: float) -> float:
        """Waiting for pixels took from `since` until now. Returns now."""
        self._last = time.perf_counter()
        self._waiting += self._last - since
        return self._last

    def handed_out(self, images: int) -> None:
        """A batch of `images` images was handed out."""
        self._batches += 1
        self._images += images

    def stats(self) -> Stats:
        """The measurements up to the last batch."""
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
        if self._engine_times is None or self._process != os.getpid():  # a forked child has no threads
            return 0.0, 0.0, 0.0, 0.0
        return self._engine_times()
