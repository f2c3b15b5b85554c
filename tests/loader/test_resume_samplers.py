"""Resuming an epoch whose order a sampler of the user's gives: exactly, or an error; and how far samplers are read."""

from __future__ import annotations

import json
import os
import queue
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from fastload import FastLoader
from fastload.errors import StateError
from tests.support.loaders import CACHE, IDS, ids, seeded

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]
N = len(IDS)


class SeededBatches(Sampler[list[int]]):
    """A user's batch sampler: its order depends on a seed of its own and on how often it was iterated."""

    def __init__(self, seed: int) -> None:
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(N).tolist()
        yield from (order[i : i + 5] for i in range(0, N, 5))

    def __len__(self) -> int:
        return -(-N // 5)


# What makes each kind anew, as a training script does when it is started again.
ORDERS: dict[str, Callable[[], dict[str, Any]]] = {
    "random": lambda: {"sampler": RandomSampler(IDS)},
    "random, own generator": lambda: {"sampler": RandomSampler(IDS, generator=seeded(3))},
    "replacement": lambda: {"sampler": RandomSampler(IDS, True, 50)},
    "replacement, own generator": lambda: {"sampler": RandomSampler(IDS, True, 50, generator=seeded(3))},
    "weighted": lambda: {"sampler": WeightedRandomSampler(range(1, N + 1), 40)},
    "weighted, own generator": lambda: {"sampler": WeightedRandomSampler([1.0] * N, 30, False, generator=seeded(3))},
    "subset": lambda: {"sampler": SubsetRandomSampler(range(4, 34))},
    "batches of random": lambda: {"batch_sampler": BatchSampler(RandomSampler(IDS), 5, False), "batch_size": 1},
    "batches of random, own generator": lambda: {
        "batch_sampler": BatchSampler(RandomSampler(IDS, generator=seeded(3)), 5, True),
        "batch_size": 1,
    },
    "distributed": lambda: {"sampler": DistributedSampler(CACHE, 2, 1, seed=4)},
    "seeded batches": lambda: {"batch_sampler": SeededBatches(8), "batch_size": 1},
    "list": lambda: {"sampler": list(range(N - 1, 3, -1))},
    "array": lambda: {"sampler": np.arange(N)[::-2].copy()},
    "tensor": lambda: {"sampler": torch.arange(N).flip(0)},
    "sequential": lambda: {"sampler": SequentialSampler(IDS)},
    "single images": lambda: {"sampler": RandomSampler(IDS), "batch_size": None},
}
EXACT = [name for name in ORDERS if name not in ("replacement", "replacement, own generator", "weighted")]


def start(name: str, **settings: Any) -> FastLoader:
    """A loader as a script makes it, without a seed unless the script gives one."""
    return FastLoader(CACHE, **{"batch_size": 4, **ORDERS[name](), **settings})


def seen(batches) -> list[list[int]]:
    """The images of each batch, or of each single sample."""
    return [[t["image_id"]] if isinstance(t, dict) else t.image_id.tolist() for _, t in batches]


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("name", ORDERS)
def test_resuming_is_exact_at_every_step(name, workers):
    """In the same process, after any number of batches, the state goes on with those that would have come."""
    torch.manual_seed(7)
    expected = seen(start(name))
    for step in range(len(expected) + 1):
        torch.manual_seed(7)
        data = start(name, num_workers=workers)
        first = seen(islice(data, step))
        state = through_json(data.state_dict())
        torch.manual_seed(1000 + step)  # whatever became of the process's own random numbers
        resumed = start(name, num_workers=3 - workers)
        resumed.load_state_dict(state)
        assert first + seen(resumed) == expected, step
    flat = list(chain(*expected))
    assert name not in EXACT or len(flat) == len(set(flat))


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("name", ORDERS)
def test_the_epochs_after_a_resume_are_right(name, workers):
    """Where torch's generator is restored too, as checkpoints do, the next epochs are those of an undisturbed run."""
    torch.manual_seed(7)
    whole = start(name)
    expected = [seen(whole) for _ in range(3)]
    torch.manual_seed(7)
    data = start(name, num_workers=workers)
    first = seen(islice(data, 3))
    state, rng = through_json(data.state_dict()), torch.get_rng_state()
    torch.manual_seed(99)
    resumed = start(name, num_workers=workers)
    resumed.load_state_dict(state)
    torch.set_rng_state(rng)
    assert [first + seen(resumed), seen(resumed), seen(resumed)] == expected


@pytest.mark.parametrize("name", ORDERS)
def test_a_resumed_epoch_is_interrupted_again(name):
    """Interrupted at several places, one after the other, an epoch is still the undisturbed one."""
    torch.manual_seed(7)
    expected = seen(start(name))
    torch.manual_seed(7)
    data, found = start(name), []
    for step in (1, 0, 2, 1):
        found += seen(islice(data, step))
        state = through_json(data.state_dict())
        torch.manual_seed(step)
        data = start(name, num_workers=step)
        data.load_state_dict(state)
    assert found + seen(data) == expected


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("step", [0, 2])
def test_a_resume_leaves_torchs_random_numbers_alone(name, step):
    """Passing over batches draws nothing from the stream that the user's model draws from."""
    torch.manual_seed(7)
    data = start(name)
    seen(islice(data, step))
    state = data.state_dict()
    resumed = start(name)
    resumed.load_state_dict(state)
    torch.manual_seed(5)
    seen(resumed)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


OTHER_PROCESS = """
import json, sys
import torch
from tests.loader.test_resume_samplers import ORDERS, seen, start

for name, cases in json.loads(sys.stdin.read()).items():
    found = []
    for state, seed, workers in cases:
        if seed is not None:
            torch.manual_seed(seed)
        data = start(name, num_workers=workers)
        data.load_state_dict(state)
        found.append(seen(data))
    print(json.dumps([name, found]))
"""


def test_another_process_resumes():
    """A fresh process goes on exactly, whatever its seed, with threads and without."""
    asked, expected = {}, {}
    for name in ORDERS:
        torch.manual_seed(7)
        whole = seen(start(name))
        steps = (0, 1, len(whole) // 2, len(whole))
        asked[name], expected[name] = [], []
        for step in steps:
            torch.manual_seed(7)
            data = start(name, num_workers=3)
            seen(islice(data, step))
            for seed, workers in ((None, 0), (3, 2)):
                asked[name].append((data.state_dict(), seed, workers))
                expected[name].append(whole[step:])
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS], input=json.dumps(asked), capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert dict(map(json.loads, done.stdout.splitlines())) == expected


class Shuffled(Sampler[int]):
    """Draws from Python's own random numbers, which nobody restores."""

    def __iter__(self) -> Iterator[int]:
        return iter(random.sample(range(N), N))

    def __len__(self) -> int:
        return N


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("kind", ["sampler", "batch_sampler"])
def test_what_cannot_be_resumed_exactly_is_refused(kind, workers):
    """A sampler that gives another order after the interruption is an error that says so, not a wrong epoch."""

    def data() -> FastLoader:
        if kind == "sampler":
            return FastLoader(CACHE, 4, sampler=Shuffled(), num_workers=workers)
        return FastLoader(CACHE, batch_sampler=BatchSampler(Shuffled(), 4, False), num_workers=workers)

    one = data()
    seen(islice(one, 2))
    resumed = data()
    resumed.load_state_dict(through_json(one.state_dict()))
    with pytest.raises(StateError, match="some images would come twice"):
        next(iter(resumed))


class DrawsAsItGoes(Sampler[int]):
    """Draws every position when it is asked for, from torch's default generator or one of its own."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        for _ in range(N):
            yield int(torch.randint(N, (), generator=self.generator))

    def __len__(self) -> int:
        return N


def test_a_sampler_that_draws_as_it_goes_needs_a_generator_of_its_own():
    """With one it resumes exactly; with the default one, from which others draw too, it is refused."""

    def after_two(generator: torch.Generator | None) -> dict[str, Any]:
        data = FastLoader(CACHE, 4, sampler=DrawsAsItGoes(generator), num_workers=2)
        seen(islice(data, 2))
        return through_json(data.state_dict())

    expected = seen(FastLoader(CACHE, 4, sampler=DrawsAsItGoes(seeded(3))))
    resumed = FastLoader(CACHE, 4, sampler=DrawsAsItGoes(seeded(5)))
    resumed.load_state_dict(after_two(seeded(3)))
    assert seen(resumed) == expected[2:]
    resumed = FastLoader(CACHE, 4, sampler=DrawsAsItGoes(None))
    resumed.load_state_dict(after_two(None))
    with pytest.raises(StateError, match=r"a torch\.Generator of its own"):
        next(iter(resumed))


class Counted(Sampler[Any]):
    """Counts what is read of it."""

    def __init__(self, values: list[Any]) -> None:
        self.values, self.read = values, 0

    def __iter__(self) -> Iterator[Any]:
        for value in self.values:
            self.read += 1
            yield value

    def __len__(self) -> int:
        return len(self.values)


POSITIONS = [int(i) for i in np.random.default_rng(0).permutation(N)]


@pytest.mark.parametrize("kind", ["sampler", "batch_sampler"])
@pytest.mark.parametrize("workers, factor", [(0, None), (1, None), (1, 1), (2, None), (2, 3), (3, None)])
def test_a_sampler_is_read_no_further_than_dataloader_reads(kind, workers, factor):
    """After each batch at most what DataLoader would have read; without workers, what was handed out."""
    counted = Counted(POSITIONS if kind == "sampler" else [POSITIONS[i : i + 2] for i in range(0, N, 2)])
    size = 2 if kind == "sampler" else 1
    arguments: dict[str, Any] = {kind: counted, "num_workers": workers, "prefetch_factor": factor}
    data = FastLoader(CACHE, **arguments, **({"batch_size": 2} if kind == "sampler" else {}))
    ahead = (factor or 2) * workers
    for step, _ in enumerate(data, start=1):
        assert counted.read <= min((step + ahead) * size, len(counted.values))
        assert workers or counted.read <= step * size
    assert counted.read == len(counted.values)


def test_a_sampler_may_be_fed_by_the_loop():
    """Without workers, each batch's positions are asked for only when it is: a loop that makes them does not hang."""
    fed: queue.Queue[int] = queue.Queue()

    def order() -> Iterator[int]:
        while (i := fed.get(timeout=10)) >= 0:
            yield i

    for i in (3, 1):
        fed.put(i)
    found = []
    for _, targets in FastLoader(CACHE, 2, sampler=order()):
        found.append(targets.image_id.tolist())
        after = [2 * len(found), 2 * len(found) + 1] if len(found) < 5 else [-1]
        for i in after:
            fed.put(i)
    assert found == [[IDS[3], IDS[1]], *([IDS[i], IDS[i + 1]] for i in range(2, 10, 2))]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ORDERS)
