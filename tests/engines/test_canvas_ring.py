"""The native engine's canvases: memory comes back when, and only when, nobody sees it, and there is only so much."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from fastload import _core
from fastload.engines.native import NativeEngine, aligned_memory
from fastload.plan.batch_plan import BatchPlan
from tests.engines.test_engines import noise, place_top_left, whole
from tests.support.engines import submit
from tests.support.native_programs import POOL, RACES, build_program
from tests.support.records import cache_of, jpeg, record

CACHE = cache_of([record(jpeg(noise(24, 32, i))) for i in range(3)])


class Memory:
    """Counts the canvases made, and those that are still there."""

    def __init__(self) -> None:
        self.made: list[weakref.ref] = []

    def __call__(self, size: int) -> np.ndarray:
        memory = aligned_memory(size)
        self.made.append(weakref.ref(memory))
        return memory

    @property
    def there(self) -> int:
        return sum(one() is not None for one in self.made)


def engine(in_flight: int = 2, threads: int = 2) -> tuple[NativeEngine, Memory]:
    memory = Memory()
    return NativeEngine(CACHE, threads, in_flight=in_flight, allocate=memory), memory


def plan_of(slots: int = 1, width: int = 32, fill: int = 0) -> BatchPlan:
    plan = BatchPlan.of(np.arange(slots) % 3, np.full((slots, 2), (32, 24), np.int32))
    plan.place((width, 24), np.zeros((slots, 2), np.int32), np.full(3, fill, np.uint8))
    return plan


def images(engine: NativeEngine, plan: BatchPlan | None = None) -> Tensor:
    ticket = submit(engine, plan or plan_of())
    assert engine.wait(ticket, 0) == {}
    found = engine.images(ticket, 0)
    assert found is not None
    return found


def test_memory_is_used_again_once_nobody_sees_it():
    """A dropped batch's memory is the next one's."""
    native, memory = engine()
    first = images(native).data_ptr()
    assert images(native).data_ptr() == first and len(memory.made) == 1


@pytest.mark.parametrize(
    "look",
    [
        lambda t: t[:, :, 2:4].unbind(1)[0],
        lambda t: t.numpy()[:, 1:],
        lambda t: torch.from_numpy(t.permute(0, 2, 3, 1).numpy()[0])[:, 1],
    ],
    ids=["tensor", "array", "tensor on an array"],
)
def test_views_keep_the_memory(look):
    """Any view, of any view, in torch or NumPy holds the memory; it comes back with the last."""
    native, _ = engine()
    batch = images(native)
    held, part = batch.data_ptr(), look(batch)
    was = part.copy() if isinstance(part, np.ndarray) else part.clone()
    del batch
    for width in (40, 33, 50, 64):
        assert images(native, plan_of(width=width)).data_ptr() != held
    assert (part == was).all()
    del part
    kept = [images(native) for _ in range(2)]
    assert held in {batch.data_ptr() for batch in kept}


def test_batches_in_use_never_share_memory():
    """Whatever is kept and let go, batches of any size that are there at a time do not overlap, and are aligned."""
    native, rng = engine(in_flight=3)[0], np.random.default_rng(0)
    kept: list[Tensor] = []
    for _ in range(300):
        kept.append(images(native, plan_of(int(rng.integers(1, 4)), int(rng.integers(32, 90)))))
        if len(kept) > 4:
            del kept[int(rng.integers(len(kept)))]
        spans = sorted((batch.data_ptr(), batch.numel()) for batch in kept)
        assert all(a + size <= b for (a, size), (b, _) in pairwise(spans))
        assert kept[-1].data_ptr() % 64 == 0


def test_no_more_batches_are_made_ahead_than_may_be_in_flight():
    """However many are submitted, those nobody has asked for yet have memory for `in_flight` at most."""
    native, memory = engine(in_flight=3)
    ticket = native.submit(plan_of(40), list(range(1, 41)))
    end = time.monotonic() + 10
    while not native.done(ticket, 1) and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(0.05)
    assert sum(native.done(ticket, k) for k in range(40)) == memory.there <= 3
    for k in range(40):
        assert native.wait(ticket, k) == {} and native.images(ticket, k) is not None
    assert memory.there <= 3 + 1


def test_memory_that_a_user_let_go_is_freed():
    """Someone who keeps all batches gets memory for all of them; once they are dropped, only what is used stays."""
    native, memory = engine(in_flight=3)
    ticket = native.submit(plan_of(20), list(range(1, 21)))
    kept = []
    for k in range(20):
        assert native.wait(ticket, k) == {}
        kept.append(native.images(ticket, k))
    assert len({batch.data_ptr() for batch in kept}) == 20
    del kept
    for _ in range(3):
        images(native)
    assert memory.there <= 3 + 2


def test_memory_of_an_iteration_serves_the_next():
    """An epoch makes no memory where one before it has left some, also when its last batch is still looked at."""
    native, memory = engine(in_flight=3)

    def epoch(native: NativeEngine) -> Tensor:
        iteration = native.share()
        ticket = iteration.submit(plan_of(8), list(range(1, 9)))
        for k in range(8):
            assert iteration.wait(ticket, k) == {}
            batch = iteration.images(ticket, k)
        return batch

    last = epoch(native)
    made = len(memory.made)
    for _ in range(5):
        last = epoch(native)
    assert len(memory.made) <= made + 1 and last is not None
    native.close()
    del native, last
    assert memory.there == 0


def test_a_batch_that_is_waited_for_gets_memory_though_others_have_it_all():
    """Two sequences of batches over one engine do not block each other, whichever is waited for."""
    native, _ = engine(in_flight=2)
    first = native.submit(plan_of(8), list(range(1, 9)))
    second = native.submit(plan_of(8), list(range(1, 9)))
    each = [(ticket, k) for ticket in (second, first) for k in range(8)]
    kept = [(native.wait(ticket, k), native.images(ticket, k)) for ticket, k in each]
    assert all(failures == {} for failures, _ in kept) and len({batch.data_ptr() for _, batch in kept}) == 16


def test_memory_may_be_dropped_in_any_thread():
    """Batches made, looked at and dropped by several threads at once stay whole, and memory goes round."""
    native, memory = engine(in_flight=4)

    def work(fill: int) -> None:
        for _ in range(100):
            batch = images(native, plan_of(width=40, fill=fill))
            assert (batch[..., 32:] == fill).all()

    workers = [threading.Thread(target=work, args=(fill,)) for fill in range(1, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(memory.made) < 40 and memory.there <= 4 + 2 + 4


def test_batches_outlive_their_engine():
    """A batch stays as it is when its engine is closed, and its memory is freed when it goes."""
    native, memory = engine()
    batch = images(native)
    was = batch.clone()
    native.close()
    del native
    assert torch.equal(batch, was) and memory.there >= 1
    del batch
    assert memory.there == 0


def test_a_forked_child_may_drop_the_parents_batches():
    """In a child, dropping a batch and the engine it came from ends at once; the parent's memory still goes round."""
    native, _ = engine()
    batch = images(native)
    child = os.fork()
    if child == 0:
        del batch, native
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    first = batch.data_ptr()
    del batch
    assert images(native).data_ptr() == first


