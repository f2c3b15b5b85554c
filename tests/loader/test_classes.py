"""Batches of classified images: their classes, the soft labels of mixed ones, and that resuming keeps both."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, DistributedSampler, default_collate

from fastload import (
    ArgumentError,
    BatchCutMix,
    BatchMixUp,
    ByEpoch,
    Cache,
    CacheError,
    CenterCrop,
    ClassBatch,
    CutMix,
    FastLoader,
    GridMosaic,
    OneOf,
    PlanError,
    RandAugment,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
    Resize,
    ShortestEdge,
    TopLeftAlign,
)
from tests.loader.test_loader_state import state_after
from tests.support.class_cache import LEVELS, class_cache
from tests.support.loaders import CACHE, loader, seeded

CLASSES = class_cache(37)
EITHER = OneOf([BatchMixUp(alpha=0.8, p=1), BatchCutMix(p=1)], per_batch=True)
TRAIN = [RandomResizedCrop(24), RandomFlip(), RandAugment(), EITHER]


def classes(cache=CLASSES, batch_size=4, kind="class_ids", **arguments) -> FastLoader:
    return loader(cache, batch_size, targets=kind, **arguments)


def copied(batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images.clone(), targets) for images, targets in batches]


def assert_same(first, second) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert all(map(torch.equal, one, other))


def shown_class(images: torch.Tensor) -> torch.Tensor:
    """The class (B) of whole images, by their gray."""
    return (images[:, 0, 5, 5, None] - torch.from_numpy(LEVELS)).abs().argmin(1)


def test_batches_are_images_and_class_ids():
    """Classes are positions in the categories, whatever their ids; images are not padded to a multiple of 32."""
    batches = list(classes(shuffle=True, transforms=[RandomResizedCrop(21), RandomFlip()]))
    assert len(batches) == 10 and sum(len(images) for images, _ in batches) == 37
    for batch in batches:
        images, class_ids = batch
        assert isinstance(batch, ClassBatch) and images.shape[1:] == (3, 21, 21)
        assert class_ids.dtype == torch.int64 and torch.equal(class_ids, shown_class(images))
    assert CLASSES.class_ids.tolist() == [i % 4 for i in range(37)]
    assert [CLASSES.categories[k].name for k in CLASSES.class_ids[:4]] == ["ant", "bee", "cat", "dog"]


def test_batches_are_not_grouped_by_shape():
    """Crops need no padding, so the order stays random; with objects, and where it is asked for, it is grouped."""
    assert not classes(shuffle=True)._order.grouped
    assert classes(shuffle=True, group_by_aspect=True)._order.grouped and loader(shuffle=True)._order.grouped


@pytest.mark.parametrize("function_workers", [0, 2])
def test_functions_and_collate_functions_get_the_class(function_workers):
    """As an int, as ImageFolder gives it; a Collator after functions makes the same batches."""
    seen = []

    def function(image, target):
        seen.append(target)
        return image, target

    arguments = {"transforms": [Resize(20), function], "function_workers": function_workers}
    plain = copied(classes(transforms=[Resize(20)]))
    assert_same(copied(classes(**arguments, collate_fn=default_collate)), plain)
    batches = list(classes(**arguments, collate_fn=TopLeftAlign(1)))
    assert isinstance(batches[0], ClassBatch)
    assert_same(copied(batches), plain)
    assert {type(target) for target in seen} == {int}
    assert [target for _, target in classes(batch_size=None)] == [i % 4 for i in range(37)]
    soft = classes(kind="soft_labels", **arguments, collate_fn=default_collate)
    assert_same([targets for _, targets in soft], [targets for _, targets in classes(kind="soft_labels")])


def test_soft_labels_without_mixing_are_one_hot():
    """Of any transforms: turned, cropped and erased images keep their class."""
    steps = [RandomResizedCrop(24), RandAugment(), RandomErasing(p=1)]
    hard, soft = (list(classes(kind=kind, transforms=steps)) for kind in ("class_ids", "soft_labels"))
    for (images, class_ids), (same, labels) in zip(hard, soft, strict=True):
        assert torch.equal(images, same) and torch.equal(labels, one_hot(class_ids, 4).float())


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("mix", [BatchMixUp(alpha=1, p=1), BatchMixUp(p=0.5), BatchCutMix(p=1), CutMix(p=1), EITHER])
def test_soft_labels_are_what_the_pixels_show(mix, engine):
    """The mean gray of a mixed image is that of its classes, by their shares."""
    data = classes(batch_size=6, kind="soft_labels", transforms=[Resize(48), mix], engine=engine)
    mixed = 0
    for images, labels in data:
        assert labels.dtype == torch.float32 and labels.shape == (len(images), 4)
        torch.testing.assert_close(labels.sum(1), torch.ones(len(images)))
        gray = images.float().mean((1, 2, 3))
        torch.testing.assert_close(labels @ torch.from_numpy(LEVELS).float(), gray, atol=1, rtol=0)
        mixed += int((labels.max(1).values < 0.99).sum())
    assert mixed > 8


@pytest.mark.parametrize("share", [0.0, 0.123, 0.5, 0.9, 1.0])
def test_batch_mix_up_has_the_labels_of_torchvision(share):
    """The class of an image has lambda, that of the image before it, and of the last before the first, the rest."""

    class Fixed(BatchMixUp):
        def _draw(self, rng, count):
            return np.full(count, share)

    _, labels = next(iter(classes(batch_size=5, kind="soft_labels", transforms=[Resize(8), Fixed(p=1)])))
    whole = one_hot(torch.arange(5) % 4, 4).float()
    torch.testing.assert_close(labels, whole.roll(1, 0).mul(1 - share).add(whole.mul(share)))


def test_batch_cut_mix_has_the_rectangle_and_labels_of_torchvision():
    """One rectangle for a batch, around a whole pixel and cut at the edges; lambda is the area that is left."""
    rng, side = np.random.default_rng(3), (48, 36)  # height, width
    for _ in range(30):
        share, center = rng.beta(1, 1), rng.random(2)

        class Fixed(BatchCutMix):
            def __call__(self, plan, rng, images, share=share, center=center):
                self.cut(plan, np.full(len(plan.size), share), np.tile(center, (len(plan.size), 1)))

        images, labels = next(iter(classes(batch_size=5, kind="soft_labels", transforms=[Resize(side), Fixed()])))
        x, y = int(center[0] * 36), int(center[1] * 48)
        half = 0.5 * (1 - share) ** 0.5
        x1, y1 = max(x - int(half * 36), 0), max(y - int(half * 48), 0)
        x2, y2 = min(x + int(half * 36), 36), min(y + int(half * 48), 48)
        whole = one_hot(torch.arange(5) % 4, 4).float()
        expected = torch.from_numpy(LEVELS)[torch.arange(5) % 4][:, None, None].repeat(1, 48, 36)
        if x2 > x1 and y2 > y1:
            expected[:, y1:y2, x1:x2] = expected.roll(1, 0)[:, y1:y2, x1:x2].clone()
        left = 1 - (x2 - x1) * (y2 - y1) / (36 * 48)
        torch.testing.assert_close(labels, whole.roll(1, 0).mul(1 - left).add(whole.mul(left)))
        assert (images[:, 1] - expected).abs().max() <= 1


def test_a_mosaic_counts_its_images_equally():
    """Whatever their sizes."""
    labels = torch.cat([targets for _, targets in classes(kind="soft_labels", transforms=[GridMosaic(12)])])
    assert torch.equal(labels * 4, (labels * 4).round()) and torch.equal(labels.sum(1), torch.ones(37))
    own = labels[torch.arange(37), torch.arange(37) % 4]
    assert (own > 0).all() and (own < 0.5).any()


def test_mixed_images_have_no_single_class():
    """The error says what to write; batches that are not mixed come before it."""
    with pytest.raises(PlanError, match='targets="soft_labels"'):
        list(classes(transforms=[Resize(20), BatchMixUp(p=1)]))
    alone = classes(batch_size=1, transforms=[Resize(20), BatchMixUp(p=1)])
    assert sum(len(ids) for _, ids in alone) == 37


def test_a_skipped_image_adds_nothing_to_the_loss():
    """It has the class -100, which cross_entropy ignores, or a soft label of zeros; so has one mixed with it."""
    damaged = class_cache(12, damaged=(5,))
    hard = classes(damaged, 6, transforms=[Resize(20)], on_error="skip")
    with pytest.warns(UserWarning, match="skipped"):
        ids = [class_ids for _, class_ids in hard]
    assert torch.cat(ids).tolist() == [0, 1, 2, 3, 0, -100, 2, 3, 0, 1, 2, 3] and list(hard.skipped) == [50]
    loss = cross_entropy(torch.randn(6, 4), ids[0], reduction="none")
    assert loss[5] == 0 and (loss[:5] > 0).all()
    with pytest.warns(UserWarning, match="skipped"):
        soft = list(classes(damaged, 6, "soft_labels", transforms=[Resize(20), BatchMixUp(p=1)], on_error="skip"))
    assert soft[0].targets.sum(1).round().tolist() == [0, 1, 1, 1, 1, 0]  # image 5 is before image 0
    assert soft[1].targets.sum(1).round().tolist() == [1] * 6


@pytest.mark.parametrize("step", range(21))
@pytest.mark.parametrize(("kind", "steps"), [("class_ids", TRAIN[:3]), ("soft_labels", TRAIN)])
def test_resuming_after_any_batch_gives_the_rest_of_the_run(step, kind, steps):
    """Images and classes, bit for bit, with other threads; sizes by epoch included."""
    arguments = {"kind": kind, "shuffle": True, "transforms": [ByEpoch({0: Resize(30), 1: Resize(40)}), *steps]}
    whole = classes(**arguments)
    expected = (copied(whole) + copied(whole))[step:]
    state = state_after(classes(**arguments), step)
    resumed = classes(**arguments, num_workers=2, prefetch_factor=4, generator=seeded(99))
    resumed.load_state_dict(state)
    found = [batch for _ in range(state["epoch"], 2) for batch in copied(resumed)]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert all(map(torch.equal, one, other))


def test_ranks_share_an_epoch_and_resume_on_others():
    """Every image comes once with its own class, also if two ranks go on with what three began."""
    cache = class_cache(36)

    def ranks(world: int) -> list[FastLoader]:
        samplers = [DistributedSampler(cache, world, rank, seed=5) for rank in range(world)]
        return [classes(cache, 3, sampler=each, transforms=[Resize(16)]) for each in samplers]

    began = ranks(3)
    seen = [batch for data in began for batch in islice(data, 2)]
    state = began[0].state_dict()
    for data in ranks(2):
        data.load_state_dict(state)
        seen += list(data)
    class_ids = torch.cat([targets for _, targets in seen])
    assert torch.equal(class_ids, torch.cat([shown_class(images) for images, _ in seen]))
    assert class_ids.bincount().tolist() == [9, 9, 9, 9]


def test_sizes_grow_with_the_epoch():
    """A crop by epoch, and evaluation as torchvision does it: a short edge, then the middle."""
    sizes = ByEpoch({0: RandomResizedCrop(16), 2: RandomResizedCrop((24, 32))})
    data = classes(transforms=[sizes], shuffle=True)
    assert [next(iter(data)).images.shape[-2:] for _ in range(4)] == [(16, 16), (16, 16), (24, 32), (24, 32)]
    data.set_epoch(1)
    assert next(iter(data)).images.shape[-1] == 16
    images, class_ids = next(iter(classes(transforms=[ShortestEdge(40, round_down=True), CenterCrop(32)])))
    assert images.shape == (4, 3, 32, 32) and torch.equal(class_ids, shown_class(images))


def test_subsets_and_several_caches():
    """Classes are those of the images shown, from any part of a list of caches."""
    both = Cache([class_cache(6), class_cache(5)], renumber=True)
    assert both.class_ids.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 0]
    (batch,) = classes(both.subset([9, 2, 6]), 3, transforms=[Resize(16)])
    assert batch.targets.tolist() == [3, 2, 0] == shown_class(batch.images).tolist()


@pytest.mark.parametrize("kind", ["class_ids", "soft_labels"])
def test_device_and_dtype(kind):
    """Images are converted as with objects, and classes come along; DataLoader's `pin_memory` is accepted."""
    data = classes(kind=kind, transforms=[Resize(16)], device="cpu", dtype=torch.float32)
    for (images, targets), (plain, same) in zip(data, classes(kind=kind, transforms=[Resize(16)]), strict=True):
        assert torch.equal(images, plain.float() / 255) and torch.equal(targets, same)


