"""FastLoader with each of its engines: the same batches in the same order, resumption included."""

from __future__ import annotations

import logging
from itertools import islice

import numpy as np
import pytest
import torch

from fastload import EngineError
from fastload.engines import auto
from fastload.engines.auto import choose_engine, images_per_second
from tests.support.engines import ENGINES, needs_dali, open_engine
from tests.support.loaders import RANDOM, assert_equal, copies, loader
from tests.support.memory_cache import MemoryCache

SMALL = MemoryCache(22)


def shuffled(engine: str, **arguments):
    return loader(SMALL, engine=engine, shuffle=True, transforms=RANDOM, **arguments)


@pytest.mark.parametrize("engine", ENGINES)
def test_batches_do_not_depend_on_the_engine(engine):
    """Order, canvases, targets and, within a few levels, pixels are those of the native engine, in every epoch."""
    native, data = shuffled("native"), shuffled(engine, num_workers=2)
    for _ in range(2):
        for (images, targets), (others, other_targets) in zip(native, data, strict=True):
            assert targets.image_id.tolist() == other_targets.image_id.tolist()
            assert torch.equal(targets.boxes, other_targets.boxes) and images.shape == others.shape
            assert others.is_contiguous(memory_format=torch.channels_last)
            assert (images.int() - others).abs().float().mean() <= 1.5


@pytest.mark.parametrize("engine", ENGINES)
def test_workers_and_prefetching_do_not_change_a_bit(engine):
    """num_workers and prefetch_factor leave every pixel as it is."""
    expected = copies(shuffled(engine))
    for arguments in ({"num_workers": 1, "prefetch_factor": 1}, {"num_workers": 3, "prefetch_factor": 9}):
        assert_equal(copies(shuffled(engine, **arguments)), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_epoch_is_resumed_bit_for_bit(engine):
    """A new loader that is given the state goes on with the very batch that would have come."""
    data = shuffled(engine, num_workers=2)
    batches = iter(data)
    next(batches), next(batches)
    state, rest = data.state_dict(), copies(batches)
    again = shuffled(engine, generator=torch.Generator().manual_seed(99))
    again.load_state_dict(state)
    assert_equal(copies(again), rest)


@pytest.mark.parametrize("engine", ENGINES)
def test_kept_batches_do_not_change(engine):
    """Batches that are held while others are made stay as they came."""
    kept = [(images, images.clone()) for images, _ in shuffled(engine, num_workers=2)]
    assert len(kept) == 6 and all(torch.equal(images, copy) for images, copy in kept)


def test_auto_takes_the_native_engine_on_the_cpu_and_says_so(caplog):
    """Batches in the CPU's memory are the native engine's; the choice is logged and can be asked for."""
    with caplog.at_level(logging.INFO, "fastload"):
        data = loader(SMALL, engine="auto")
    assert data.engine_used == "native" and 'engine="auto" chooses native' in caplog.text
    assert_equal(copies(islice(data, 2)), copies(islice(loader(SMALL), 2)))
    assert loader(SMALL, engine="reference").engine_used == "reference"


@pytest.mark.parametrize(("dali", "winner"), [(900.0, "dali"), (100.0, "native")])
def test_auto_takes_what_is_measured_faster_for_a_gpu(monkeypatch, caplog, dali, winner):
    """With a GPU both engines are measured, and the log gives both figures."""
    monkeypatch.setattr(auto, "import_dali", lambda: None)
    monkeypatch.setattr(auto, "DaliEngine", lambda cache, threads, device_id: "dali")
    monkeypatch.setattr(auto, "NativeEngine", lambda cache, threads: "native")
    monkeypatch.setattr(auto, "images_per_second", lambda engine, cache: dali if engine == "dali" else 400.0)
    with caplog.at_level(logging.INFO, "fastload"):
        assert choose_engine(SMALL, 2, device_id=0) == winner
    assert "400 images/s" in caplog.text and f"DALI {dali:.0f}" in caplog.text


def test_auto_takes_the_native_engine_where_dali_cannot_run(monkeypatch, caplog):
    """Without DALI, or where it is refused, auto is native, and the reason is in the log."""

    def absent():
        raise EngineError("NVIDIA DALI is not installed")

    monkeypatch.setattr(auto, "import_dali", absent)
    with caplog.at_level(logging.INFO, "fastload"):
        assert choose_engine(SMALL, 2, device_id=0) == "native"
    assert "chooses native: NVIDIA DALI is not installed" in caplog.text


@needs_dali
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_auto_survives_a_gpu_without_a_driver(caplog):
    """DALI is tried in earnest: where its GPU pipeline does not start, the native engine is taken."""
    with caplog.at_level(logging.INFO, "fastload"):
        assert choose_engine(SMALL, 1, device_id=0) == "native"
    assert "cannot run on GPU 0" in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
def test_rates_are_measured_by_making_batches(engine):
    """The rate that auto compares is of images made; every engine can be measured."""
    made = []
    measured = open_engine(engine, SMALL, 1)
    wait = measured.wait
    measured.wait = lambda *batch: made.append(1) or wait(*batch)
    rate = images_per_second(measured, SMALL, seconds=0.05)
    assert len(made) >= 2 and np.isfinite(rate) and rate > 0
