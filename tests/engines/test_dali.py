"""The DALI engine where it is not as others are: what it needs, what it refuses, and batches that fail as a whole."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from fastload import Cache, EngineError, FastLoader
from fastload.cache.format.layout import Encoding, Subsampling
from fastload.cache.format.record import pack_record
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
from fastload.engines.dali import engine as dali
from fastload.engines.dali import pipeline as dali_pipeline
from fastload.engines.dali.engine import DaliEngine
from tests.engines.test_engines import FILL, busy_plan, noise, place_top_left, smooth, whole
from tests.support.engines import execute, finish, needs_dali, submit
from tests.support.loaders import loader
from tests.support.memory_cache import MemoryCache
from tests.support.records import cache_of, jpeg, record

pytestmark = needs_dali


def pictures(count: int, broken: int | None = None) -> SimpleNamespace:
    """A cache of pictures, of which one may be no JPEG after its first third, though its checksum is right."""
    data = [jpeg(smooth(60, 80, i)) for i in range(count)]
    records = [record(d) for d in data]
    if broken is not None:
        cut = data[broken][: len(data[broken]) // 3]
        records[broken] = pack_record(cut, Encoding.ORIGINAL, Subsampling.S444, (80, 60))
    return cache_of(records)


def test_a_corrupt_image_in_mid_batch_is_named_and_the_others_come():
    """Of a batch that DALI refuses as a whole, only the bad row fails; batches around it are untouched."""
    plan = place_top_left(whole([(80, 60)] * 5))
    expected = execute(DaliEngine(pictures(5), 2), plan)
    engine = DaliEngine(pictures(5, broken=3), 2)
    good = place_top_left(whole([(80, 60)] * 3))
    tickets = [submit(engine, p) for p in (good, plan, good, plan, good)]
    outs, failures = zip(*[finish(engine, ticket) for ticket in tickets], strict=True)
    assert [list(found) for found in failures] == [[], [3], [], [3], []] and failures[1][3]
    expected[3] = FILL
    assert all((out == expected[: len(out)]).all() for out in outs)


def test_a_mosaic_with_a_corrupt_image_is_blank():
    """A slot that shows a bad row shows nothing else, and the other slots are drawn."""
    records, plan = busy_plan()
    records[1] = pack_record(records[1][32:300], Encoding.ORIGINAL, Subsampling.S444, (55, 70))
    engine = DaliEngine(cache_of(records), 2)
    out, failures = finish(engine, submit(engine, plan))
    assert list(failures) == [1]
    assert (out[:2] == FILL).all() and not (out[2] == FILL).all()


def test_an_image_that_only_dali_refuses_is_found_by_trying_each(monkeypatch):
    """Where the core sees nothing wrong, rows are tried one at a time, and DALI's reason is the row's."""
    monkeypatch.setattr(dali._core, "decode_record", lambda record: None)
    engine, plan = DaliEngine(pictures(4, broken=1), 2), place_top_left(whole([(80, 60)] * 4))
    failures = engine.wait(submit(engine, plan), 0)
    assert list(failures) == [1] and "decode" in failures[1].lower()


@pytest.mark.parametrize("error", [MemoryError("x"), RuntimeError("CUDA allocation failed: out of memory")])
def test_running_out_of_memory_is_said_and_the_engine_goes_on(monkeypatch, error):
    """A batch for which memory lacks is an EngineError in its turn; those after it come."""
    engine, plan = DaliEngine(pictures(4), 2), place_top_left(whole([(80, 60)] * 4))
    expected = execute(engine, plan)
    tickets = [submit(engine, plan) for _ in range(6)]
    pipeline = engine._pipeline._pipeline
    monkeypatch.setattr(pipeline, "share_outputs", lambda stream: (_ for _ in ()).throw(error))
    with pytest.raises(EngineError, match=r"out of memory.*prefetch_factor"):
        engine.wait(tickets[0], 0)
    for ticket in tickets[1:]:
        out, failures = finish(engine, ticket)
        assert failures == {} and (out == expected).all()


def test_the_loader_goes_on_after_an_engine_error(monkeypatch):
    """The error comes once, in the place of its batch; the next batch and the next epoch come."""
    data = loader(MemoryCache(12), engine="dali", num_workers=2)
    batches = iter(data)
    next(batches)
    pipeline = data._engine[1]._pipeline._pipeline
    monkeypatch.setattr(pipeline, "share_outputs", lambda stream: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(EngineError):
        next(batches)
    assert len(list(batches)) == 1 and len(list(data)) == 3


def test_a_failure_of_no_image_is_an_engine_error(monkeypatch):
    """When DALI fails on a batch and on none of its images, no image is blamed, and the engine goes on."""
    engine, plan = DaliEngine(pictures(4), 2), place_top_left(whole([(80, 60)] * 4))
    ticket = submit(engine, plan)
    pipeline = engine._pipeline._pipeline
    monkeypatch.setattr(pipeline, "share_outputs", lambda stream: (_ for _ in ()).throw(RuntimeError("odd")))
    with pytest.raises(EngineError, match="none of its images alone: odd"):
        engine.wait(ticket, 0)
    assert engine.wait(submit(engine, plan), 0) == {}


def test_without_dali_the_command_that_installs_it_is_said(monkeypatch):
    """`engine="dali"` where there is none names the package."""
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.setitem(sys.modules, "nvidia.dali.fn", None)
    monkeypatch.setattr(dali_pipeline, "dali_version", lambda: None)
    with pytest.raises(EngineError, match="pip install nvidia-dali-cuda120"):
        next(iter(loader(engine="dali")))


def test_a_dali_that_does_not_load_is_named(monkeypatch):
    """A broken installation is told from a missing one."""
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.setitem(sys.modules, "nvidia.dali.fn", None)
    with pytest.raises(EngineError, match=r"nvidia-dali-cuda\d+ .* does not load"):
        DaliEngine(pictures(1), 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_without_a_driver_the_gpu_is_refused():
    """A GPU pipeline on a machine without a driver says what is missing."""
    engine = DaliEngine(pictures(1), 1, device_id=0)
    with pytest.raises(EngineError, match=r"cannot run on GPU 0: .*driver for the CUDA"):
        submit(engine, place_top_left(whole([(80, 60)])))


def test_a_dali_for_another_cuda_is_refused(monkeypatch):
    """What CUDA says of a driver that is too old is passed on, with the package and what to do."""

    def build(*_):
        raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")

    monkeypatch.setattr(dali_pipeline, "_build", build)
    with pytest.raises(EngineError, match=r"nvidia-dali-cuda\d+ .*insufficient.*install the DALI that fits"):
        submit(DaliEngine(pictures(1), 1, device_id=0), place_top_left(whole([(80, 60)])))


@pytest.mark.parametrize("encoding", [Encoding.DCT, Encoding.DCT_FAST])
def test_other_encodings_are_refused_with_the_command_that_converts(small_cache, tmp_path, encoding):
    """A cache DALI cannot decode is refused; the command it is told converts it into one that loads."""
    transcode_cache(small_cache, tmp_path / "packed.lmdb", ReencodeOptions(encoding))
    with pytest.raises(EngineError) as caught:
        next(iter(FastLoader(tmp_path / "packed.lmdb", engine="dali")))
    command = f"fastload convert-cache {tmp_path}/packed.lmdb {tmp_path}/packed-original.lmdb --encoding original"
    assert encoding.label in str(caught.value) and command in str(caught.value)
    transcode_cache(tmp_path / "packed.lmdb", tmp_path / "packed-original.lmdb", ReencodeOptions(Encoding.ORIGINAL))
    assert len(list(FastLoader(tmp_path / "packed-original.lmdb", 4, engine="dali"))) == 3


def test_planes_are_refused_with_the_command_that_builds(small_cache, tmp_path):
    """Decoded planes do not become JPEGs again: the cache is to be built from the dataset."""
    transcode_cache(small_cache, tmp_path / "planes.lmdb", ReencodeOptions(Encoding.PLANES))
    with pytest.raises(EngineError, match="build-cache DATASET --encoding original"):
        DaliEngine(Cache(tmp_path / "planes.lmdb"), 1)


def test_canvases_are_dalis_own_memory():
    """The batch is handed to torch without a copy, and stays as it is while the engine goes on."""
    engine, plan = DaliEngine(pictures(4), 2), place_top_left(whole([(80, 60)] * 4))
    expected = execute(engine, plan)
    ticket = submit(engine, plan)
    while ticket[0].tiles is None:
        engine._collect()
    where = np.asarray(ticket[0].tiles[0]).ctypes.data
    out, failures = finish(engine, ticket)
    assert failures == {} and out.ctypes.data == where
    for _ in range(10):
        execute(engine, place_top_left(whole([(80, 60)])))
    engine.close()
    assert (out == expected).all()


def test_plans_that_need_different_pipelines_may_be_mixed():
    """Fill colours, colour changes and numbers of images may differ from plan to plan, all under way at once."""
    cache, plans = pictures(9), []
    for count, fill, gain in ((2, 0, 1), (9, 0, 1), (1, 90, 1), (3, 90, 1.3), (2, 0, 1), (9, 7, 0.5)):
        plan = whole([(80, 60)] * count)
        plan.recolor(np.full((count, 1, 1), gain) * np.eye(3, 4))  # float64, as a transform of one's own may be
        plan.place((96, 64), np.zeros((count, 2), np.int32), np.full(3, fill, np.uint8))
        plans.append(plan)
    alone = [execute(DaliEngine(cache, 1), plan) for plan in plans]
    engine = DaliEngine(cache, 2)
    tickets = [submit(engine, plan) for plan in plans]
    for ticket, expected in zip(tickets, alone, strict=True):
        out, failures = finish(engine, ticket)
        assert failures == {} and (out == expected).all()


def test_an_interrupt_loses_no_batch():
    """Ctrl-C while waiting gets through, and every batch under way still holds its own pixels afterwards."""
    cache = cache_of([record(jpeg(noise(500, 700, i))) for i in range(4)])
    engine = DaliEngine(cache, 1)
    plans = []
    for i in range(4):
        plan = whole([(700, 500)])
        plan.index[:] = i
        plan.resize(np.array([[1500, 1100]], np.int32))
        plans.append(place_top_left(plan))
    expected = [execute(engine, plan) for plan in plans]
    tickets = [submit(engine, plan) for plan in plans]
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        engine.wait(tickets[-1], 0)
        time.sleep(5)
    timer.join()
    for ticket, pixels in zip(tickets, expected, strict=True):
        assert ticket[0].images is not None or engine.wait(ticket, 0) == {}
        assert (engine.images(ticket, 0).permute(0, 2, 3, 1).numpy() == pixels).all()


def test_threads_end_with_the_engine():
    """Closed or dropped with batches under way, an engine leaves no thread behind."""
    plan = place_top_left(whole([(80, 60)] * 4))

    def use(close: bool) -> None:
        engine = DaliEngine(pictures(4), 3)
        tickets = [submit(engine, plan) for _ in range(6)]
        engine.wait(tickets[0], 0)
        if close:
            engine.close()

    use(True)  # what DALI starts once for the process
    process = psutil.Process()
    before = process.num_threads()
    for close in (True, False) * 3:
        use(close)
        gc.collect()
    for _ in range(100):
        if process.num_threads() <= before:
            break
        time.sleep(0.02)
    assert process.num_threads() <= before


def test_a_forked_child_exits_with_the_parents_engine_alive():
    """A child that ends the ordinary way, running what is registered for it, does not wait for the parent's threads."""
    engine = DaliEngine(pictures(2), 2)
    execute(engine, place_top_left(whole([(80, 60)] * 2)))
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        del engine
        atexit._run_exitfuncs()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert engine.wait(submit(engine, place_top_left(whole([(80, 60)] * 2))), 0) == {}
