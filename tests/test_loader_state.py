"""Resuming in mid-epoch: the next batch is the one that would have come."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data.distributed import DistributedSampler

from fastload import FastLoader, PlanError, RandomAlign
from tests.loaders import CACHE, RANDOM, assert_equal, copies, ids, loader, seeded
from tests.memory_cache import MemoryCache

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
    """A state of another cache or batch size is an error that says which."""
    state = loader().state_dict()
    with pytest.raises(PlanError, match="fingerprint"):
        loader(MemoryCache(5)).load_state_dict(state)
    with pytest.raises(PlanError, match="batch_size 4, here it is 5"):
        loader(batch_size=5).load_state_dict(state)
    with pytest.raises(PlanError, match="batch_size"):
        FastLoader([1, 2, 3]).load_state_dict(state)


def test_loading_the_state_of_a_dataloader_is_harmless():
    """On other datasets there is no state, and none is needed."""
    data = FastLoader([1, 2, 3])
    assert data.state_dict() == {}
    data.load_state_dict({})
    assert len(list(data)) == 3
