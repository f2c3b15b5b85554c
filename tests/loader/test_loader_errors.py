"""FastLoader when something is wrong: images, transforms, arguments."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from fastload import (
    DecodeError,
    FastLoader,
    PlanError,
    RandomFlip,
    ScaleJitterCrop,
    TopLeftAlign,
    Transform,
)
from fastload.errors import ArgumentError
from tests.support.engines import ENGINES
from tests.support.loaders import CACHE, IDS, ids, loader
from tests.support.memory_cache import MemoryCache


def test_misused_transforms_are_explained():
    """A transform after a function, one that returns a plan, and things that are neither, are clear errors."""
    with pytest.raises(ArgumentError, match=r"RandomFlip\(p=0.5\) follows a plain function"):
        loader(transforms=[lambda image, target: (image, target), RandomFlip()])
    with pytest.raises(ArgumentError, match="neither a fastload Transform nor a function"):
        loader(transforms=["flip"])

    class Returns(Transform):
        def __call__(self, plan, rng, images):
            return plan

    with pytest.raises(PlanError, match="changes the plan it is given"):
        next(iter(loader(transforms=[Returns()])))
    for forgotten in (RandomFlip(), None):
        with pytest.raises(ArgumentError, match="transforms is a list of"):
            loader(transforms=forgotten)
    with pytest.raises(ArgumentError, match=r"RandomFlip in transforms is a class: write RandomFlip\(\.\.\.\)"):
        loader(transforms=[RandomFlip])
    with pytest.raises(ArgumentError, match="TopLeftAlign in collate_fn is a class"):
        loader(collate_fn=TopLeftAlign)
    for result, kind in ((None, "NoneType"), (torch.zeros(3, 4, 4), "Tensor")):
        with pytest.raises(PlanError, match=f"returned {kind}: functions there take and return"):
            next(iter(loader(transforms=[lambda image, target, result=result: result])))


def test_a_failing_transform_raises_in_its_turn():
    """A user's exception arrives unchanged, after the batches before it, and the next batch can still be had."""

    class Third(Transform):
        calls = 0

        def __call__(self, plan, rng, images):
            self.calls += 1
            if self.calls == 3:
                raise KeyError("mine")

    batches = iter(loader(transforms=[Third()], num_workers=2, prefetch_factor=5))
    assert ids([next(batches), next(batches)]) == [IDS[:4], IDS[4:8]]
    with pytest.raises(KeyError, match="mine"):
        next(batches)
    assert ids(batches) == [IDS[i : i + 4] for i in range(12, 37, 4)]


@pytest.mark.parametrize("engine", ENGINES)
def test_damaged_records_raise_and_the_loader_goes_on(engine):
    """A DecodeError names image, file, cache and advice; the next batch and the next epoch still come."""
    data = loader(MemoryCache(12, damaged=[5]), engine=engine, num_workers=2)
    for _ in range(2):
        batches = iter(data)
        next(batches)
        with pytest.raises(DecodeError) as caught:
            next(batches)
        message = str(caught.value)
        assert all(
            part in message for part in ("image 150", "000150.jpg", "/in/memory.lmdb", "fastload verify", "skip")
        )
        assert ids(batches) == [[180, 190, 200, 210]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_damaged_records_can_be_skipped(engine, workers):
    """Skipped images are filled, without boxes, and reported once at the epoch's end; all else is as ever."""
    damaged, sound = MemoryCache(12, damaged=[5, 6]), MemoryCache(12)
    align = TopLeftAlign(fill=7)
    data = loader(damaged, engine=engine, on_error="skip", num_workers=workers, collate_fn=align)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"2 images of /in/memory.lmdb did not decode.*150") as warned:
            batches = [(images.clone(), targets) for images, targets in data]
        assert len(warned) == 1 and set(data.skipped) == {150, 160}
        expected = list(loader(sound, engine=engine, collate_fn=align))
        assert (batches[1][0][1:3] == 7).all() and batches[1][1].num_boxes == (0, 0, 0, 3)
        assert torch.equal(batches[1][0][3], expected[1].images[3]) and torch.equal(batches[0][0], expected[0].images)


