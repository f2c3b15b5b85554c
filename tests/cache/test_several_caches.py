"""Several caches read as one: as a list, and in torch's ConcatDataset and Subset, nested in any way."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, DistributedSampler, Subset, random_split

from fastload import (
    ArgumentError,
    Cache,
    CacheError,
    DecodeError,
    EngineError,
    FastLoader,
    RandomFlip,
    ShortestEdge,
    StateError,
)
from fastload.cache.format.layout import Encoding
from fastload.cache.memory import MemoryCache
from fastload.cache.read.cache_file import CacheFile
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.engines.dali.engine import refuse_other_encodings
from fastload.sources.detect import find_datasets
from tests.cache.test_cache_dataset import Halved, same
from tests.cache.test_columns import annotated
from tests.support.datasets import box, jpeg, write_coco
from tests.support.loaders import seeded

DOG, PERSON, CAT = ({"id": id, "name": name} for id, name in ((18, "dog"), (1, "person"), (17, "cat")))
RANDOM = [ShortestEdge([32, 48], 80), RandomFlip()]


def make(root: Path, count: int, first_id: int, categories=(DOG, PERSON), encoding=Encoding.ORIGINAL) -> Path:
    """A cache of images with ids from `first_id`; image i has i % 3 boxes, of all categories in turn."""
    files = {f"{first_id + i}.jpg": jpeg(40 + i, 50 - i, seed=first_id + i) for i in range(count)}
    boxes = [
        box(100 * i + k, 10 * (i + 1), [k, 2, 10 + i, 20], categories[(i + k) % len(categories)]["id"])
        for i in range(count)
        for k in range(i % 3)
    ]
    write_coco(root, files, boxes)
    file = root / "annotations/instances_train.json"
    document = json.loads(file.read_text()) | {"categories": list(categories)}
    for entry in (*document["images"], *document["annotations"]):
        key = "image_id" if "image_id" in entry else "id"
        entry[key] = entry[key] // 10 - 1 + first_id
    document["images"] = [{**image, "width": 40 + i, "height": 50 - i} for i, image in enumerate(document["images"])]
    file.write_text(json.dumps(document))
    path = root / f"{root.name}.lmdb"
    build_cache(find_datasets(root)[0].load(), path, BuildOptions(encoding, workers=1))
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """Caches a, b and c, of different lengths; b has other categories and another encoding."""
    root = tmp_path_factory.mktemp("several")
    return [
        make(root / "a", 7, 1000),
        make(root / "b", 5, 2000, (PERSON, CAT), Encoding.DCT),
        make(root / "c", 4, 500),
    ]


@pytest.fixture(scope="module")
def caches(paths) -> list[Cache]:
    return [Cache(path) for path in paths]


def pairs(dataset, **arguments) -> list:
    return list(FastLoader(dataset, batch_size=None, **arguments))


def equal(first, second) -> bool:
    return len(first) == len(second) and all(map(same, first, second))


def id_lists(batches) -> list[list[int]]:
    return [targets.image_id.tolist() for _, targets in batches]


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_images_come_as_from_each_cache_by_itself(paths, caches, engine):
    """Pixels, boxes, category ids and image ids are bit for bit those of the single caches, in order."""
    expected = [pair for cache in caches for pair in pairs(cache, engine=engine)]
    assert len(expected) == 16 and len({int(label) for _, target in expected for label in target["labels"]}) == 3
    for dataset in (paths, tuple(map(str, paths)), caches, Cache(paths), [paths[0], *caches[1:]]):
        assert equal(pairs(dataset, engine=engine, num_workers=2), expected)


def test_it_is_a_cache_in_every_way(paths, caches):
    """Items, stored records, names, ids, boxes and categories are those of the caches, labels index all categories."""
    cache = Cache(paths)
    assert [category.name for category in cache.categories] == ["person", "dog", "cat"]
    assert len(cache) == 16 and [len(shard) for shard in cache.shards] == [7, 5, 4]
    for i in range(-len(cache), len(cache)):
        shard, k = cache.locate(i)
        mine, theirs = cache.record(i), shard.record(k)
        assert same(cache[i], shard[k]) and bytes(mine.data) == bytes(theirs.data)
        assert (mine.name, mine.image_id, mine.size) == (theirs.name, theirs.image_id, theirs.size)
        names = [[c.categories[label].name for label in r.labels] for c, r in ((cache, mine), (shard, theirs))]
        assert names[0] == names[1] and np.array_equal(mine.boxes, theirs.boxes)
        assert cache.path_of(i) == shard.path == paths[[1000, 2000, 500].index(mine.image_id // 500 * 500)]
        assert cache.index_of(mine.image_id) == i % 16
    assert not cache.boxes.flags.writeable and len(cache.boxes) == sum(len(c.boxes) for c in caches)
    with pytest.raises(CacheError, match=r"a.lmdb, .*b.lmdb, .*c.lmdb holds no image with id 7\. .*b.problems.jsonl"):
        cache.index_of(7)
    with pytest.raises(IndexError, match="no image 16 in a cache of 16 images"):
        cache[16]


def test_what_only_a_file_has_is_asked_of_the_shards(paths):
    """`path` and `manifest` of several are errors that say whom to ask; messages and repr name the files."""
    cache = Cache(paths)
    with pytest.raises(CacheError, match="path_of"):
        _ = cache.path
    with pytest.raises(CacheError, match="shards"):
        _ = cache.manifest
    assert [shard.manifest.encoding for shard in cache.shards] == ["original", "dct", "original"]
    assert repr(cache) == f"Cache('{paths[0]}, {paths[1]}, {paths[2]}': 16 images, {len(cache.boxes)} boxes)"
    assert Cache(paths[0]).shards[0].path == paths[0] and Cache([paths[0]]).path_of(2) == paths[0]
    assert len(CacheFile(paths)) == 16


def test_arrays_are_joined_when_they_are_asked_for(paths):
    """Opening joins nothing that is large, and names and records are never joined."""
    cache = Cache(paths)
    assert set(cache.store.index) == {"image_id"}
    assert cache.check_record(9).width == 42 and cache[9][1]["image_id"] == 2002
    assert set(cache.store.index) == {"image_id"}
    next(iter(FastLoader(cache)))
    assert (
        cache.name(9) == "2002.jpg"
        and "boxes" in cache.store.index
        and not {"names", "name_offset"} & set(cache.store.index)
    )


NESTINGS = {
    "concat": lambda a, b, c: ConcatDataset([a, b, c]),
    "sum": lambda a, b, c: c + a + b,
    "subset of concat": lambda a, b, c: Subset(ConcatDataset([a, b]), [11, 0, -1, 7, 6, 3]),
    "concat of subsets": lambda a, b, c: ConcatDataset([a.subset([4, 1]), Subset(b, range(3)), c]),
    "one cache in parts": lambda a, b, c: ConcatDataset([a.subset([4, 1]), b, a.subset([1, 1, 0]), b, Cache(a.path)]),
    "deep": lambda a, b, c: ConcatDataset([Subset(Subset(a + b, range(9, 2, -1)), [5, 0]), (c + a).datasets[0], a]),
    "split": lambda a, b, c: random_split(a + b + c, [10, 6], seeded())[0],
    "split and joined": lambda a, b, c: ConcatDataset(random_split(a + b, [5, 7], seeded())[::-1]),
    "caches of caches": lambda a, b, c: Cache([Cache([a, b]), c]),
    "renumbered": lambda a, b, c: ConcatDataset([Cache([a, b], renumber=True).subset([8, 2]), c]),
    "one": lambda a, b, c: ConcatDataset([ConcatDataset([b])]),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_position_i_of_a_loader_is_item_i_of_its_dataset(caches, nesting):
    """Whatever the nesting: the fast path is taken, the dataset stays the loader's, and order and items are its own."""
    dataset = NESTINGS[nesting](*caches)
    loader = FastLoader(dataset, batch_size=None, num_workers=1)
    assert loader.dataset is dataset and len(loader) == len(dataset) and loader.engine_used == "native"
    expected = [dataset[i] for i in range(len(dataset))]
    assert equal(list(loader), expected)
    order = torch.randperm(len(dataset), generator=seeded()).tolist()
    assert equal(pairs(dataset, sampler=order), [expected[i] for i in order])


