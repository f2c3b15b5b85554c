"""The core's part of an iteration: what it does while it waits, and what it counts."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time

import pytest
from torch.utils.dlpack import from_dlpack

from benchmarks.engines import SLEEPING, SleepingEngine
from fastload import Batch, _core
from fastload.loader import ENGINES
from tests.engines import submit
from tests.loaders import ids, loader
from tests.memory_cache import MemoryCache
from tests.test_canvas_ring import engine, plan_of


@pytest.fixture
def slow(monkeypatch):
    """A loader of 12 images, 4 to a batch of 0.4 s; all are ready at once but for their pixels."""
    monkeypatch.setitem(ENGINES, "sleeping", SLEEPING["sleeping"])
    monkeypatch.setattr(SleepingEngine, "microseconds", 100_000)
    return loader(MemoryCache(12), 4, num_workers=1, engine="sleeping")


@pytest.mark.parametrize("behind", [0, 1])
def test_ctrl_c_leaves_a_batch_in_its_place(slow, behind):
    """However often waiting is interrupted, for a first or a later batch, all batches come in order and are counted."""
    expected, batches = ids(slow), iter(slow)
    found = [ids([next(batches)])[0] for _ in range(behind)]
    for _ in range(2):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            next(batches)
        timer.join()
        assert slow.state_dict()["step"] == behind
    assert [*found, *ids(batches)] == expected
    assert slow.stats().batches == 3 and slow.stats().images == 12


def test_two_threads_cannot_wait_at_a_time(slow):
    """While one thread waits for a batch, another that asks gets an error; no batch is lost or comes twice."""
    expected, batches = ids(slow), iter(slow)
    found = ids([next(batches)])
    thread = threading.Thread(target=lambda: found.extend(ids([next(batches)])))
    thread.start()
    time.sleep(0.05)
    with pytest.raises(ValueError, match="another thread is waiting"):
        next(batches)
    thread.join()
    assert [*found, *ids(batches)] == expected


def test_only_the_native_engine_keeps():
    """Batches are refused by an iterator without an engine, or with another, or without targets for each."""
    own, other = engine()[0], engine()[0]
    ticket = submit(own, plan_of())
    for core, targets, why in (
        (None, [()], "only batches of the native engine"),
        (other.core, [()], "of another engine"),
        (own.core, [], "each batch needs targets"),
    ):
        handout = _core.Handout(_core.Tally(), core, 1, from_dlpack, Batch)
        with pytest.raises(ValueError, match=why):
            handout.keep(ticket, "run", targets)
        assert handout.kept == 0
    with pytest.raises(ValueError, match="a batch is a tuple"):
        _core.Handout(_core.Tally(), None, 1, from_dlpack, int)


def test_the_core_has_the_clock_of_python():
    """Seconds are `time.perf_counter`'s, so they can be reckoned with."""
    tally, before = _core.Tally(), time.perf_counter()
    time.sleep(0.01)
    tally.waited(before)
    assert before + 0.01 <= tally.last <= time.perf_counter()
    assert tally.waiting == pytest.approx(tally.last - before)
    assert pickle.loads(pickle.dumps(tally)).waiting == tally.waiting


def test_what_is_done_without_the_gil_is_counted_by_thread():
    """Hashing 64 MB lets go of the GIL: nearly all its CPU time is counted, for the thread that does it alone."""
    data, found = bytes(64 << 20), []

    def measure() -> None:
        before, start = _core.cpu_seconds_without_gil(), time.thread_time()
        _core.xxh64(data)
        found.append((before, _core.cpu_seconds_without_gil() - before, time.thread_time() - start))

    measure()
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    assert found[1][0] == 0
    for _, without, whole in found:
        assert 0.5 * whole < without <= whole