def test_a_feed_keeps_the_structure():
    """With a device that has streams, the batch is still a ClassBatch."""
    from fastload.device import Feed
    from fastload.pixel_format import PixelFormat

    batch = next(iter(classes(transforms=[Resize(16)])))
    feed = Feed("cpu", PixelFormat(torch.float32))
    sent = feed.receive(feed.send(batch))
    assert isinstance(sent, ClassBatch) and sent.images.dtype == torch.float32


def test_wrong_arguments_are_explained():
    """Caches without classes, classes that are none of the categories, masks, other datasets and other words."""
    with pytest.raises(CacheError, match="has no classes of images: build it from a folder for each class"):
        loader(targets="class_ids")
    with pytest.raises(CacheError, match=r"image 20 \(2.jpg\) of .* has the class 7, which is none"):
        classes(class_cache(4, wrong=(2,)))
    with pytest.raises(ArgumentError, match="targets is one of objects, class_ids, soft_labels, not 'classes'"):
        classes(kind="classes")
    with pytest.raises(ArgumentError, match="targets: only for caches"):
        FastLoader([1, 2, 3], targets="class_ids")
    with pytest.raises(ArgumentError, match=r"masks=True needs"):
        classes(masks=True)


def test_objects_stay_the_default():
    """A cache of classes still gives Targets, with `class_id` as the dataset numbers it, and works in DataLoader."""
    _, targets = next(iter(loader(CLASSES)))
    assert targets.image_columns["class_id"].tolist() == [2, 3, 11, 40] and targets[3]["class_id"] == 40
    assert CLASSES[2][1]["class_id"] == 11 and next(iter(DataLoader(CLASSES, batch_size=None)))[0].shape[0] == 3
    assert "mix_weight" not in loader(CACHE, transforms=[Resize(20), CutMix(p=1)]).__iter__().__next__().targets.columns