class Numbers(Dataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int):
        return torch.zeros(3, 8, 8, dtype=torch.uint8), {"boxes": torch.zeros(0, 4)}


class Reversed(ConcatDataset):
    def __getitem__(self, i: int):
        return super().__getitem__(len(self) - 1 - i)


def test_mixtures_are_loaded_by_dataloader(paths, caches):
    """A cache joined to another dataset, and datasets with items of their own making, are loaded as any dataset."""
    for dataset in (caches[0] + Numbers(), ConcatDataset([Halved(paths[0], 2), caches[1]]), Reversed(caches)):
        loader = FastLoader(dataset, batch_size=None)
        assert not hasattr(loader, "engine_used")
        assert equal(list(loader), [dataset[i] for i in range(len(dataset))])


def test_lists_of_other_things(paths, caches):
    """Lists that are no caches are datasets; what cannot be meant is an error that says what to give."""
    assert list(FastLoader(["a", "b"], batch_size=None)) == ["a", "b"]
    with pytest.raises(ArgumentError, match=r"a Subset in a list of caches: join datasets with .*ConcatDataset"):
        FastLoader([caches[0], caches[1].subset([1])])
    with pytest.raises(ArgumentError, match="Halved overrides __getitem__"):
        FastLoader([caches[1], Halved(paths[0], 2)])
    with pytest.raises(ArgumentError, match="list of caches is empty"):
        Cache([])
    with pytest.raises(ArgumentError, match="renumber=True is for a list"):
        Cache(paths[0], renumber=True)
    with pytest.raises(CacheError, match=r"there is no cache .*missing.lmdb"):
        FastLoader([str(paths[0]), "missing.lmdb"])


