"""FastLoader's threads, memory and processes."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from fastload import ShortestEdge, Transform
from tests.support.loaders import RANDOM, assert_equal, copies, ids, loader
from tests.support.memory_cache import MemoryCache


def test_a_kept_batch_never_changes():
    """Tensors and views of a batch stay as they are while iteration goes on, and their memory returns when they go."""
    data = loader(MemoryCache(64), shuffle=True, num_workers=2, transforms=RANDOM)
    kept, was = [], []
    for epoch in range(3):
        for step, (images, _) in enumerate(data):
            if step % 3 == epoch:
                part = images[1:2, :, 3:20].permute(0, 2, 3, 1)
                kept.append(part)
                was.append(part.clone())
    assert all(torch.equal(now, before) for now, before in zip(kept, was, strict=True))
    pointers = {images.untyped_storage().data_ptr() for images, _ in data}
    assert len(pointers) <= 8  # memory goes round instead of being new for each of 16 batches


def threads() -> int:
    return psutil.Process().num_threads()


@pytest.mark.parametrize("leave", ["exhaust", "break", "exception", "cycle", "iterator outlives"])
def test_no_thread_is_left_behind(leave):
    """However an iteration ends, dropping the loader ends its threads, also when it is part of a cycle."""
    list(loader(num_workers=1))  # whatever torch and the allocator start once
    gc.collect()
    before = threads()
    data = loader(shuffle=True, num_workers=3, prefetch_factor=4)
    batches = iter(data)
    next(batches)
    assert threads() == before + 3
    if leave == "exhaust":
        list(batches)
    elif leave == "exception":
        with pytest.raises(RuntimeError):
            for _ in batches:
                raise RuntimeError
    elif leave == "cycle":
        data.myself, data.batches = data, batches
    elif leave == "iterator outlives":
        del data
        assert len(list(batches)) == 9
        data = None
    del data, batches
    gc.collect()
    for _ in range(100):
        if threads() == before:
            break
        time.sleep(0.02)
    assert threads() == before


@pytest.mark.parametrize("dtype, edge", [(torch.uint8, 300), (torch.float32, 150)])  # alike in bytes
def test_memory_is_flat(dtype, edge):
    """Epochs cut short and loaders dropped do not pile up memory, of any type of images."""
    cache, process = MemoryCache(64), psutil.Process()

    def epoch(steps: int) -> None:
        data = loader(cache, 8, shuffle=True, num_workers=2, transforms=[ShortestEdge(edge)], dtype=dtype)
        for step, _ in enumerate(data):
            if step == steps:
                break

    for _ in range(5):
        epoch(8)
    before = process.memory_info().rss
    for k in range(40):
        epoch(k % 8)
    assert process.memory_info().rss - before < 48 << 20


def test_ctrl_c_gets_through_and_the_loader_survives():
    """An interrupt while waiting for a batch is a KeyboardInterrupt; afterwards iteration goes on where it was."""
    data = loader(MemoryCache(16), 16, num_workers=1, prefetch_factor=1, transforms=[ShortestEdge(500)])
    expected = ids(data)
    batches = iter(data)
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        next(batches)
        time.sleep(5)
    timer.join()
    assert ids(batches) in (expected, [])  # interrupted while waiting, or just after the only batch came
    assert ids(data) == expected


@pytest.mark.parametrize("behind", [0, 1])
def test_ctrl_c_leaves_a_batch_in_its_place(sleeping_loader, behind):
    """However often waiting is interrupted, for a first or a later batch, all batches come in order and are counted."""
    expected, batches = ids(sleeping_loader), iter(sleeping_loader)
    found = [ids([next(batches)])[0] for _ in range(behind)]
    for _ in range(2):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            next(batches)
        timer.join()
        assert sleeping_loader.state_dict()["step"] == behind
    assert [*found, *ids(batches)] == expected
    assert sleeping_loader.stats().batches == 3 and sleeping_loader.stats().images == 12


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_while_batches_are_planned_loses_none(workers):
    """An interrupt in a transform, in a run of many batches or not, is as if the batches had not been asked for."""

    class Interrupted(Transform):
        calls = 0

        def __call__(self, plan, rng, images):
            self.calls += 1
            if self.calls in (1, 5):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)

    data, found = loader(shuffle=True, num_workers=workers, transforms=[Interrupted()]), []
    batches = iter(data)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            found += ids([next(batches)])
    assert found + ids(batches) == ids(loader(shuffle=True))


EXIT = """
import sys, threading, time
from benchmarks.engines import SLEEPING, SleepingEngine
from fastload.engines.auto import ENGINES
from tests.support.loaders import loader

ENGINES.update(SLEEPING)
SleepingEngine.microseconds = 100_000
data = loader(num_workers=int(sys.argv[1]), engine="sleeping")
kept = [iter(data) for _ in range(3)]
threads = [threading.Thread(target=next, args=(batches,), daemon=True) for batches in kept[:2]]
for thread in threads:
    thread.start()
sys.stays = data, kept
time.sleep(0.1)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_program_may_end_while_threads_wait_for_batches(workers):
    """Daemon threads that wait, and iterators that live on, are no reason to abort or to complain at exit."""
    command = [sys.executable, "-c", EXIT, str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_forked_child_opens_its_own_engine():
    """A loader used before fork works in the child, and the parent's is unharmed."""
    data = loader(num_workers=2)
    expected, running = ids(data), iter(data)
    next(running)
    child = os.fork()
    if child == 0:
        os._exit(0 if ids(data) == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ids(running) == expected[1:] and ids(data) == expected


def test_a_loader_pickles():
    """A used loader can be sent to another process, where it gives the same batches."""
    data = loader(shuffle=True, num_workers=2, transforms=RANDOM)
    next(iter(data))
    again = pickle.loads(pickle.dumps(data))
    assert_equal(copies(data), copies(again))
