"""An ordered parallel map over threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
ITEMS_PER_WORKER = 4  # submitted ahead, so that no worker waits for the consumer


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int | None) -> Iterator[Result]:
    """Apply `function` to each of `items` in threads, and yield the results in order.

    Args:
        function: called in a worker thread.
        items: read a few items per worker ahead of the results.
        workers: number of threads. Default: one per core.
    """
    workers = workers or os.cpu_count() or 1
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, "fastload") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= ITEMS_PER_WORKER * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