def batches(dataset, **arguments) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    loader = FastLoader(dataset, 3, shuffle=True, transforms=RANDOM, generator=seeded(), **arguments)
    return [(images.clone(), targets.boxes, targets.image_id) for images, targets in loader]


def assert_equal(first, second) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert all(map(torch.equal, one, other))


def sums(dataset, queue=None) -> list[int]:
    """Of batches and two items; by NumPy, as torch's own threads do not survive a fork."""
    loader = FastLoader(dataset, 3, shuffle=True, transforms=RANDOM, generator=seeded(), num_workers=2)
    found = [int(images.numpy().sum()) + int(targets.image_id.sum()) for images, targets in loader]
    found += [int(image.numpy().sum()) for image, _ in (dataset[0], dataset[8])]
    if queue is not None:
        queue.put(found)
    return found


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_the_same(caches, method):
    """Forked and spawned processes give the same batches and items of a list of caches and of a ConcatDataset."""
    context = multiprocessing.get_context(method)
    for dataset in (Cache(caches), Subset(caches[0] + caches[1], range(1, 12))):
        queue = context.Queue()
        process = context.Process(target=sums, args=(dataset, queue))
        process.start()
        assert queue.get(timeout=60) == sums(dataset)
        process.join()


def test_pickles_are_small_and_noticed_when_they_are_old(paths, tmp_path):
    """A cache of several pickles as paths, with what it holds of caches in memory; a changed file is named."""
    cache = Cache([*paths, Cache([MemoryCache.of([jpeg(seed=i) for i in range(3)])])])
    again = pickle.loads(pickle.dumps(cache))
    assert equal([again[i] for i in range(19)], [cache[i] for i in range(19)])
    assert again.fingerprint == cache.fingerprint
    assert len(pickle.dumps(Cache(paths))) < 1000
    moved = tmp_path / "b.lmdb"
    moved.write_bytes(paths[1].read_bytes())
    old = pickle.dumps(Cache([paths[0], moved]))
    moved.unlink()
    moved.write_bytes(paths[2].read_bytes())
    with pytest.raises(CacheError, match=f"{moved} has changed since it was pickled"):
        pickle.loads(old)


def test_several_iterators_at_once(paths):
    """Iterators of one loader do not disturb one another."""
    loader = FastLoader(paths, 3, num_workers=2)
    pairs = list(zip(loader, loader, strict=True))
    assert len(pairs) == 6 and all(torch.equal(a.images, b.images) for a, b in pairs)


@pytest.mark.parametrize("join", [list, ConcatDataset], ids=["list", "ConcatDataset"])
def test_resume_in_mid_epoch(caches, join):
    """A state goes on with the very next batch, in a loader of the same caches only."""
    whole = batches(join(caches))
    loader = FastLoader(join(caches), 3, shuffle=True, transforms=RANDOM, generator=seeded())
    iterator = iter(loader)
    next(iterator), next(iterator)
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    again = FastLoader(join(caches), 3, shuffle=True, transforms=RANDOM, num_workers=1)
    again.load_state_dict(state)
    assert_equal([(images.clone(), t.boxes, t.image_id) for images, t in again], whole[2:])
    other = FastLoader(join(caches[::-1]), 3, shuffle=True, transforms=RANDOM)
    with pytest.raises(StateError, match="fingerprint"):
        other.load_state_dict(state)


def test_a_list_and_a_concat_dataset_are_the_same_to_a_state(caches):
    """Both have the same fingerprint, which order and renumbering change."""
    loaders = FastLoader(caches), FastLoader(ConcatDataset(caches))
    one, other = (loader.state_dict()["fingerprint"] for loader in loaders)
    assert one == other
    prints = {Cache(caches).fingerprint, Cache(caches[::-1]).fingerprint, Cache(caches, renumber=True).fingerprint}
    assert len(prints) == 3 and one in prints


