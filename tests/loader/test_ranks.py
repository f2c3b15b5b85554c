"""Ranks: processes share an epoch exactly, and another number of them goes on with what is left."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from fastload import FastLoader, RandomFlip
from tests.support.loaders import CACHE, ids, seeded
from tests.support.memory_cache import MemoryCache

CACHES = {n: MemoryCache(n) for n in (1, 2, 5, 13, 31)}
options = st.fixed_dictionaries({"shuffle": st.booleans(), "grouped": st.booleans(), "seed": st.integers(0, 99)})


def image_ids(samples) -> list[int]:
    return [target["image_id"] for _, target in samples]


def rank_loaders(cache, world, batch_size, shuffle, grouped, seed, uneven="pad", drop_last=False) -> list[FastLoader]:
    """The loaders of a job of `world` ranks, each with chance of its own."""
    return [
        FastLoader(
            cache,
            batch_size,
            sampler=DistributedSampler(cache, world, rank, shuffle, seed, drop_last=uneven == "drop"),
            drop_last=drop_last,
            collate_fn=image_ids,
            group_by_aspect=grouped,
            generator=seeded(rank),
        )
        for rank in range(world)
    ]


def flat(batches) -> list[int]:
    return [i for batch in batches for i in batch]


@settings(max_examples=60)
@given(st.sampled_from(sorted(CACHES)), st.integers(1, 5), st.integers(1, 4), options, st.integers(0, 3))
def test_every_image_comes_once_an_epoch_over_all_ranks(n, world, batch_size, option, epoch):
    """The ranks take as many steps of equal size, and only what fills up the last step comes twice; dropped: none."""
    cache = CACHES[n]
    for uneven in ("pad", "drop"):
        data = rank_loaders(cache, world, batch_size, **option, uneven=uneven)
        for loader in data:
            loader.set_epoch(epoch)
        shares = [list(loader) for loader in data]
        assert len({tuple(map(len, share)) for share in shares}) == 1
        assert all(len(share) == len(loader) for share, loader in zip(shares, data, strict=True))
        seen = flat(flat(shares).copy() for shares in shares)
        if uneven == "pad":
            assert len(seen) == -(-n // world) * world and set(seen) == set(cache.image_ids.tolist())
        else:
            assert len(seen) == len(set(seen)) == n // world * world


@settings(max_examples=50)
@given(
    st.sampled_from(sorted(CACHES)),
    options,
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=4),
    st.sampled_from(["pad", "drop"]),
    st.integers(0, 2),
)
def test_a_job_resumed_on_other_ranks_continues_with_the_images_not_yet_seen(n, option, jobs, uneven, epoch):
    """Interrupted and resumed on any numbers of ranks with any batch sizes, an epoch shows each image once."""
    cache, seen, state = CACHES[n], [], None
    everything = set(cache.image_ids.tolist())
    for job, (world, batch_size, steps) in enumerate(jobs):
        data = rank_loaders(cache, world, batch_size, **option, uneven=uneven)
        for loader in data:
            if state:
                loader.load_state_dict(state)
            loader.set_epoch(epoch)
        last = job == len(jobs) - 1
        shares = [list(loader if last else islice(loader, steps)) for loader in data]
        assert len({tuple(map(len, share)) for share in shares}) == 1
        if set(seen) != everything:
            finishing = world  # ranks of the job that shows the last image, and pads its step
        seen += flat(flat(share) for share in shares)
        repeated = len(seen) - len(set(seen))
        assert repeated == 0 or (set(seen) == everything and repeated < finishing)
        state = json.loads(json.dumps(data[job % world].state_dict()))  # of any rank
        if state["epoch"] != epoch:
            break
    assert set(seen) == everything if uneven == "pad" else len(seen) > n - world


@settings(max_examples=30)
@given(options, st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))
def test_one_process_without_a_sampler_goes_on_for_many_and_the_reverse(option, world, batch_size, steps):
    """A run may change between shuffle=True alone and a DistributedSampler in mid-epoch; later epochs stay exact."""
    cache = CACHES[31]

    def alone() -> list[FastLoader]:
        settings = {"shuffle": option["shuffle"], "group_by_aspect": option["grouped"], "collate_fn": image_ids}
        return [FastLoader(cache, batch_size, generator=seeded(), **settings)]

    def several() -> list[FastLoader]:
        return rank_loaders(cache, world, batch_size, **option)

    for first, second in ((alone, several), (several, alone)):
        data = first()
        for loader in data:
            loader.set_epoch(1)
        seen = flat(flat(islice(loader, steps)) for loader in data)
        state = data[0].state_dict()
        data = second()
        for loader in data:
            loader.load_state_dict(state)
        if state["epoch"] == 1:
            seen += flat(flat(loader) for loader in data)
        assert set(seen) == set(cache.image_ids.tolist()) and len(seen) - 31 < world
        for loader in data:
            loader.set_epoch(2)
        assert set(flat(flat(loader) for loader in data)) == set(cache.image_ids.tolist())


@pytest.mark.parametrize("drop", [False, True])
def test_the_order_is_the_samplers_own(drop):
    """Ungrouped, each rank's batches are those of DataLoader with the same sampler, epoch by epoch."""
    for rank in range(3):
        sampler = DistributedSampler(CACHE, 3, rank, seed=7, drop_last=drop)
        ours = FastLoader(CACHE, 4, sampler=sampler, group_by_aspect=False, drop_last=drop)
        theirs = DataLoader(range(37), 4, sampler=sampler, drop_last=drop)
        for epoch in range(3):
            ours.set_epoch(epoch)
            assert ids(ours) == [(batch * 10 + 100).tolist() for batch in theirs]


def test_batches_of_one_step_are_of_similar_shapes_on_all_ranks():
    """Grouping sorts the images of all ranks together: their canvases differ less than those of different steps."""
    cache = MemoryCache(256)
    aspect = dict(zip(cache.image_ids.tolist(), cache.sizes[:, 0] / cache.sizes[:, 1], strict=True))
    shares = [list(data) for data in rank_loaders(cache, 4, 4, shuffle=True, grouped=True, seed=0)]
    mean = np.array([[np.mean([aspect[i] for i in batch]) for batch in share] for share in shares])
    assert mean.std(0).mean() < 0.3 * mean.std(1).mean()


def test_ranks_have_chance_of_their_own():
    """Loaders of one seed flip differently on each rank, and likewise again."""

    def flips(rank: int) -> list[list[bool]]:
        sampler = DistributedSampler(CACHE, 2, rank)
        data = FastLoader(CACHE, 9, sampler=sampler, transforms=[RandomFlip()], generator=seeded(1))
        return [targets.flip.tolist() for _, targets in data]

    assert flips(0) == flips(0) != flips(1) == flips(1)


def test_a_sampler_of_ones_own_kind_is_left_to_itself():
    """A subclass of DistributedSampler, or one of another length, decides its order alone."""

    class Backwards(DistributedSampler):
        def __iter__(self):
            return reversed(list(super().__iter__()))

    expected = list(Backwards(CACHE, 2, 1))
    data = FastLoader(CACHE, 4, sampler=Backwards(CACHE, 2, 1), group_by_aspect=False)
    assert flat(ids(data)) == CACHE.image_ids[expected].tolist()
    fewer = FastLoader(CACHE, 4, sampler=DistributedSampler(range(5), 1, 0, shuffle=False))
    assert flat(ids(fewer)) == CACHE.image_ids[:5].tolist()
