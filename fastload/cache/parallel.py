"""Work done by several threads, its results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 4  # items under way for each worker


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int | None) -> Iterator[Result]:
    """`function` of each of `items`, in their order; `workers` threads, None for one a core. Few are ever under way."""
    workers = workers or os.cpu_count() or 1
    under_way: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, "fastload") as pool:
        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                if len(under_way) >= AHEAD * workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