@pytest.mark.parametrize("join", [Cache, ConcatDataset])
def test_ranks_share_an_epoch(caches, join):
    """DistributedSampler's ranks see every image once, each what its sampler names."""
    dataset = join(caches)
    seen = []
    for rank in range(2):
        sampler = DistributedSampler(dataset, 2, rank, seed=5)
        sampler.set_epoch(3)
        loader = FastLoader(dataset, 3, sampler=sampler)
        loader.set_epoch(3)
        found = list(chain(*id_lists(loader)))
        assert sorted(found) == sorted(dataset[i][1]["image_id"] for i in sampler)
        seen += found
    assert sorted(seen) == sorted(int(id) for cache in caches for id in cache.image_ids)


def test_empty_images_are_left_out(caches):
    """skip_empty of several caches keeps the images with boxes, in order."""
    loader = FastLoader(ConcatDataset(caches), 4, skip_empty=True)
    expected = [int(cache.image_ids[i]) for cache in caches for i in range(len(cache)) if i % 3]
    assert list(chain(*id_lists(loader))) == expected and len(loader.dataset) == len(expected)


def test_columns_of_all_caches_are_shown(tmp_path):
    """Of the extra columns, those that all caches have of one type: in arrays, items and batches."""
    source = annotated(tmp_path / "set")
    columns = (["track_id", "scene:int32", "weight", "pose"], ["weight:float64", "track_id", "scene:int32"])
    both = [
        Cache(build_cache(find_datasets(source, columns=names)[0].load(), tmp_path / f"{k}.lmdb", BuildOptions()).path)
        for k, names in enumerate(columns)
    ]
    cache = Cache(both, renumber=True)
    assert set(cache.columns) == {"track_id", "scene"} and cache.columns["scene"].tolist() == [*range(1, 9)] * 2
    expected = [cache[i] for i in range(16)]
    assert equal(pairs(cache), expected) and set(expected[0][1]) >= {"track_id", "scene"}
    for i, (_, target) in enumerate(expected):
        alone = both[i // 8][i % 8][1]
        assert all(torch.equal(target[name], alone[name]) for name in ("track_id", "scene", "boxes"))
        assert cache.record(i).columns.keys() == cache.columns.keys()
    assert len(pairs(cache, skip_crowd=True)[7][1]["track_id"]) == sum(not crowd for crowd in both[0].record(7).crowd)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 3, "name": "dog"}], r"'dog' has id 18 in the first and 3 in the second"),
        ([{"id": 18, "name": "wolf"}], r"id 18 is 'dog' in the first and 'wolf' in the second"),
        (
            [{"id": 1, "name": "dog"}],
            r"'dog' has id 18 in the first and 1 in the second; id 1 is 'person' in the first",
        ),
    ],
)
def test_categories_that_contradict_are_named(paths, tmp_path, categories, message):
    """A name of two ids or an id of two names is an error with both caches, the categories and what to do."""
    other = make(tmp_path / "other", 3, 9000, categories)
    pattern = rf"categories of {paths[0]} and {other} disagree: {message}.* build its cache again"
    for dataset in ([paths[1], paths[0], other][1:], ConcatDataset([Cache(paths[0]), Cache(other)])):
        with pytest.raises(CacheError, match=pattern):
            FastLoader(dataset)


def test_other_supercategories_are_no_contradiction(paths, tmp_path):
    """A category is its id and name; the first cache's supercategory is kept. A cache may have a name twice."""
    twice = [{"id": 18, "name": "dog", "supercategory": "pet"}, {"id": 4, "name": "bat"}, {"id": 5, "name": "bat"}]
    cache = Cache([paths[0], make(tmp_path / "other", 3, 9000, twice)])
    known = [(category.id, category.name, category.supercategory) for category in cache.categories]
    assert known == [(1, "person", ""), (18, "dog", ""), (4, "bat", ""), (5, "bat", "")]


def test_clashing_image_ids_are_named_and_can_be_renumbered(paths, tmp_path):
    """An id in two caches is an error that names both and the way out, after which ids are positions."""
    other = make(tmp_path / "other", 6, 1003)
    both = [paths[0], other]
    for dataset in (both, ConcatDataset(list(map(Cache, both)))):
        with pytest.raises(
            CacheError, match=rf"{paths[0]} and {other} both hold images with id 1003, 1004, 1005 and 1 more"
        ):
            FastLoader(dataset)
    cache = Cache(both, renumber=True)
    assert (
        list(chain(*id_lists(FastLoader(cache, 4)))) == [cache[i][1]["image_id"] for i in range(13)] == list(range(13))
    )
    assert [cache.record(i).image_id for i in (0, 12)] == [0, 12] and cache.index_of([11, 3]).tolist() == [11, 3]
    assert pickle.loads(pickle.dumps(cache)).image_ids.tolist() == list(range(13))
    FastLoader(ConcatDataset([c.subset([0, 1]) for c in (Cache(paths[2]), cache)]))


