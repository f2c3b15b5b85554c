"""FastLoader on any other dataset: what the class that it derives from does, with fastload's collators.

That is torchdata's StatefulDataLoader where it is installed, else DataLoader; run as a program, this file compares with
DataLoader, as if torchdata were not there.
"""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, get_worker_info

if __name__ == "__main__":
    sys.modules["torchdata"] = None  # type: ignore[assignment]  # before fastload looks for it
    sys.path.insert(0, str(Path(__file__).parents[2]))

from fastload import CenterAlign, FastLoader, RandomAlign, RandomFlip
from fastload.device import Feed
from fastload.errors import ArgumentError
from tests.support.memory_cache import MemoryCache
from tests.test_device import FakeStreams

Base: type[DataLoader] = FastLoader.__mro__[1]
CACHE = MemoryCache(11)


class Pictures(Dataset):
    """Images of different sizes with a box; items tell which worker made them and what chance it had."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, i: int):
        image = torch.full((3, 20 + i, 40 - i), i, dtype=torch.uint8)
        worker = get_worker_info()
        return image, {
            "boxes": torch.tensor([[1.0, 2.0, 3.0 + i, 9.0]]),
            "worker": -1 if worker is None else worker.id,
            "chance": (torch.rand(()).item(), random.random(), getattr(random, "_mark", None)),
        }


class Numbers(Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int):
        return torch.tensor([i, torch.randint(1000, ()).item()]), {"i": i, "x": np.float32(i)}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(7))


def mark(worker: int) -> None:
    random._mark = f"worker {worker}"


def plain(value):
    """Nested batches as lists that compare by value."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def batches(kind, dataset, epochs: int = 2, **arguments):
    torch.manual_seed(0)
    random.seed(0)
    data = kind(dataset, generator=torch.Generator().manual_seed(3), **arguments)
    return len(data), [plain(batch) for _ in range(epochs) for batch in data]


WAYS: list[dict[str, Any]] = [
    {},
    {"batch_size": 3, "shuffle": True, "drop_last": True},
    {"batch_size": None},
    {"batch_size": 3, "num_workers": 2, "prefetch_factor": 3, "persistent_workers": True, "shuffle": True},
    {"batch_sampler": [[3, 1], [4, 1, 5]], "num_workers": 1},
    {"batch_size": 4, "sampler": [5, 3, 5, 1, 9], "multiprocessing_context": "fork", "num_workers": 1},
    {"batch_size": 2, "collate_fn": list, "timeout": 60, "num_workers": 1, "in_order": False},
]


@runtime_checkable
class Stateful(Protocol):
    """What checkpointing libraries look for."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


@pytest.mark.parametrize("arguments", WAYS)
def test_batches_equal_the_base_classes(arguments):
    """Item for item what StatefulDataLoader or DataLoader gives, chance included."""
    assert batches(FastLoader, Numbers(), **arguments) == batches(Base, Numbers(), **arguments)


def test_with_torchdata_it_is_a_stateful_dataloader():
    """So any dataset can be resumed, and a state goes from the one class to the other."""
    StatefulDataLoader = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    assert Base is StatefulDataLoader and isinstance(FastLoader(Numbers()), Stateful)
    arguments = {"batch_size": 2, "shuffle": True, "num_workers": 2, "snapshot_every_n_steps": 2}
    for first, second in ((FastLoader, Base), (Base, FastLoader), (FastLoader, FastLoader)):
        data = first(Numbers(), **arguments)
        running = iter(data)
        seen = [plain(batch) for batch in islice(running, 3)]
        again = second(Numbers(), **arguments)
        again.load_state_dict(data.state_dict())
        rest = [plain(batch) for batch in running]
        assert [i for _, numbers in seen + rest for i in numbers["i"][1]] != list(range(10)) and len(rest) == 2
        assert [numbers["i"] for _, numbers in map(plain, again)] == [numbers["i"] for _, numbers in rest]


@pytest.mark.parametrize("where", [None, "cpu"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_is_that_of_the_batch_in_use(monkeypatch, where, workers):
    """Batches on their way to a device do not count, with worker processes or without."""
    pytest.importorskip("torchdata")
    streams = FakeStreams()
    monkeypatch.setattr(Feed, "streams", streams)  # so that one is sent ahead
    data = FastLoader(Numbers(), 2, num_workers=workers, device=where)
    for step, _ in enumerate(data):
        again = FastLoader(Numbers(), 2, num_workers=workers, device=where)
        again.load_state_dict(state_dict=data.state_dict())
        assert [i for _, numbers in again for i in numbers["i"].tolist()] == list(range(2 * step + 2, 10))
    streams.copies.finish()  # or the process would keep all later canvases, which other tests look at


def test_without_torchdata_it_is_a_dataloader():
    """The comparison with DataLoader, and who has a state, in a process where torchdata cannot be imported."""
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=200)
    assert (run.returncode, run.stdout) == (0, "alike\n"), run.stderr


def compare_without_torchdata() -> None:
    assert Base is DataLoader
    for arguments in WAYS:
        test_batches_equal_the_base_classes(arguments)
    data, on_cache = FastLoader(Numbers(), 4), FastLoader(CACHE, 4)
    assert not isinstance(data, Stateful) and isinstance(on_cache, Stateful)
    assert hasattr(on_cache, "state_dict") and hasattr(on_cache, "load_state_dict")
    for name in ("state_dict", "load_state_dict"):
        assert not hasattr(data, name)
        with pytest.raises(AttributeError, match=rf"Numbers is not a cache.*has no {name}.*vision\[stateful\]"):
            getattr(data, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        data.nonsense  # noqa: B018
    running = iter(on_cache)
    next(running)
    again = FastLoader(CACHE, 4)
    again.load_state_dict(on_cache.state_dict())
    assert [t.image_id.tolist() for _, t in again] == [t.image_id.tolist() for _, t in running]


def test_streams_work():
    """Iterable datasets pass through."""
    assert list(FastLoader(Stream(), 3))[2].tolist() == list(Base(Stream(), 3))[2].tolist() == [6]


def test_collators_work_in_worker_processes():
    """A fastload collator as DataLoader's collate_fn gives the same in FastLoader, workers initialized as asked."""
    arguments = {"batch_size": 3, "num_workers": 2, "worker_init_fn": mark, "collate_fn": RandomAlign(grid=4)}
    ours, theirs = batches(FastLoader, Pictures(), **arguments), batches(Base, Pictures(), **arguments)
    assert ours == theirs
    length, (first, *_) = ours
    assert length == 4
    _, targets = first
    assert targets[0]["worker"] == 0 and targets[0]["chance"][2] == "worker 0"


