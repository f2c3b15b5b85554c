"""Resuming in mid-epoch: the next batch is the one that would have come."""

from __future__ import annotations

import copy
import json
import pickle
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from fastload import FastLoader, RandomAlign
from fastload.errors import StateError
from tests.support.loaders import CACHE, RANDOM, assert_equal, copies, ids, loader, seeded
from tests.support.memory_cache import MemoryCache

SETTINGS = {"shuffle": True, "transforms": RANDOM, "collate_fn": RandomAlign()}


def state_after(data: FastLoader, step: int) -> dict:
    """The state once `step` batches of two epochs have come, as it is after a trip through a checkpoint."""
    if step:
        next(islice((batch for _ in range(2) for batch in data), step - 1, None))
    return json.loads(json.dumps(data.state_dict()))


@pytest.mark.parametrize("step", range(21))
def test_resuming_after_any_batch_gives_the_rest_of_the_run(step):
    """Loaded into a fresh loader with other threads, the state of any moment of two epochs continues bit for bit."""
    whole = loader(**SETTINGS)
    expected = (copies(whole) + copies(whole))[step:]
    state = state_after(loader(**SETTINGS), step)
    resumed = loader(**SETTINGS, num_workers=2, prefetch_factor=4, generator=seeded(99))
    resumed.load_state_dict(state)
    assert_equal([batch for _ in range(state["epoch"], 2) for batch in copies(resumed)], expected)


@settings(max_examples=25)
@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    drop_last=st.booleans(),
    group=st.booleans(),
    stops=st.lists(st.integers(0, 12), max_size=4),
)
def test_an_epoch_interrupted_anywhere_is_still_exact(n, batch_size, drop_last, group, stops):
    """Stopped and resumed any number of times, an epoch has the batches of an undisturbed one."""
    cache = MemoryCache(n)
    arguments = {"shuffle": True, "drop_last": drop_last, "group_by_aspect": group, "batch_size": batch_size}
    expected = ids(loader(cache, **arguments))
    data, seen = loader(cache, **arguments), []
    for stop in stops:
        batches = iter(data)
        seen += ids(islice(batches, stop))
        state = data.state_dict()
        data = loader(cache, **arguments, generator=seeded(1))
        if state["epoch"] == 1:
            break
        data.load_state_dict(state)
        assert state["step"] == len(seen)
    else:
        seen += ids(data)
    assert seen == expected


def test_setting_the_interrupted_epoch_keeps_the_place_in_it():
    """A training loop that calls set_epoch first thing still resumes in mid-epoch; another epoch starts anew."""
    expected = loader(**SETTINGS)
    copies(expected)
    expected = copies(expected)
    for epoch, rest in ((1, expected[3:]), (0, copies(loader(**SETTINGS)))):
        resumed = loader(**SETTINGS)
        resumed.load_state_dict(state_after(loader(**SETTINGS), 13))
        resumed.set_epoch(epoch)
        assert_equal(copies(resumed), rest)


def test_distributed_samplers_resume_in_their_epoch():
    """The state remembers the sampler's epoch, and passes over what the rank has seen."""

    def rank() -> FastLoader:
        return loader(sampler=DistributedSampler(CACHE, 2, 1, shuffle=True))

    first = rank()
    first.set_epoch(4)
    expected = ids(first)
    first.set_epoch(4)
    batches = iter(first)
    next(batches)
    resumed = rank()
    resumed.load_state_dict(first.state_dict())
    assert ids(resumed) == expected[1:]


def test_states_of_other_datasets_are_refused():
    """A state of another cache, a part of it, or another order is an error that says which."""
    state = loader().state_dict()
    with pytest.raises(StateError, match="fingerprint"):
        loader(MemoryCache(5)).load_state_dict(state)
    with pytest.raises(StateError, match="images 37, here it is 5"):
        loader(CACHE.subset(range(5))).load_state_dict(state)
    with pytest.raises(StateError, match="shuffle False, here it is True"):
        loader(shuffle=True).load_state_dict(state)
    with pytest.raises(StateError, match="group_by_aspect False, here it is True"):
        loader(group_by_aspect=True).load_state_dict(state)
    with pytest.raises(StateError, match="order 'own', here it is 'of a sampler"):
        loader(sampler=[1, 2, 3]).load_state_dict(state)
    with pytest.raises(StateError, match="in batches of 4', here it is 'of a sampler, in batches of 5'"):
        loader(sampler=[1, 2, 3], batch_size=5).load_state_dict(loader(sampler=[1, 2, 3]).state_dict())


