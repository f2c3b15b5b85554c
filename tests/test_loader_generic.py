"""FastLoader on any other dataset: DataLoader's behaviour, with fastload's collators."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from fastload import CenterAlign, FastLoader, PlanError, RandomAlign, RandomFlip


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


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"batch_size": 3, "shuffle": True, "drop_last": True},
        {"batch_size": None},
        {"batch_size": 3, "num_workers": 2, "prefetch_factor": 3, "persistent_workers": True, "shuffle": True},
        {"batch_sampler": [[3, 1], [4, 1, 5]], "num_workers": 1},
        {"batch_size": 4, "sampler": [5, 3, 5, 1, 9], "multiprocessing_context": "fork", "num_workers": 1},
        {"batch_size": 2, "collate_fn": list, "timeout": 60, "num_workers": 1, "in_order": False},
    ],
)
def test_batches_equal_dataloaders(arguments):
    """Item for item what DataLoader gives, chance included."""
    assert batches(FastLoader, Numbers(), **arguments) == batches(DataLoader, Numbers(), **arguments)


def test_streams_work():
    """Iterable datasets pass through."""
    assert list(FastLoader(Stream(), 3))[2].tolist() == list(DataLoader(Stream(), 3))[2].tolist() == [6]


def test_collators_work_in_worker_processes():
    """A fastload collator as DataLoader's collate_fn gives the same in FastLoader, workers initialised as asked."""
    arguments = {"batch_size": 3, "num_workers": 2, "worker_init_fn": mark, "collate_fn": RandomAlign(grid=4)}
    ours, theirs = batches(FastLoader, Pictures(), **arguments), batches(DataLoader, Pictures(), **arguments)
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
    [{"transforms": [RandomFlip()]}, {"group_by_aspect": True}, {"on_error": "skip"}, {"engine": "reference"}],
)
def test_what_needs_a_cache_is_refused(argument):
    """Arguments that only a cache can honour are errors, never silently ignored."""
    with pytest.raises(PlanError, match=rf"{next(iter(argument))}: only for caches, and the dataset is a Numbers"):
        FastLoader(Numbers(), **argument)
