"""Where the time goes: a slow disk, a slow consumer, busy cores and slow Python are each told apart, and named."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings

import pytest

from benchmarks.slow_disk import SlowCache
from fastload import FastLoader, ShortestEdge
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.errors import StateError
from fastload.loader import stats
from fastload.loader.stats import ADVICE, Stats
from fastload.sources.detect import find_datasets
from tests.support.loaders import ids, loader
from tests.support.memory_cache import MemoryCache

COUNTS = {"images": 320, "batches": 20, "threads": 2}
OWN = {"seconds": 40.0, "training": 10.0, "waiting": 28.0, "planning": 2.0}


def epoch(**changes: float) -> Stats:
    threads = {"threads_waiting": 1.0, "threads_working": 60.0, "disk": 5.0, "starved": 5.0}
    return Stats(**{**COUNTS, **OWN, **threads, **changes})


@pytest.mark.parametrize(
    ("changes", "bottleneck", "says"),
    [
        ({"training": 39.0, "waiting": 1.0, "planning": 0.0}, "training", "the loader keeps up"),
        ({}, "decoding", "all threads are busy"),
        ({"threads": 0, "threads_waiting": 0.0}, "workers", "set num_workers"),
        ({"disk": 70.0}, "disk", "a faster disk"),
        ({"starved": 70.0}, "cores", "get no core"),
        ({"threads_waiting": 70.0}, "prefetch", "prefetch_factor"),
        ({"planning": 29.0, "waiting": 1.0}, "planning", "by fastload Transforms"),
    ],
)
def test_the_bottleneck_is_named(changes, bottleneck, says):
    """Each way to spend an epoch has its name and its remedy."""
    found = epoch(**changes)
    assert found.bottleneck == bottleneck and says in found.advice()
    assert found.images_per_second == 8
    assert bottleneck == "training" or ADVICE[bottleneck] in found.advice()


@pytest.fixture
def always_warn(monkeypatch):
    """Epochs of any length are long enough for a warning."""
    monkeypatch.setattr(stats, "LONG_ENOUGH", 0.0)


@pytest.fixture
def slow_disk(coco_small, tmp_path):
    """A cache read at 0.4 MB/s."""
    path = tmp_path / "slow.lmdb"
    build_cache(find_datasets(coco_small)[0].load(), path, BuildOptions())
    try:
        cache = SlowCache(path, 0.4e6)
    except OSError as error:
        pytest.skip(str(error))
    yield cache
    cache.close()


def train(data: FastLoader, seconds: float) -> int:
    """The images of an epoch, with this long a training step."""
    images = 0
    for batch in data:
        time.sleep(seconds)
        images += len(batch.images)
    return images


@pytest.mark.parametrize("workers", [0, 2])
def test_a_slow_disk_is_named(slow_disk, always_warn, workers):
    """Threads that sleep for pages of the cache are seen to, epoch by epoch, and the warning comes once."""
    data = FastLoader(slow_disk, 2, num_workers=workers)
    with pytest.warns(UserWarning, match="The bottleneck is") as caught:
        for _ in range(2):
            slow_disk.evict()
            assert train(data, 0.002) == 12
            found = data.stats()
            assert found.bottleneck == "disk" and found.disk > 2 * found.threads_working, found
    assert len(caught) == 1 and "The bottleneck is the disk" in str(caught[0].message)
    slow = found.disk
    assert train(data, 0) == 12
    assert data.stats().disk < 0.2 * slow


def test_leaving_a_slow_disk_in_mid_epoch_is_orderly(slow_disk):
    """Loaders dropped while threads wait for pages end their threads, and use no more canvases than they may."""
    before = threading.active_count()
    for step in range(4):
        slow_disk.evict()
        data = FastLoader(slow_disk, 1, num_workers=3, prefetch_factor=2)
        batches = iter(data)
        for _ in range(step):
            next(batches)
        del batches, data
    assert threading.active_count() == before


def test_a_slow_consumer_is_named_and_batches_do_not_pile_up():
    """While training takes its time, threads wait; no more batches are made ahead than the depth says."""
    data = loader(MemoryCache(64), 4, num_workers=2, prefetch_factor=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(data, 0.03) == 64
    found = data.stats()
    assert found.training > found.waiting and found.threads_waiting > found.threads_working, found
    assert found.batches == 16 and found.images == 64
    assert found.seconds == pytest.approx(found.training + found.waiting + found.planning)
    assert len({images.data_ptr() for images, _ in data}) <= 3 + 1


SPIN = "import time\nend = time.time() + 60\nwhile time.time() < end: pass"


def test_starved_threads_are_told_from_busy_ones(always_warn):
    """With every core taken by others, the epoch still ends, and the time without a core is told from that with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    data = loader(MemoryCache(96), 8, num_workers=2, transforms=[ShortestEdge(600)])
    spinners = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(4 * cores)]
    try:
        time.sleep(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert train(data, 0) == 96
        found = data.stats()
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
    assert found.starved > found.threads_working and found.starved > found.disk, found
    assert found.bottleneck == "cores"


def test_slow_functions_are_named(always_warn):
    """A plain function that takes long is Python's time, not the threads'."""

    def slow(image, target):
        time.sleep(0.004)
        return image, target

    data = loader(num_workers=2, transforms=[slow], collate_fn=len)
    with pytest.warns(UserWarning, match="plain functions in transforms"):
        for _ in data:
            time.sleep(0.002)
    assert data.stats().bottleneck == "planning"


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({}, True),
        ({"seconds": 9.0, "training": 2.0, "waiting": 6.0, "planning": 1.0}, False),
        ({"training": 1.0, "waiting": 37.0}, False),
        ({"training": 31.0, "waiting": 7.0}, False),
    ],
    ids=["waits", "too short to tell", "a loop that only reads", "waits little"],
)
def test_a_warning_comes_when_it_is_worth_it(changes, warned):
    """Training that waits a quarter of an epoch of ten seconds is told; a benchmark's empty loop is not."""
    assert (epoch(**changes).warning() is not None) == warned


def test_there_are_no_stats_before_the_first_epoch_or_without_a_cache():
    """Asked too early, or of a dataset that DataLoader loads, it is an error that says so."""
    for data in (loader(), FastLoader([1, 2])):
        with pytest.raises(StateError, match="no stats"):
            data.stats()


def test_stats_survive_a_fork():
    """A child process measures its own iterations."""
    data = loader(num_workers=2)
    running = iter(data)
    next(running)
    child = os.fork()
    if child == 0:
        ids(data)
        os._exit(0 if data.stats().images == 37 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert data.stats().images == 4
