"""Cache: what was built is what is read, from anywhere, and damage is always noticed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest

import fastload
from fastload.cache.format.index import Entry, build_index, check_index
from fastload.cache.format.layout import INDEX, INDEX_PREFIX, MANIFEST_KEY, Encoding, Subsampling, record_key
from fastload.cache.format.manifest import Manifest, describe_arrays
from fastload.cache.format.record import pack_record
from fastload.cache.read.verify import verify_cache
from fastload.errors import CacheError
from fastload.sources.base import Category
from tests.support.datasets import CATEGORIES


def test_reads_back_what_was_built(coco_small, small_cache):
    """Images keep their bytes, boxes their numbers, and everything its order."""
    cache = fastload.Cache(small_cache)
    assert len(cache) == 12 and cache.image_ids.tolist() == [10 * i for i in range(1, 13)]
    assert [(c.id, c.name) for c in cache.categories] == [(1, "person"), (18, "dog")]
    for i, record in enumerate(cache.records()):
        assert bytes(record.data) == (coco_small / "train" / record.name).read_bytes()
        assert record.image_id == 10 * (i + 1) and record.size == (64, 48) == tuple(cache.sizes[i])
        assert record.encoding == Encoding.ORIGINAL and len(record.boxes) == len(record.labels) == len(record.area)
    first = cache.record(0)
    assert first.boxes.tolist() == [[0, 2, 10, 22], [1, 2, 11, 23]] and first.labels.tolist() == [0, 1]
    assert first.crowd.tolist() == [False, True] and first.area.tolist() == [200, 77.5]
    assert first.annotation_ids.tolist() == [100, 101]
    assert cache.images_without_boxes.tolist() == [2] and len(cache.record(2).boxes) == 0


def test_indices_behave_as_those_of_a_list(small_cache):
    """Negative indices count from the end; outside there is an IndexError, so iteration ends."""
    cache = fastload.Cache(small_cache)
    assert cache.record(-1).image_id == cache.record(11).image_id == 120
    assert cache.record(np.int64(3)).image_id == cache[np.int64(3)][1]["image_id"] == 40
    for index in (12, -13):
        with pytest.raises(IndexError):
            cache[index]
        with pytest.raises(IndexError):
            cache.record(index)


def test_subset_is_torchs_own(small_cache):
    """`subset` gives a torch Subset of the cache, with negative indices resolved."""
    from torch.utils.data import Subset

    subset = fastload.Cache(small_cache).subset([5, -1])
    assert isinstance(subset, Subset) and list(subset.indices) == [5, 11]
    assert [target["image_id"] for _, target in subset] == [60, 120]


def test_everything_is_read_only_and_outlives_the_cache(small_cache):
    """Arrays and bytes cannot be written to, and keep the file mapped when the Cache is gone."""
    cache = fastload.Cache(small_cache)
    record, boxes = cache.record(1), cache.boxes
    for array in (boxes, cache.labels, cache.sizes, cache.image_ids, cache.box_offsets, cache.crowd, record.boxes):
        with pytest.raises(ValueError):
            array[...] = 0
    assert record.data.readonly
    expected = boxes.tolist(), bytes(record.data)
    del cache
    assert (boxes.tolist(), bytes(record.data)) == expected


def test_addresses_point_at_the_records(small_cache):
    """What the native engine is given are the records' own addresses and lengths."""
    import ctypes

    cache = fastload.Cache(small_cache)
    for i in range(len(cache)):
        assert ctypes.string_at(int(cache.addresses[i]), int(cache.lengths[i])) == bytes(cache.record_bytes(i))


def test_one_mapping_a_process(small_cache, tmp_path):
    """However often and by whatever path a cache is opened, it is mapped once, and let go with its last user."""
    (tmp_path / "link.lmdb").symlink_to(small_cache)
    gc.collect()  # loaders that earlier tests left in cycles

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(small_cache))

    caches = [fastload.Cache(small_cache), fastload.Cache(str(small_cache)), fastload.Cache(tmp_path / "link.lmdb")]
    assert mapped() == 1 and caches[0].boxes is caches[1].boxes
    del caches
    assert mapped() == 0


def _image_ids(cache: fastload.Cache) -> list[int]:
    return [target["image_id"] for _, target in cache]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_works_in_other_processes(small_cache, method):
    """A cache can be handed to a forked or spawned process."""
    cache = fastload.Cache(small_cache)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_image_ids, [cache, cache]) == [_image_ids(cache)] * 2


def test_pickles_as_its_path(small_cache, tmp_path, monkeypatch):
    """A pickled cache is small, opens again from another folder, and refuses another cache in its place."""
    path = tmp_path / "a.lmdb"
    shutil.copy(small_cache, path)
    monkeypatch.chdir(tmp_path)
    stored = pickle.dumps(fastload.Cache("a.lmdb"))
    monkeypatch.chdir("/")
    assert len(stored) < 1000 and _image_ids(pickle.loads(stored)) == _image_ids(fastload.Cache(path))
    write_cache(path, images=3)
    with pytest.raises(CacheError, match="changed since it was pickled"):
        pickle.loads(stored)


