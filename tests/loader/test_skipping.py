"""skip_empty and skip_crowd: the images and boxes that torchvision's scripts train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DistributedSampler, Subset

from fastload import Cache, FastLoader, Mosaic
from fastload.cache.format.layout import Encoding
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.sources.detect import find_datasets
from tests.support.datasets import box, many_jpegs, write_coco
from tests.support.loaders import CACHE, RANDOM, assert_equal, copies, ids, loader

BOXES = [
    box(1, 20, [3, 3, 1, 30]),  # no wider than a pixel
    box(2, 30, [3, 3, 20, 1]),
    box(3, 30, [3.3, 3.3, 1.5, 1.5], 18),
    box(4, 40, [5, 5, 20, 20], iscrowd=1),
    box(5, 50, [0, 0, 1, 1]),
    box(6, 60, [41, 23, 10, 11]),
    box(7, 60, [4, 2, 10, 11], iscrowd=1),
]


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    """Seven images: the first and the last have no box."""
    return write_coco(tmp_path_factory.mktemp("skipping"), many_jpegs(7), BOXES)


@pytest.fixture(scope="module")
def cache(coco, tmp_path_factory) -> Cache:
    path = tmp_path_factory.mktemp("skipping-cache") / "cache.lmdb"
    build_cache(find_datasets(coco)[0].load(), path, BuildOptions(Encoding.ORIGINAL, workers=1))
    return Cache(path)


def usable(annotations: list[dict[str, Any]]) -> bool:
    """torchvision's rule, in its reference scripts: a box that is wider and higher than a pixel."""
    return any(all(side > 1 for side in each["bbox"][2:]) for each in annotations)


def seen(data) -> list[int]:
    return [i for batch in ids(data) for i in batch]


def test_skip_empty_is_torchvisions_rule(coco, cache):
    """The images left are those that pycocotools and torchvision's scripts leave; a crowd's box counts there too."""
    COCO = pytest.importorskip("pycocotools.coco").COCO
    api = COCO(coco / "annotations/instances_train.json")
    expected = [i for i in api.getImgIds() if usable(api.loadAnns(api.getAnnIds(imgIds=i, iscrowd=None)))]
    data = FastLoader(cache, 2, skip_empty=True)
    assert seen(data) == expected == [30, 40, 60] and len(data) == 2 and len(data.dataset) == 3
    assert seen(FastLoader(cache.path, 2, skip_empty=True)) == expected
    assert seen(FastLoader(cache, 2)) == api.getImgIds()


def test_skip_crowd_leaves_out_what_surrounds_crowds(coco, cache):
    """Boxes are those of annotations without iscrowd, in tensors and in dicts; the images are all still there."""
    annotations = json.loads((coco / "annotations/instances_train.json").read_text())["annotations"]
    number = {10 * i: sum(not a.get("iscrowd") for a in annotations if a["image_id"] == 10 * i) for i in range(1, 8)}
    images, targets = next(iter(FastLoader(cache, 7, skip_crowd=True)))
    assert len(images) == 7 and dict(zip(targets.image_id.tolist(), targets.num_boxes, strict=True)) == number
    assert not targets.crowd.any() and not any(target["iscrowd"].any() for target in targets)
    assert [len(target["boxes"]) for target in targets] == list(number.values())
    both = FastLoader(cache, 3, skip_crowd=True, skip_empty=True)
    ((_, targets),) = both
    assert targets.image_id.tolist() == [30, 40, 60] and targets.num_boxes == (2, 0, 1)


WAYS = [{}, {"collate_fn": list}, {"transforms": [Mosaic(64)]}, {"batch_size": None}]


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_skip_crowd_reaches_every_way_of_making_a_batch(settings):
    """Fused, by functions, mosaics and single images: the other boxes stay as they were."""

    def targets(**more) -> list:
        batches = list(loader(**settings, **more))
        if "collate_fn" in settings:
            return [target for samples in batches for _, target in samples]
        if "batch_size" in settings:
            return [target for _, target in batches]
        return [target for _, targets in batches for target in targets]

    everything, without = targets(), targets(skip_crowd=True)
    assert any(t["iscrowd"].any() for t in everything)
    for target, fewer in zip(everything, without, strict=True):
        kept = target["iscrowd"] == 0
        assert torch.equal(target["boxes"][kept], fewer["boxes"]) and torch.equal(
            target["labels"][kept], fewer["labels"]
        )


def test_skip_empty_within_subsets():
    """Of a part, nested or not, what has a box; its order, and repeats, are kept."""
    has = {int(i) for i in CACHE.image_ids[CACHE.without_empty().indices]}
    for part in (CACHE.subset([9, 4, 8, 5, 4, 1]), Subset(CACHE.subset(range(5, 30)), [20, 3, 3, 4, 7])):
        everything = seen(loader(part))
        assert any(i not in has for i in everything)
        assert seen(loader(part, skip_empty=True)) == [i for i in everything if i in has]
    assert len(loader(CACHE.subset([0, 4]), skip_empty=True)) == 0


def test_skip_empty_is_the_loader_of_what_is_left():
    """Shuffled, with ranks and resumed: exactly a loader of `cache.without_empty()`."""
    common = {"shuffle": True, "transforms": RANDOM, "num_workers": 2}
    data = loader(skip_empty=True, **common)
    expected = loader(CACHE.without_empty(), **common)
    assert_equal(copies(data), copies(expected))
    assert data.state_dict() == expected.state_dict()
    again = loader(skip_empty=True, **common)
    again.load_state_dict(expected.state_dict())
    assert_equal(copies(again), copies(expected))


def test_where_nothing_is_empty_the_dataset_stays():
    """The same object, with any sampler."""
    part = CACHE.subset([1, 2, 3, 5])
    data = loader(part, sampler=[3, 0], skip_empty=True)
    assert data.dataset is part and seen(data) == [CACHE.image_ids[5], CACHE.image_ids[1]]


def test_a_sampler_gives_positions_of_what_is_left():
    """A sampler or batch sampler is of `loader.dataset`, as in torchvision's script; one of all images is noticed."""
    left = CACHE.without_empty()
    expected = CACHE.image_ids[left.indices].tolist()
    sampler = DistributedSampler(left, 1, 0, shuffle=False)
    assert seen(loader(sampler=sampler, skip_empty=True)) == expected
    assert seen(loader(sampler=[2, 0], skip_empty=True)) == [expected[2], expected[0]]
    assert seen(FastLoader(CACHE, batch_sampler=[[1, 3]], skip_empty=True)) == [expected[1], expected[3]]
    with pytest.raises(IndexError, match=f"asks for image 27 of a dataset of {len(left)} images"):
        list(loader(sampler=range(37), skip_empty=True))
