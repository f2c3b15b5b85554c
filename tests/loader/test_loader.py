"""FastLoader on a cache: the same batches whatever the threads, exact epochs, any collation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Subset
from torch.utils.data.distributed import DistributedSampler

from fastload import (
    Batch,
    CenterAlign,
    FastLoader,
    Mosaic,
    RandomAlign,
    RandomFlip,
    TopLeftAlign,
    Transform,
)
from fastload.device import Feed
from fastload.errors import ArgumentError
from tests.support.loaders import CACHE, IDS, RANDOM, assert_equal, copies, ids, loader, seeded
from tests.support.memory_cache import MemoryCache


@pytest.mark.parametrize("settings", [{"num_workers": 1}, {"num_workers": 2}, {"num_workers": 4, "prefetch_factor": 7}])
def test_threads_and_depth_do_not_change_a_bit(settings):
    """Equal seeds give equal batches over two epochs, whatever num_workers and prefetch_factor are."""
    common = {"shuffle": True, "transforms": [Mosaic(64), *RANDOM], "collate_fn": RandomAlign()}
    plain, threaded = loader(**common), loader(**common, **settings)
    for _ in range(2):
        assert_equal(copies(plain), copies(threaded))


def test_the_reference_engine_agrees():
    """engine="reference" executes the same plans, to within rounding."""
    common = {"shuffle": True, "transforms": RANDOM, "collate_fn": RandomAlign()}
    for (images, boxes), (expected, same) in zip(
        copies(loader(**common)), copies(loader(**common, engine="reference")), strict=True
    ):
        assert torch.equal(boxes, same)
        assert (images.int() - expected.int()).abs().max() <= 2


def test_batches_are_as_documented():
    """Images are uint8 (B, 3, H, W) in channels_last memory, without a copy; targets belong to them."""
    batch = next(iter(loader(collate_fn=TopLeftAlign(divisor=16))))
    assert isinstance(batch, Batch) and batch.images.dtype == torch.uint8 and batch.images.shape == (4, 3, 64, 112)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets.image_id.tolist() == IDS[:4]
    assert batch.targets.size.tolist() == CACHE.sizes[:4, ::-1].tolist()
    assert (batch.images[0, :, 41:, :] == torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]).all()


def test_the_seed_comes_from_the_generator_or_torch():
    """A generator or torch.manual_seed decides the batches; epochs differ from one another."""
    first, again, other = (loader(shuffle=True, generator=seeded(seed)) for seed in (1, 1, 2))
    one = ids(first)
    assert one == ids(again) and one != ids(other) and one != ids(first)
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(ids(FastLoader(CACHE, 4, shuffle=True)))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("group", [None, True, False])
def test_an_epoch_has_every_image_once(drop_last, group):
    """Shuffled epochs are exact, of the promised length, and each in another order."""
    data = loader(shuffle=True, drop_last=drop_last, group_by_aspect=group, num_workers=2)
    for _ in range(3):
        batches = ids(data)
        assert len(batches) == len(data) == (9 if drop_last else 10)
        seen = [i for batch in batches for i in batch]
        assert len(set(seen)) == len(seen) == (36 if drop_last else 37)


def test_grouping_is_on_when_shuffling_and_saves_padding():
    """Shuffled batches hold similar shapes unless told otherwise; sequential ones stay in order."""
    area = [
        sum(batch.images.numel() for batch in FastLoader(MemoryCache(320), 8, generator=seeded(), **settings))
        for settings in ({"shuffle": True}, {"shuffle": True, "group_by_aspect": False})
    ]
    assert area[0] < 0.8 * area[1]
    assert ids(loader()) == [IDS[i : i + 4] for i in range(0, 37, 4)]


def test_set_epoch_decides_the_order():
    """An epoch's batches depend on its number, not on what was iterated before."""
    data = loader(shuffle=True, transforms=RANDOM)
    epochs = [copies(data) for _ in range(3)]
    data.set_epoch(1)
    assert_equal(copies(data), epochs[1])
    assert_equal(copies(data), epochs[2])
    data.set_epoch(0)
    assert_equal(copies(data), epochs[0])


