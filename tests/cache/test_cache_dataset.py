"""Cache as a Dataset: torch's and torchvision's code takes it as any other."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, random_split

from fastload import Cache, CacheError, DecodeError, FastLoader, _core
from fastload.cache.format.layout import Encoding, Subsampling
from fastload.cache.format.record import pack_record
from fastload.cache.read.cache_file import CacheFile, as_positions
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.resize import Reduction
from fastload.sources.detect import find_datasets
from tests.cache.test_cache import write_cache
from tests.support.datasets import box, many_jpegs, write_coco
from tests.support.memory_cache import MemoryCache

CACHE = MemoryCache(24)
GOLDEN = Path(__file__).parents[1] / "data/golden/cache.lmdb"  # an image of each encoding


def same(ours, theirs) -> bool:
    """Whether two examples are equal, types included."""
    (image, target), (other, expected) = ours, theirs
    return torch.equal(image, other) and target.keys() == expected.keys() and all(
        torch.equal(value, expected[name]) and value.dtype == expected[name].dtype
        if isinstance(value, torch.Tensor)
        else type(value) is type(expected[name]) and value == expected[name]
        for name, value in target.items()
    )  # fmt: skip


@pytest.mark.parametrize("cache", [CACHE, Cache(GOLDEN)], ids=["memory", "golden"])
def test_an_example_is_what_the_loader_gives(cache):
    """Pixels and targets are bit for bit those of FastLoader without transforms, in every encoding."""
    pairs = list(FastLoader(cache, batch_size=None))
    assert len(pairs) == len(cache) and all(same(cache[i], pair) for i, pair in enumerate(pairs))
    image, target = cache[len(cache) - 1]
    assert image.dtype == torch.uint8 and image.shape == (3, *cache.sizes[-1][::-1].tolist())
    assert set(target["labels"].tolist()) <= {category.id for category in cache.categories}


def test_an_example_may_be_written_to():
    """Image and target are copies: a dataset's user may change them in place."""
    image, target = CACHE[3]
    before = CACHE.boxes.copy()
    image += 1
    target["boxes"] += 5
    assert np.array_equal(CACHE.boxes, before) and not torch.equal(CACHE[3][0], image)


def collate(examples: list) -> tuple:
    """torchvision's: lists of images and targets."""
    return tuple(zip(*examples, strict=True))


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_dataloader_takes_it(small_cache, context):
    """torch's own DataLoader loads a cache and a Subset of one, also in forked and spawned workers."""
    cache = Cache(small_cache)
    for dataset in (cache, cache.subset([5, 0, 3])):
        data = DataLoader(
            dataset, 2, collate_fn=collate, num_workers=0 if context is None else 2, multiprocessing_context=context
        )
        found = [pair for images, targets in data for pair in zip(images, targets, strict=True)]
        assert len(found) == len(dataset) and all(same(pair, dataset[i]) for i, pair in enumerate(found))


def test_torchvisions_conversion_to_coco():
    """What its reference scripts do to a loader's dataset gives COCO's annotations."""
    loader = DataLoader(CACHE.subset([1, 2, 3]), collate_fn=collate)
    dataset = loader.dataset
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    annotations, images = [], []
    for i in range(len(dataset)):
        image, targets = dataset[i]
        images.append({"id": targets["image_id"], "height": image.shape[-2], "width": image.shape[-1]})
        boxes = targets["boxes"].clone()
        boxes[:, 2:] -= boxes[:, :2]
        columns = boxes.tolist(), *(targets[name].tolist() for name in ("labels", "area", "iscrowd"))
        annotations += [(targets["image_id"], *values) for values in zip(*columns, strict=True)]
    assert [[image["width"], image["height"]] for image in images] == CACHE.sizes.tolist()
    assert len(annotations) == len(CACHE.boxes) and {label for _, _, label, *_ in annotations} == {1, 7, 90}
    assert [crowd for *_, crowd in annotations] == CACHE.crowd.tolist()