def test_collators_align_what_the_dataset_gives():
    """Images lie where the collator says, boxes with them."""
    images, targets = next(iter(FastLoader(Pictures(), 2, collate_fn=CenterAlign())))
    assert images.shape == (2, 3, 32, 64) and images[1, 0, 16, 32] == 1
    assert targets[0]["offset"].tolist() == [12, 6] and targets[0]["boxes"].tolist() == [[13.0, 8.0, 15.0, 15.0]]


def test_set_epoch_reaches_the_sampler():
    """set_epoch on the loader tells a distributed sampler."""
    sampler = torch.utils.data.DistributedSampler(Numbers(), 1, 0)
    FastLoader(Numbers(), sampler=sampler).set_epoch(5)
    assert sampler.epoch == 5


@pytest.mark.parametrize(
    "argument",
    [
        {"transforms": [RandomFlip()]},
        {"group_by_aspect": True},
        {"on_error": "skip"},
        {"verify_checksums": "never"},
        {"scaled_decoding": False},
        {"engine": "reference"},
        {"function_workers": 1},
        {"skip_crowd": True},
        {"skip_empty": True},
    ],
    ids=str,
)
def test_what_needs_a_cache_is_refused(argument):
    """Arguments that only a cache can honor are errors, never silently ignored."""
    with pytest.raises(ArgumentError, match=rf"{next(iter(argument))}: only for caches, and the dataset is a Numbers"):
        FastLoader(Numbers(), **argument)


def test_a_list_of_strings_is_a_dataset():
    """As for DataLoader; only what looks like caches is taken for them."""
    words = ["one", "two", "three"]
    assert list(FastLoader(words, 2)) == list(DataLoader(words, 2)) == [["one", "two"], ["three"]]
    assert list(FastLoader(ConcatDataset([words, words]), 6)) == [words * 2]
    assert list(FastLoader([], 2)) == []


class Marked(MemoryCache):
    """A cache whose items are its user's."""

    def __getitem__(self, i: int) -> Any:
        return torch.full((2,), i)


class Negated(Subset):
    """A part of a cache whose items are its user's."""

    def __getitem__(self, i: int) -> Any:
        return -self.dataset.image_ids[self.indices[i]]

    def __getitems__(self, positions: list[int]) -> list[Any]:
        return [self[i] for i in positions]


class Together(Subset):
    """One that gives the items of a batch together, others than singly."""

    def __getitems__(self, positions: list[int]) -> list[Any]:
        return [self.indices[i] for i in positions]


def test_items_of_ones_own_are_kept():
    """A subclass of Cache or of Subset that overrides `__getitem__` is loaded as any dataset, nested or not."""
    assert next(iter(FastLoader(Marked(3), 3))).tolist() == [[0, 0], [1, 1], [2, 2]]
    assert next(iter(FastLoader(Subset(Marked(3), [2, 1]), 2))).tolist() == [[2, 2], [1, 1]]
    ids = CACHE.image_ids
    assert next(iter(FastLoader(Negated(CACHE, [2, 1]), 2))).tolist() == [-ids[2], -ids[1]]
    assert next(iter(FastLoader(Subset(Negated(CACHE, [2, 1]), [1]), 1))).tolist() == [-ids[1]]
    assert next(iter(FastLoader(Together(CACHE, [2, 1]), 2))).tolist() == [2, 1]
    assert len(next(iter(FastLoader(Marked(3) + Marked(3), 6)))) == 6


def test_it_is_generic():
    """`FastLoader[int]` is what `DataLoader[int]` is."""
    assert FastLoader[int].__origin__ is FastLoader and DataLoader[int].__origin__ is DataLoader
    assert next(iter(FastLoader[int]([1, 2], 2))).tolist() == [1, 2]


if __name__ == "__main__":
    compare_without_torchdata()
    print("alike")