def test_a_replaced_cache_leaves_the_open_one_alone(small_cache, tmp_path):
    """Who holds a cache that is replaced goes on reading the old one; opening again gives the new one."""
    path = tmp_path / "a.lmdb"
    shutil.copy(small_cache, path)
    old = fastload.Cache(path)
    write_cache(tmp_path / "b.lmdb", images=3)
    os.replace(tmp_path / "b.lmdb", path)
    assert len(fastload.Cache(path)) == 3 and _image_ids(old) == [10 * i for i in range(1, 13)]


def test_fingerprint_follows_content(tmp_path):
    """The fingerprint is that of the content: the same for the same, another for a changed box or pixel."""
    prints = []
    for name, more in (("a", {}), ("b", {}), ("c", {"box": 2.0}), ("d", {"payload": b"q"})):
        write_cache(tmp_path / name, images=4, **more)
        prints.append(fastload.Cache(tmp_path / name).fingerprint)
    assert prints[0] == prints[1] and len(set(prints)) == 3


def write_cache(path, images: int, boxes_each: int = 2, box: float = 1.0, payload: bytes = b"p") -> None:
    """A cache of made-up payloads, written without the builder."""
    path.unlink(missing_ok=True)
    records = [pack_record(payload, Encoding.ORIGINAL, Subsampling.S444, (640, 480)) for _ in range(min(images, 1))]
    checksum = int.from_bytes(records[0][24:32], "little")
    rows = np.tile(np.array([[0, 0, box, 1]], np.float32), (boxes_each, 1))
    ones = np.ones(boxes_each)
    columns = {"boxes": rows, "label": ones, "crowd": ones, "area": ones, "annotation_id": ones}
    entry = Entry(0, "x.jpg", (640, 480), (640, 480), 0, checksum, columns)
    index = build_index([entry])
    index = {name: np.concatenate([index[name]] * images) for name in INDEX}
    index["label"] *= 0
    index["image_id"] = np.arange(images)
    index["box_offset"] = np.arange(images + 1) * boxes_each
    index["name_offset"] = np.arange(images + 1) * len("x.jpg")
    category = Category(**CATEGORIES[1])
    manifest = Manifest("original", images, images * boxes_each, (category,), {}, describe_arrays(index))
    environment = lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 30, sync=False)
    with environment, environment.begin(write=True) as txn:
        for name, array in index.items():
            txn.put(INDEX_PREFIX + name.encode(), array.tobytes())
        txn.put(MANIFEST_KEY, manifest.to_bytes())
        for i in range(images):
            txn.put(record_key(i), records[0], append=True)


OPEN = """
import sys, time
from pathlib import Path
from fastload.cache.read.cache_file import CacheFile
def resident(name):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) / 1000
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before, start = resident("VmRSS"), time.perf_counter()
cache = CacheFile(sys.argv[1])
seconds = time.perf_counter() - start
cache.record(117_999), len(cache.images_without_boxes)
assert "torch" not in sys.modules
print(len(cache), len(cache.boxes), seconds, resident("VmHWM") - before)
"""


@pytest.mark.parametrize("payload", [b"p", b"p" * 2100], ids=["records-within-pages", "records-on-pages-of-their-own"])
def test_a_large_cache_opens_at_once_in_little_memory(tmp_path, payload):
    """118,000 images with 944,000 boxes: well under a second, and at most 30 MB even for a moment, without torch."""
    write_cache(tmp_path / "large.lmdb", images=118_000, boxes_each=8, payload=payload)
    done = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path / "large.lmdb")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    images, boxes, seconds, megabytes = map(float, done.stdout.split())
    assert (images, boxes) == (118_000, 944_000)
    assert seconds < 0.7 and megabytes < 30, done.stdout


def sound_index() -> dict[str, np.ndarray]:
    """Two images, a wide and a high one, with a box each."""
    rows, ones = np.array([[0, 0, 1, 1]], np.float32), np.ones(1)
    columns = {"boxes": rows, "label": ones, "crowd": ones, "area": ones, "annotation_id": ones}
    sizes = ((30_000, 10), (10, 30_000))  # together more pixels than an image may have, each far fewer
    return build_index([Entry(i, f"{i}.jpg", size, size, 0, 0, columns) for i, size in enumerate(sizes)])


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("label", 1, 2, "labels"),
        ("label", 0, -1, "labels"),
        ("crowd", 1, 2, "invalid"),
        ("size", (0, 1), 0, "invalid"),
        ("source_size", (1, 0), -5, "invalid"),
        ("size", (1, 0), 30_000, "image 1 is 30000 x 30000 pixels"),
        ("box_offset", 0, 1, "box_offset"),
        ("box_offset", 1, 3, "box_offset"),
        ("box_offset", 2, 1, "box_offset"),
        ("name_offset", 1, -1, "name_offset"),
    ],
)
def test_an_index_that_does_not_fit_together_is_refused(name, at, value, message):
    """Sound checksums do not make labels, offsets or sizes possible: each is looked at, and named."""
    index = sound_index()
    check_index(index, categories=2)
    index[name][at] = value
    with pytest.raises(ValueError, match=message):
        check_index(index, categories=2)