@pytest.mark.parametrize("through", ["loader", "sampler"])
def test_distributed_ranks_share_an_epoch(through):
    """Over three ranks each image comes once (padding aside), reshuffled by set_epoch on the loader or the sampler."""
    ranks = [loader(sampler=DistributedSampler(CACHE, 3, rank, shuffle=True)) for rank in range(3)]
    orders = []
    for epoch in range(2):
        for data in ranks:
            (data if through == "loader" else data.sampler).set_epoch(epoch)
        seen = [i for data in ranks for batch in ids(data) for i in batch]
        assert len(seen) == 39 and set(seen) == set(IDS)
        orders.append(seen)
    assert orders[0] != orders[1]
    assert all(len(data) == len(ids(data)) for data in ranks)


def test_subsets_and_batch_samplers():
    """Nested subsets, samplers and batch samplers select what they say, as under DataLoader."""
    nested = Subset(Subset(CACHE, range(10, 30)), [3, 0, 5])
    assert ids(loader(nested, 2)) == [[IDS[13], IDS[10]], [IDS[15]]]
    assert ids(loader(CACHE.subset([7, 8]), 2)) == [[IDS[7], IDS[8]]]
    chosen = FastLoader(CACHE, batch_sampler=BatchSampler([3, 1, 4, 1, 5], 2, False), num_workers=2)
    assert ids(chosen) == [[IDS[3], IDS[1]], [IDS[4], IDS[1]], [IDS[5]]] and len(chosen) == 3
    assert ids(loader(sampler=[6, 2], batch_size=3)) == [[IDS[6], IDS[2]]]


def test_without_batch_size_single_samples_come():
    """batch_size=None hands out (image, target) one by one, unpadded, as DataLoader does."""
    data = FastLoader(CACHE, None, shuffle=False)
    samples = list(data)
    assert len(samples) == len(data) == 37
    image, target = samples[3]
    assert image.shape == (3, 31, 97) and target["image_id"] == IDS[3] and target["boxes"].shape == (3, 4)
    assert list(FastLoader(CACHE, None, collate_fn=lambda sample: sample[1]["image_id"])) == IDS
    with pytest.raises(ArgumentError, match="nothing to align"):
        FastLoader(CACHE, None, collate_fn=CenterAlign())


def test_a_plain_collate_fn_gets_unpadded_samples():
    """Any function of a list of (image, target) pairs works, with torchvision-style dicts."""
    seen = []
    data = loader(collate_fn=lambda samples: seen.extend(samples) or len(samples), num_workers=2, prefetch_factor=3)
    assert list(data) == [4] * 9 + [1]
    for (image, target), size, image_id in zip(seen, CACHE.sizes, IDS, strict=True):
        assert image.shape == (3, size[1], size[0]) and target["image_id"] == image_id
    whole = next(iter(loader(batch_size=1, collate_fn=TopLeftAlign(1)))).images
    assert torch.equal(seen[0][0], whole[0])


def test_a_python_function_in_transforms_changes_samples():
    """Functions run after the transforms, on images and dicts; the collator then aligns what they return."""

    def crop_and_blacken(image, target):
        target["boxes"] = target["boxes"].clamp(max=20)
        target["note"] = "cropped"
        return image[:, :20, :20] * 0, target

    data = loader(transforms=[RandomFlip(1.0), crop_and_blacken], collate_fn=CenterAlign(fill=9), num_workers=2)
    images, targets = next(iter(data))
    assert images.shape == (4, 3, 32, 32) and (images[:, :, 6:26, 6:26] == 0).all() and (images[:, :, :6] == 9).all()
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert targets[1]["note"] == "cropped" and targets[3]["offset"].tolist() == [6, 6]
    common = {"transforms": [crop_and_blacken], "collate_fn": RandomAlign(64), "shuffle": True}
    first, again = ([t["offset"] for _, targets in loader(**common) for t in targets] for _ in range(2))
    assert torch.equal(torch.stack(first), torch.stack(again))