def test_it_is_a_dataset_in_every_way():
    """isinstance, `+`, random_split and iteration are those of any map-style dataset."""
    assert isinstance(CACHE, Dataset)
    both = CACHE + MemoryCache(3, seed=1)
    assert isinstance(both, ConcatDataset) and len(both) == 27 and same(both[25], MemoryCache(3, seed=1)[1])
    parts = random_split(CACHE, [20, 4], torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [20, 4] and parts[0][0][1]["image_id"] in CACHE.image_ids
    assert [target["image_id"] for _, target in CACHE] == CACHE.image_ids.tolist()


class Halved(Cache):
    """A cache whose user shows images at half their size."""

    def __init__(self, path, factor: int) -> None:
        super().__init__(path)
        self.factor = factor

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image[:, :: self.factor, :: self.factor], target


def test_a_subclass_with_its_own_items(small_cache):
    """It keeps its class and what it holds when it is pickled, and can be told from a plain cache."""
    halved = pickle.loads(pickle.dumps(Halved(small_cache, 2)))
    assert halved[0][0].shape == (3, 24, 32) and Cache(small_cache)[0][0].shape == (3, 48, 64)
    assert type(halved).__getitem__ is not Cache.__getitem__


def test_an_image_that_does_not_decode_is_named(tmp_path):
    """A record as it was written that is no picture: DecodeError with image, file, cache and advice."""
    write_cache(tmp_path / "x.lmdb", images=2)
    with pytest.raises(DecodeError, match=r"image 1 \(x.jpg\) of .*x.lmdb does not decode: .*fastload verify"):
        Cache(tmp_path / "x.lmdb")[1]


def test_subsets_keep_arrays():
    """Indices stay the int64 array they are; other lists, ranges and tensors become one; negative ones are resolved."""
    chosen = np.array([4, 2, 4])
    subset = CACHE.subset(chosen)
    assert isinstance(subset, Subset) and subset.indices is chosen
    assert same(subset[1], CACHE[2]) and same(Subset(subset, np.array([2, 1]))[1], CACHE[2])
    for indices in ([4, 2, -20], range(4, 1, -1), np.array([4, 2], np.int32), torch.tensor([-1, 3]), []):
        found = CACHE.subset(indices).indices
        assert isinstance(found, np.ndarray) and found.dtype == np.int64
        assert found.tolist() == [int(i) % 24 for i in indices]
    assert [target["image_id"] for _, target in CACHE.subset([-1, 0])] == [330, 100]


@pytest.mark.parametrize("wrong", [[24], [0, -25], range(20, 30), np.array([3, 10**9])])
def test_indices_of_no_image(wrong):
    """An index beyond the cache is an IndexError on making the subset that names it."""
    with pytest.raises(IndexError, match=r"no image (24|-25|29|1000000000): there are 24 images"):
        CACHE.subset(wrong)


@pytest.mark.parametrize("wrong", [np.ones(24, bool), torch.ones(24, dtype=torch.bool), [True, False]])
def test_masks_are_refused(wrong):
    """A boolean mask, which would silently be images 0 and 1, is a TypeError that says what to give."""
    with pytest.raises(TypeError, match=r"not a boolean mask: give np.flatnonzero\(mask\)"):
        CACHE.subset(wrong)


@pytest.mark.parametrize("wrong", [[0.5], np.zeros((2, 2), int), 3, ["a"]])
def test_other_things_are_no_indices(wrong):
    """Fractions, tables, single numbers and names are a TypeError."""
    with pytest.raises(TypeError, match="indices must be"):
        as_positions(wrong, 24)


def test_index_of_finds_images_by_id(small_cache):
    """One id or many in any form; the answer is in their order, as indices of the cache."""
    cache = Cache(small_cache)
    rng = np.random.default_rng(0)
    wanted = rng.permutation(cache.image_ids)
    assert cache.image_ids[cache.index_of(wanted)].tolist() == wanted.tolist()
    assert cache.index_of(wanted.tolist()).tolist() == cache.index_of(torch.from_numpy(wanted)).tolist()
    assert cache.index_of(30) == 2 and cache[cache.index_of(30)][1]["image_id"] == 30
    assert cache.index_of([]).tolist() == [] and cache.index_of(wanted).dtype == np.int64
    assert CacheFile(small_cache).index_of([120, 10]).tolist() == [11, 0]
    assert [target["image_id"] for _, target in cache.subset(cache.index_of([70, 20]))] == [70, 20]


@pytest.mark.parametrize("wanted", [25, [10, 25, 130, 0], [10**12]])
def test_index_of_names_what_is_not_there(small_cache, wanted):
    """Ids that the cache does not hold are a CacheError with all of them, and the cache."""
    missing = ", ".join(str(id) for id in np.atleast_1d(wanted) if id != 10)
    with pytest.raises(CacheError, match=rf"small.lmdb holds no image with id {missing}\. "):
        Cache(small_cache).index_of(wanted)


def test_without_empty_follows_torchvision(tmp_path):
    """Kept: images with a box of more than a pixel each way, in the annotated picture; crowds as asked."""
    boxes = [
        box(1, 20, [3, 3, 1, 30]),
        box(2, 30, [3, 3, 1, 30]),
        box(3, 30, [3.3, 3.3, 1.5, 1.5]),
        box(4, 40, [5, 5, 20, 20], iscrowd=1),
        box(5, 50, [41.7, 23.3, 1, 20]),
        box(6, 50, [0, 0, 30, 1]),
        box(7, 60, [41.7, 23.3, 1.1, 1.1]),
    ]
    root = write_coco(tmp_path, many_jpegs(6), boxes)
    source = find_datasets(root)[0].load()
    for reduction in (Reduction(), Reduction(short=24)):
        path = tmp_path / f"{reduction.short}.lmdb"
        build_cache(source, path, BuildOptions(Encoding.ORIGINAL, reduction, workers=1))
        cache = Cache(path)
        found = [cache.without_empty(crowd).indices for crowd in (False, True)]
        assert [cache.image_ids[indices].tolist() for indices in found] == [[30, 40, 60], [30, 60]]


def test_images_are_in_the_order_of_the_annotation_file(tmp_path):
    """Position i is the file's i-th usable image, whatever the ids; index_of translates torchvision's positions."""
    root = write_coco(tmp_path, {**many_jpegs(5), "broken.jpg": b"?"})
    file = root / "annotations/instances_train.json"
    document = json.loads(file.read_text())
    document["images"] = [document["images"][i] for i in (3, 0, 5, 4, 1, 2)]
    file.write_text(json.dumps(document))
    build_cache(find_datasets(root)[0].load(), tmp_path / "x.lmdb", BuildOptions(workers=1))
    cache = Cache(tmp_path / "x.lmdb")
    assert cache.image_ids.tolist() == [40, 10, 50, 20, 30]
    assert cache.index_of(sorted(cache.image_ids.tolist())).tolist() == [1, 3, 4, 0, 2]


MUTATED = """
import random, sys
from fastload import Cache, _core
cache, rng, refused = Cache(sys.argv[1]), random.Random(0), 0
for i in range(3000):
    record = bytearray(cache.record_bytes(i % len(cache)))
    for _ in range(rng.choice([1, 1, 3, 9])):
        at = rng.randrange(24) if rng.random() < 0.3 else rng.randrange(len(record))
        record[at] = rng.randrange(256)
    try:
        pixels = _core.render_record(record[: rng.randrange(len(record))] if rng.random() < 0.1 else record)
        assert pixels.shape == (*(int.from_bytes(record[at : at + 4], "little") for at in (12, 8)), 3)
    except ValueError:
        refused += 1
print(refused)
"""


def test_mutated_records_never_crash():
    """3,000 damaged records of every encoding: an error, or an image of the size its header says."""
    done = subprocess.run([sys.executable, "-c", MUTATED, GOLDEN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 300 < int(done.stdout) < 2900


def test_an_absurdly_long_image_is_refused():
    """Pixels in a single row, more than a canvas may be wide, are a ValueError."""
    short, long = (
        pack_record(bytes(width + 256), Encoding.PLANES, Subsampling.GRAY, (width, 1)) for width in (65_535, 65_536)
    )
    assert _core.render_record(short).shape == (1, 65_535, 3)
    with pytest.raises(ValueError, match="longer than 65,535 pixels"):
        _core.render_record(long)


NO_TORCH = """
import sys
from typer.testing import CliRunner
from fastload.cli.app import app
def run(*arguments):
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
folder, cache = sys.argv[1:]
run("--help")
run("build-cache", folder, "--workers", "1")
run("info", cache)
run("verify", cache)
run("convert-cache", cache, cache + ".planes", "--encoding", "planes")
assert "torch" not in sys.modules
"""


def test_the_command_line_does_not_wait_for_torch(coco_small, tmp_path):
    """--help, build-cache, info, verify and convert-cache never import it."""
    shutil.copytree(coco_small, tmp_path / "set")
    command = [sys.executable, "-c", NO_TORCH, tmp_path / "set", tmp_path / "set/fastload/train.lmdb"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