def test_an_index_of_nothing_fits():
    """No images, no boxes and no categories are no reason to complain."""
    check_index(build_index([]), categories=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no cache"),
        (lambda path: path.mkdir(), "folder"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"not a cache" * 1000), "cannot be read as a cache"),
        (lambda path: path.with_name("x.lmdb.partial").touch(), "not finished"),
        (lambda path: lmdb.open(str(path), subdir=False, lock=False).close(), "no manifest"),
    ],
    ids=["missing", "folder", "empty", "other", "partial", "empty-lmdb"],
)
def test_what_is_no_cache_is_named(tmp_path, make, message):
    """A path that holds no cache is a CacheError that names it and says what is there instead."""
    path = tmp_path / "x.lmdb"
    make(path)
    with pytest.raises(CacheError, match=message) as error:
        fastload.Cache(path)
    assert str(path) in str(error.value)


def test_another_version_is_refused(tmp_path, monkeypatch):
    """A cache of another version of the format says so."""
    monkeypatch.setattr("fastload.cache.format.manifest.VERSION", 99)
    write_cache(tmp_path / "x.lmdb", images=1)
    monkeypatch.undo()
    with pytest.raises(CacheError, match="another version"):
        fastload.Cache(tmp_path / "x.lmdb")


def test_damage_to_a_record_is_found_when_it_is_read(small_cache, tmp_path):
    """A flipped bit in a picture is a CacheError naming image and file; the other images stay readable."""
    path = tmp_path / "x.lmdb"
    data = bytearray(small_cache.read_bytes())
    cache = fastload.Cache(small_cache)
    payload = bytes(cache.record(4).data)
    place = -1
    while (place := data.find(payload, place + 1)) >= 0:  # pages that LMDB uses no more may hold it too
        data[place + 200] ^= 4
    path.write_bytes(data)
    damaged = fastload.Cache(path)
    with pytest.raises(CacheError, match=r"image 50 \(00004.jpg\) is damaged: its checksum"):
        damaged[4]
    with pytest.raises(CacheError, match="its checksum"):
        damaged.record(4)
    assert _image_ids(damaged.subset([0, 1, 2, 3, 5])) == [10, 20, 30, 40, 60]
    assert [(found.index, found.image_id, found.name) for found in verify_cache(path)] == [(4, 50, "00004.jpg")]


def test_verify_finds_a_picture_that_does_not_decode(tmp_path):
    """A record whose checksum is right but whose payload is no picture is damage, too."""
    write_cache(tmp_path / "x.lmdb", images=3)
    assert [found.index for found in verify_cache(tmp_path / "x.lmdb")] == [0, 1, 2]


def content(path) -> object:
    """All that a cache holds, or None when any of it is damaged."""
    try:
        cache = fastload.Cache(path)
        arrays = [cache.boxes, cache.labels, cache.area, cache.annotation_ids, cache.image_ids, cache.box_offsets]
        records = [(bytes(r.data), r.size, r.name, r.encoding) for r in cache.records()]
        return [array.tobytes() for array in arrays], records, cache.categories, cache.fingerprint
    except CacheError:
        return None


def flip_bits(source, target, rounds: int) -> tuple[int, int]:
    """Damage a cache in many ways; returns how often that was noticed, and how often it changed nothing."""
    data, sound = bytearray(source.read_bytes()), content(source)
    rng, noticed, harmless = random.Random(1), 0, 0
    for _ in range(rounds):
        at, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        data[at] ^= bit
        target.write_bytes(data)
        data[at] ^= bit
        found = content(target)
        assert found is None or found == sound, f"byte {at}, bit {bit}"
        noticed += found is None
        harmless += found is not None
    return noticed, harmless


FLIP = """
import sys
from pathlib import Path
from tests.cache.test_cache import flip_bits
print(*flip_bits(Path(sys.argv[1]), Path(sys.argv[2]), 2000))
"""


def test_a_flipped_bit_is_noticed_or_changes_nothing(small_cache, tmp_path):
    """2,000 caches with one flipped bit each: an error, or exactly the content that was built; never a crash."""
    done = subprocess.run(
        [sys.executable, "-c", FLIP, str(small_cache), str(tmp_path / "x")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    noticed, harmless = map(int, done.stdout.split())
    assert noticed > 300 and harmless > 0


def test_a_truncated_cache_is_refused(small_cache, tmp_path):
    """A cache that was cut short, as by a full disk while copying, is refused on opening."""
    data = small_cache.read_bytes()
    for length in (*range(1, len(data), 2999), len(data) - 1):
        (tmp_path / "x").write_bytes(data[:length])
        with pytest.raises(CacheError):
            fastload.Cache(tmp_path / "x")


def test_opening_is_quick_to_repeat(small_cache):
    """Opening an open cache again costs next to nothing."""
    keep = fastload.Cache(small_cache)
    start = time.perf_counter()
    for _ in range(200):
        fastload.Cache(keep.path)
    assert time.perf_counter() - start < 0.5