class Halve(Transform):
    """A user's own transform, with its own chance."""

    def __call__(self, plan, rng, images):
        plan.resize(np.maximum(plan.size // 2, 1))
        plan.flip_horizontally(rng.random(len(plan.size)) < 0.5)


def test_a_transform_of_ones_own():
    """A user's class edits the plan; boxes follow, and its chance is repeatable."""
    first, again = (loader(transforms=[Halve()], num_workers=n) for n in (0, 2))
    assert_equal(copies(first), copies(again))
    targets = next(iter(first)).targets
    assert targets.size.tolist() == (CACHE.sizes[:4, ::-1] // 2).tolist()
    back = targets.to_original(targets[3]["boxes"], 3)
    np.testing.assert_allclose(back, CACHE.boxes[CACHE.box_offsets[3] : CACHE.box_offsets[4]], atol=1e-3)


def test_a_torchvision_style_model_runs_unchanged():
    """model(list(images), list(targets)) sees what torchvision's detectors check for."""

    def model(images, targets):
        for image, target in zip(images, targets, strict=True):
            assert image.ndim == 3 and target["boxes"].shape[-1] == 4
            boxes = target["boxes"]
            assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.shape[0] == target["labels"].shape[0]
        return sum((image.float() / 255).mean() for image in images)

    for images, targets in loader(shuffle=True, transforms=RANDOM):
        assert model(list(images), list(targets)) > 0


def test_it_is_a_dataloader():
    """Code that asks gets the answers of a DataLoader."""
    data = loader(num_workers=2, drop_last=True)
    assert isinstance(data, DataLoader) and data.dataset is CACHE and data.batch_size == 4 and data.drop_last
    assert isinstance(data.collate_fn, TopLeftAlign) and data.num_workers == 2 and len(data.sampler) == 37
    batches = iter(data)
    next(batches)
    assert len(batches) == len(data) == 9  # as DataLoader's iterators


def test_attributes_that_are_set_later_are_honored():
    """A `collate_fn` and `transforms` given to the loader act from its next iteration on, as in DataLoader."""
    data = loader(num_workers=2)
    running = iter(data)
    next(running)
    data.collate_fn = list
    assert isinstance(next(running), Batch) and [len(samples) for samples in data] == [4] * 9 + [1]
    data.collate_fn = CenterAlign(fill=3)
    data.transforms = [RandomFlip(1.0)]
    assert_equal(copies(data), copies(loader(collate_fn=CenterAlign(fill=3), transforms=[RandomFlip(1.0)])))
    data.transforms = []
    data.collate_fn = TopLeftAlign()
    assert_equal(copies(data), copies(loader()))
    data.dtype, data.memory_format, data.num_workers = torch.float32, torch.contiguous_format, 0
    expected = loader(dtype=torch.float32, memory_format=torch.contiguous_format)
    assert next(iter(data)).images.stride() == next(iter(expected)).images.stride()
    assert_equal(copies(data), copies(expected))
    data.dtype, data.mean = None, (1, 2, 3)
    assert_equal(copies(data), copies(loader(mean=(1, 2, 3))))
    data.transforms = ["flip"]
    with pytest.raises(ArgumentError, match="neither a fastload Transform nor a function"):
        iter(data)


@pytest.mark.parametrize("name", ["group_by_aspect", "skip_empty", "batch_size", "sampler"])
def test_what_the_order_depends_on_cannot_be_set_later(name):
    """Such an attribute is refused, as DataLoader refuses its own."""
    with pytest.raises(ValueError, match=name):
        setattr(loader(), name, True)


def test_a_function_set_later_gets_images_of_the_dtype(monkeypatch):
    """With a device, an engine makes levels for fused batches and the dtype for functions: it is opened anew."""
    monkeypatch.setattr(FastLoader, "_make_feed", lambda data, pixels: Feed("cpu", pixels))
    data = loader(dtype=torch.float32, num_workers=2)
    assert next(iter(data)).images.dtype == torch.float32 and data._engine[0][1].dtype == torch.uint8
    data.collate_fn = list
    (image, _), *_ = next(iter(data))
    assert image.dtype == torch.float32 and image.max() <= 1 and data._engine[0][1].dtype == torch.float32
    data.collate_fn, data.transforms = TopLeftAlign(), [lambda image, target: (image, target)]
    assert next(iter(data))[0].dtype == torch.float32
    data.transforms = []
    assert_equal(copies(data), copies(loader(dtype=torch.float32)))
    assert data._engine[0][1].dtype == torch.uint8