@pytest.mark.parametrize("renumber", [False, True])
def test_the_same_cache_twice(paths, tmp_path, renumber):
    """It is refused, also as a copy, unless its images are numbered anew."""
    copy = tmp_path / "copy.lmdb"
    copy.write_bytes(paths[0].read_bytes())
    for second in (paths[0], copy):
        if renumber:
            assert Cache([paths[0], second], renumber=True).image_ids.tolist() == list(range(14))
            continue
        with pytest.raises(CacheError, match=f"{second} holds the same images as {paths[0]}: give each cache once"):
            Cache([paths[0], paths[1], second])


def damaged(path: Path, target: Path, index: int, whole: bool) -> Path:
    """A copy with a flipped bit in a picture, or with its last half cut away once it is open."""
    data = bytearray(path.read_bytes())
    payload = bytes(Cache(path).record(index).data)
    place = -1
    while (place := data.find(payload, place + 1)) >= 0:
        data[place + len(payload) // 2] ^= 0 if whole else 4
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_damaged_image_is_named_with_its_file(paths, tmp_path, engine):
    """Errors, items and the report of skipped images name the file that holds the image, and no other."""
    bad = damaged(paths[1], tmp_path / "bad.lmdb", 2, whole=False)
    cache = Cache([paths[0], bad, paths[2]])
    loader = FastLoader(cache, 4, engine=engine)
    with pytest.raises(
        DecodeError, match=rf"image 2002 \(2002.jpg\) of {bad} does not decode: .*fastload verify {bad}`"
    ):
        list(loader)
    for look in (cache.__getitem__, cache.record, cache.check_record):
        with pytest.raises(CacheError, match=rf"^{bad}: image 2002 \(2002.jpg\) is damaged: its checksum"):
            look(9)
    loader = FastLoader(cache, 4, engine=engine, on_error="skip")
    with pytest.warns(UserWarning, match=rf"^1 images of {bad} did not .* image 2002 .*`fastload verify {bad}` to see"):
        assert len(list(loader)) == 4
    assert list(loader.skipped) == [2002]


def test_a_truncated_second_cache_is_named(paths, tmp_path):
    """A file that is cut short while it is read is an error with its name, wherever it is noticed."""
    cut = damaged(paths[1], tmp_path / "cut.lmdb", 2, whole=True)
    cache = Cache([paths[0], cut])
    loader = FastLoader(cache, 2, num_workers=1)
    batches = iter(loader)
    next(batches)
    os.truncate(cut, os.path.getsize(cut) // 2)
    for look in (cache.check_unchanged, lambda: cache[0] and cache[9], lambda: list(batches), lambda: list(loader)):
        with pytest.raises(CacheError, match=f"^{cut} was truncated"):
            look()


def test_dali_names_the_cache_it_cannot_read(paths):
    """The one among several that holds no JPEGs is named, with the command that helps."""
    with pytest.raises(EngineError, match=f"{paths[1]} holds images as dct, .*fastload convert-cache {paths[1]} "):
        refuse_other_encodings(Cache(paths))
    refuse_other_encodings(Cache([paths[0], paths[2]]))


class Asked(Cache):
    """Notes which records it is asked to ensure, and has not got one of them."""

    missing = -1

    def ensure(self, positions) -> None:
        self.asked = [*getattr(self, "asked", []), *positions.tolist()]
        if self.missing in positions:
            raise CacheError(f"record {self.missing} of {self.path} cannot be had")


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_engines_ask_each_cache_for_the_records_of_a_plan(paths, engine):
    """Every record is asked for before its batch is made; a missing one fails its batch, in its turn, and no other."""
    first, second = Asked(paths[0]), Asked(paths[1])
    loader = FastLoader([first, second], 3, num_workers=1, engine=engine)
    assert len(list(loader)) == 4 and first.asked == list(range(7)) and second.asked == list(range(5))
    second.missing = 1
    batches = iter(loader)
    assert id_lists([next(batches), next(batches)]) == [[1000, 1001, 1002], [1003, 1004, 1005]]
    with pytest.raises(CacheError, match=f"record 1 of {paths[1]} cannot be had"):
        next(batches)
    assert id_lists(batches) == [[2002, 2003, 2004]]