@pytest.mark.parametrize(
    "order",
    [
        {"sampler": list(range(36, 3, -1))},
        {"batch_sampler": BatchSampler(range(37), 5, False), "batch_size": 1},
        {"batch_size": None},
        {"sampler": DistributedSampler(CACHE, 2, 0, seed=4)},
        {"sampler": WeightedRandomSampler([1.0] * 37, 30, generator=seeded(3)), "repeats": False},
        {"shuffle": True, "drop_last": True},
    ],
    ids=["sampler", "batch sampler", "single", "distributed", "weighted", "own"],
)
@pytest.mark.parametrize("workers", [(0, 2), (2, 0), (1, 3)], ids=str)
def test_every_kind_of_order_resumes_with_other_threads_and_depth(order, workers):
    """Whatever gives the order, a state taken with some threads and depth goes on with others, bit for bit."""
    order, (before, after) = dict(order), workers
    repeats = order.pop("repeats", True)  # a sampler that draws anew gives its order again once its generator is reset

    def start(**settings) -> FastLoader:
        if not repeats:
            order["sampler"].generator.manual_seed(3)
        return loader(**order, **settings)

    expected = [identity(batch) for batch in start()]
    for step in (0, 1, 3, len(expected)):
        data = start(num_workers=before, prefetch_factor=5 if before else None)
        seen = [identity(batch) for batch in islice(data, step)]
        state = json.loads(json.dumps(data.state_dict()))
        resumed = start(num_workers=after, prefetch_factor=2 if after else None, generator=seeded(5))
        resumed.load_state_dict(state)
        assert seen + [identity(batch) for batch in resumed] == expected


def identity(batch) -> tuple[object, int]:
    """What a batch or a single sample shows."""
    images, targets = batch
    return targets["image_id"] if isinstance(targets, dict) else targets.image_id.tolist(), int(images.numpy().sum())


@pytest.mark.parametrize("order", [{"shuffle": True}, {"sampler": list(range(36, 3, -1))}], ids=["own", "sampler"])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_copies_have_a_place_of_their_own(order, copied):
    """A loader copied or pickled in mid-epoch has its state; from then on neither moves the other, threads or not."""
    data = loader(**order, transforms=RANDOM, num_workers=2)
    running = iter(data)
    seen = [next(running) for _ in range(3)]
    twin = copied(data)
    state = data.state_dict()
    assert twin.state_dict() == state and len(seen) == 3
    rest = copies(running)
    assert twin.state_dict() == state and data.state_dict() != state
    resumed = loader(**order, transforms=RANDOM, generator=seeded(5))
    resumed.load_state_dict(twin.state_dict())
    assert_equal(copies(resumed), rest)
    epochs = [copies(each) for each in (data, twin)]  # the next one, of each
    assert_equal(*epochs)
    assert data.state_dict() == twin.state_dict()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_copies_made_between_epochs_are_alike_and_apart(copied):
    """Each of two that begin the same epoch counts its own batches."""
    data = loader(shuffle=True)
    data.state_dict()  # draws the seed
    twin = copied(data)
    one, other = iter(data), iter(twin)
    assert ids([next(one), next(one)]) == ids([next(other), next(other)])
    assert data.state_dict()["step"] == twin.state_dict()["step"] == 2
    next(other)
    assert (data.state_dict()["step"], twin.state_dict()["step"]) == (2, 3)
    assert ids(one)[1:] == ids(other)
    resumed = loader(shuffle=True, generator=seeded(9))
    resumed.load_state_dict(twin.state_dict())
    assert resumed.state_dict() == data.state_dict()


def test_subclasses_may_add_to_the_state():
    """What a subclass overrides is called, and finds the loader's own by super(), with torchdata."""
    pytest.importorskip("torchdata")

    class Noting(FastLoader):
        def state_dict(self):
            return {"mine": 7, "loader": super().state_dict()}

    assert Noting(CACHE, 4, generator=seeded()).state_dict() == {"mine": 7, "loader": loader().state_dict()}


def test_other_datasets_have_the_state_of_the_base_class():
    """With torchdata that of its StatefulDataLoader, which is not refused nor taken for a cache's."""
    base = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    data, theirs = FastLoader([1, 2, 3]), base([1, 2, 3])
    next(iter(data)), next(iter(theirs))
    assert data.state_dict() == theirs.state_dict()
    again = FastLoader([1, 2, 3])
    again.load_state_dict(data.state_dict())
    assert torch.cat(list(again)).tolist() == [2, 3]
