"""The engines by name, and `engine="auto"`: the fastest one that can read a cache here."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from fastload.engines.base import Engine
from fastload.engines.dali.engine import DaliEngine, refuse_other_encodings
from fastload.engines.dali.pipeline import import_dali
from fastload.engines.native import NativeEngine
from fastload.errors import EngineError
from fastload.plan.batch_plan import BatchPlan

if TYPE_CHECKING:
    from fastload.cache.read.cache import Cache

ENGINES = {  # module and class, imported on first use
    "native": ("fastload.engines.native", "NativeEngine"),
    "dali": ("fastload.engines.dali.engine", "DaliEngine"),
    "reference": ("fastload.engines.reference", "ReferenceEngine"),
}
BATCH, AHEAD, SECONDS = 16, 4, 1.0
_log = logging.getLogger("fastload")


def choose_engine(cache: Cache, threads: int, device_id: int | None = None) -> str:
    """Choose the fastest engine, and log the reason.

    For batches on the CPU that is always the native engine, which is several times faster there than DALI
    (`benchmarks/loader.py --peers` measures it). For a GPU, both engines decode images of the cache for one second.

    Args:
        cache: the cache to decode from.
        threads: native threads.
        device_id: the GPU that batches are used on; None: the CPU.

    Returns:
        A key of `ENGINES`.
    """
    if device_id is None:
        return _chosen("native", "it is always the fastest for batches in the CPU's memory")
    try:
        import_dali()
        refuse_other_encodings(cache)
        dali = images_per_second(DaliEngine(cache, threads, device_id=device_id), cache)
    except EngineError as error:
        return _chosen("native", str(error))
    native = images_per_second(NativeEngine(cache, threads), cache)
    name = "dali" if dali > native else "native"
    return _chosen(name, f"native decodes {native:,.0f} images/s here and DALI {dali:,.0f}")


def images_per_second(engine: Engine, cache: Cache, seconds: float = SECONDS) -> float:
    """Measure an engine for `seconds` on full-size images from all over the cache."""
    index = np.linspace(0, len(cache) - 1, BATCH).astype(np.int64)
    plan = BatchPlan.of(index, cache.sizes[index])
    plan.place(plan.size.max(0), np.zeros_like(plan.size), np.zeros(3, np.uint8))
    engine.wait(engine.submit(plan, [BATCH]), 0)  # warm up
    tickets = deque(engine.submit(plan, [BATCH]) for _ in range(AHEAD))
    batches, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        engine.wait(tickets.popleft(), 0)
        tickets.append(engine.submit(plan, [BATCH]))
        batches += 1
    tickets.clear()
    engine.close()
    return batches * BATCH / elapsed


def _chosen(name: str, reason: str) -> str:
    _log.info('engine="auto" chooses %s: %s', name, reason)
    return name