def test_no_memory_is_an_error_in_its_turn():
    """When memory for a batch cannot be had, that is said, and the engine goes on when there is some again."""
    native, _ = engine()
    images(native)

    def none(size: int) -> np.ndarray:
        raise MemoryError("none left")

    poor = NativeEngine(CACHE, 1, allocate=none)
    with pytest.raises(MemoryError, match="none left"):
        submit(poor, plan_of())
    assert images(native).shape == (1, 3, 24, 32)


def test_a_canvas_is_never_written_after_its_batch_was_given_up():
    """Memory of batches dropped half-way is used by others, which stay whole."""
    native, _ = engine(in_flight=2, threads=2)
    large = place_top_left(whole([(32, 24)] * 3))
    for fill in range(60):
        ticket = native.submit(large, [1, 2, 3])
        del ticket
        batch = images(native, plan_of(width=40, fill=fill))
        time.sleep(0.0005)
        assert (batch[..., 32:] == fill).all()


@pytest.mark.long
def test_threads_do_not_race_for_memory(tmp_path):
    """Under the thread sanitizer: batches made, kept, dropped and given up by several threads; no report, none lost."""
    program = build_program("canvases", tmp_path, POOL, RACES)
    settings = {"FASTLOAD_TURBOJPEG": _core.turbojpeg_path()}
    done = subprocess.run([program], capture_output=True, text=True, env={**os.environ, **settings}, timeout=120)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr[-5000:]