def test_an_epoch_left_early_reports_what_it_skipped():
    """Even when the loop is left by break, skipped images do not go unsaid."""
    batches = iter(loader(MemoryCache(12, damaged=[0]), on_error="skip"))
    next(batches)
    with pytest.warns(UserWarning, match="1 images of"):
        del batches


def test_arguments_without_meaning_say_so():
    """What a cache has no use for is named in a warning; what contradicts is an error."""
    with pytest.warns(UserWarning, match="worker_init_fn, timeout: ignored"):
        loader(num_workers=1, worker_init_fn=print, timeout=3)
    with pytest.warns(UserWarning, match="pin_memory_device: ignored, since `device` says"):
        loader(pin_memory_device="x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader(num_workers=64, persistent_workers=True, in_order=False, snapshot_every_n_steps=5)
    with pytest.raises(ArgumentError, match="excludes batch_sampler"):
        FastLoader(CACHE, batch_sampler=[[0]], group_by_aspect=True)
    with pytest.raises(ArgumentError, match="on_error"):
        loader(on_error="ignore")
    with pytest.raises(ArgumentError, match="verify_checksums"):
        loader(verify_checksums=True)
    with pytest.raises(ArgumentError, match="engine is one of native, dali, reference and auto"):
        loader(engine="gpu")
    with pytest.raises(ValueError, match="mutually exclusive"):
        loader(sampler=[1], shuffle=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="an accelerator is present")
def test_pin_memory_without_accelerator_is_harmless():
    """pin_memory on a machine without an accelerator warns and loads as ever."""
    with pytest.warns(UserWarning, match="pin_memory: ignored"):
        data = loader(pin_memory=True)
    assert ids(data) == ids(loader())


@pytest.mark.parametrize("wrong", [37, -38, 1000])
@pytest.mark.parametrize("order", ["sampler", "batch_sampler", "single"])
def test_an_index_beyond_the_cache_is_named(wrong, order):
    """At its batch, as under DataLoader; also in a part of the cache, whose images are fewer."""
    indices = [1, 2, wrong, 3]
    arguments = {
        "sampler": {"sampler": indices, "batch_size": 2},
        "batch_sampler": {"batch_sampler": [indices[:2], indices[2:]], "batch_size": 1},
        "single": {"sampler": indices, "batch_size": None},
    }[order]
    batches = iter(loader(num_workers=2, **arguments))
    next(batches)
    if order == "single":
        next(batches)
    with pytest.raises(IndexError, match=f"asks for image {wrong} of a dataset of 37 images"):
        next(batches)
    assert len(list(batches)) == (order == "single")
    with pytest.raises(IndexError, match="asks for image 5 of a dataset of 5 images"):
        list(loader(CACHE.subset(range(5)), sampler=[5]))


def test_negative_indices_count_from_the_end():
    """As in a DataLoader of the same cache, or part of it."""
    part = CACHE.subset([30, 2, 7])
    for dataset in (CACHE, part, Subset(part, [-1, 0])):
        orders = {"sampler": [0, -1, -2, 1]}, {"batch_sampler": [[-1], [-2, 0]], "batch_size": 1}
        for order in orders:
            theirs = DataLoader(dataset, **{"batch_size": 4, **order}, collate_fn=lambda pairs: [t for _, t in pairs])
            assert ids(loader(dataset, **order)) == [[t["image_id"] for t in batch] for batch in theirs]


def test_images_beyond_fixed_canvases_are_named_before_decoding():
    """An image that fits no canvas is a PlanError that says what to do."""
    with pytest.raises(PlanError, match="max_size"):
        list(loader(collate_fn=TopLeftAlign(canvas_sizes=(32, 32))))
    fitting = loader(transforms=[ScaleJitterCrop(32)], collate_fn=TopLeftAlign(canvas_sizes=32), shuffle=True)
    assert {tuple(batch.images.shape[2:]) for batch in fitting} == {(32, 32)}
