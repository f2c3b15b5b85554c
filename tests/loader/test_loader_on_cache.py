"""FastLoader on caches built from files."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastload import Cache, CenterAlign, FastLoader, RandomFlip, ShortestEdge, TopLeftAlign
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.sources.detect import find_datasets
from tests.support.loaders import seeded


@pytest.fixture(scope="session")
def coco_mini_cache(coco_mini, tmp_path_factory) -> Path:
    """The cache of coco-mini's val split."""
    path = tmp_path_factory.mktemp("coco-mini") / "val2017.lmdb"
    build_cache(next(d for d in find_datasets(coco_mini) if "val" in d.split).load(), path, BuildOptions(workers=2))
    return path


def checksums(path: Path, queue=None) -> list[int]:
    """What a loader opened by path gives: the sum of each batch."""
    data = FastLoader(path, 4, shuffle=True, num_workers=2, generator=seeded(), transforms=[RandomFlip()])
    sums = [int(images.long().sum()) for images, _ in data]
    if queue is not None:
        queue.put(sums)
    return sums


def test_a_path_a_cache_and_a_spawned_process_give_the_same(small_cache):
    """A path in str or Path, an open Cache, and a process begun afresh all load the same batches."""
    expected = checksums(small_cache)
    assert checksums(str(small_cache)) == checksums(Cache(small_cache)) == expected
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=checksums, args=(small_cache, queue))
    process.start()
    assert queue.get(timeout=120) == expected
    process.join()


def test_annotations_are_those_of_the_source(coco_small, small_cache):
    """Dicts have COCO's own category ids, boxes, areas and crowds."""
    document = json.loads((coco_small / "annotations/instances_train.json").read_text())
    targets = [target for _, targets in FastLoader(small_cache, 5) for target in targets]
    assert [target["image_id"] for target in targets] == [image["id"] for image in document["images"]]
    for target in targets:
        mine = [a for a in document["annotations"] if a["image_id"] == target["image_id"]]
        xywh = torch.cat([target["boxes"][:, :2], target["boxes"][:, 2:] - target["boxes"][:, :2]], 1)
        assert xywh.tolist() == [a["bbox"] for a in mine]
        assert target["labels"].tolist() == [a["category_id"] for a in mine]
        assert target["iscrowd"].tolist() == [a.get("iscrowd", 0) for a in mine]


def test_pixels_are_pillows(coco_mini, coco_mini_cache):
    """On real images the batch is what Pillow decodes and resizes, to a level on average, and boxes map back."""
    cache = Cache(coco_mini_cache)
    data = FastLoader(cache, 4, num_workers=2, transforms=[ShortestEdge(320, 480)], collate_fn=CenterAlign())
    for (images, targets), _ in zip(data, range(6), strict=False):
        for i, (height, width) in enumerate(targets.size.tolist()):
            x, y = targets.offset[i].int().tolist()
            k = int(np.flatnonzero(cache.image_ids == int(targets.image_id[i]))[0])
            picture = Image.open(coco_mini / "val2017" / Path(cache.name(k)).name).convert("RGB")
            expected = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.int16)
            shown = images[i, :, y : y + height, x : x + width].permute(1, 2, 0).numpy()
            assert np.abs(shown - expected).mean() < 1
            first, last = cache.box_offsets[k : k + 2]
            back = targets.to_original(targets[i]["boxes"], i)
            np.testing.assert_allclose(back, cache.boxes[first:last], atol=0.02)


def test_grouping_saves_padding_on_real_shapes(coco_mini_cache):
    """At short edge 512 and at most 736, over nine tenths of a grouped batch is image; of a plain one, two thirds."""

    def share(group: bool) -> float:
        data = FastLoader(
            coco_mini_cache,
            16,
            shuffle=True,
            drop_last=True,
            num_workers=2,
            transforms=[ShortestEdge(512, 736)],
            collate_fn=TopLeftAlign(),
            group_by_aspect=group,
            generator=seeded(),
        )
        useful, total = zip(*((int(t.size.prod(1).sum()), images[:, 0].numel()) for images, t in data), strict=True)
        return sum(useful) / sum(total)

    assert share(True) > 0.88 and share(False) < 0.72