def test_a_samplers_order_is_kept(name, workers):
    """Batch by batch the images are those that DataLoader loads."""
    torch.manual_seed(7)
    first = start(name, num_workers=workers, generator=seeded())
    ours = [seen(first) for _ in range(2)]
    torch.manual_seed(7)
    settings = {"batch_size": 4, **ORDERS[name]()}
    theirs = DataLoader(IDS, **settings, generator=seeded(), collate_fn=lambda batch: batch)
    whole = [[[b] if isinstance(b, int) else list(b) for b in theirs] for _ in range(2)]
    assert ours == whole


@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_get_the_images_of_dataloader(drop_last):
    """With a DistributedSampler each rank's batches are DataLoader's, by default, in every epoch."""
    for rank in range(3):
        sampler = DistributedSampler(CACHE, 3, rank, seed=7)
        ours = FastLoader(CACHE, 4, sampler=sampler, drop_last=drop_last, num_workers=2)
        theirs = DataLoader(IDS, 4, sampler=sampler, drop_last=drop_last, collate_fn=list)
        for epoch in range(2):
            sampler.set_epoch(epoch)
            assert ids(ours) == list(theirs)


def test_a_sampler_is_sorted_by_shape_only_on_request():
    """`group_by_aspect=True` gives the same images in other batches."""
    order = POSITIONS * 2
    kept, sorted_ = (ids(FastLoader(CACHE, 4, sampler=order, group_by_aspect=group)) for group in (None, True))
    assert kept == [[IDS[i] for i in order[k : k + 4]] for k in range(0, len(order), 4)] != sorted_
    assert sorted(chain(*kept)) == sorted(chain(*sorted_))
