"""Ragged columns, and coordinates that move with their image: from a source through every kind of cache."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import lmdb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from typer.testing import CliRunner

from fastload import Cache, CacheError, FastLoader, SourceError, _core
from fastload.annotations import Column, Ragged
from fastload.cache.format.layout import INDEX_PREFIX, MANIFEST_KEY, Encoding
from fastload.cache.memory import MemoryCache
from fastload.cache.read.verify import verify_cache
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.fitting import turn_points
from fastload.cache.write.ingest import make_record
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
from fastload.cache.write.resize import Reduction
from fastload.cli.app import app
from fastload.sources.base import Category, Problem, Sample
from tests.support.datasets import encoded, jpeg, pixels

COLUMNS = (
    Column("polygons", "float32", shape=(2,), moves="polygon", ragged=2),
    Column("keypoints", "float32", shape=(3, 3), moves="points"),
    Column("trace", "float64", shape=(2,), moves="points", ragged=True),
    Column("tags", "int16", ragged=1),
    Column("words", "uint8", per="image", ragged=1),
    Column("lanes", "float32", per="image", shape=(2,), moves="polygon", ragged=2),
    Column("scene", "int32", per="image"),
)
CATEGORIES = (Category(1, "cat"), Category(2, "dog"))
INSIDE, OUTSIDE = [2, 3, 40, 30], [100, 100, 120, 120]  # of an image of 64 x 48
OPTIONS = BuildOptions(Encoding.ORIGINAL, workers=1)


@dataclass
class Made:
    """A source of samples that a test makes."""

    made: list[Sample]
    columns: tuple[Column, ...] = COLUMNS
    format: str = "made"
    location: str = "here"
    categories: tuple[Category, ...] = CATEGORIES
    digest: str = "0"
    problems: tuple[Problem, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.made)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        return iter(self.made[start:])


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("images") / "image.jpg"
    path.write_bytes(jpeg())
    return path


def sample(path: Path, boxes: list[list[float]], number: int = 0, **columns: Any) -> Sample:
    label = np.ones(len(boxes), int)
    boxes_of = {"boxes": np.array(boxes, float).reshape(-1, 4), "label": label}
    size = columns.pop("size", None)
    relative = columns.pop("relative", False)
    return Sample(number, f"{number}.jpg", path, {**boxes_of, **columns}, size, relative=relative)


def plain(values: Any) -> Any:
    """Nested lists and arrays as nested lists."""
    return [plain(value) for value in values] if isinstance(values, list) else np.asarray(values).tolist()


def build(samples: list[Sample], path: Path, options: BuildOptions = OPTIONS, **source: Any) -> Cache:
    return Cache(build_cache(Made(samples, **source), path, options).path)


number = st.integers(-1000, 1000)
point = st.tuples(number, number).map(list)
points = st.lists(point, max_size=3)
objects = st.fixed_dictionaries(
    {
        "boxes": st.sampled_from([INSIDE, INSIDE, OUTSIDE]),
        "polygons": st.lists(points, max_size=3),
        "keypoints": st.just([[1, 2, 1], [0, 0, 0], [-5, 99, 2]]),
        "trace": points,
        "tags": st.lists(number, max_size=3),
    }
)
images = st.fixed_dictionaries(
    {
        "objects": st.lists(objects, max_size=3),
        "words": st.lists(st.integers(0, 255), max_size=4),
        "lanes": st.lists(points, max_size=2),
        "scene": number,
    }
)
OF_OBJECTS = ("polygons", "keypoints", "trace", "tags")


def samples_of(drawn: list[dict[str, Any]], path: Path, first: int = 0) -> list[Sample]:
    made = []
    for i, each in enumerate(drawn, first):
        columns = {name: [one[name] for one in each["objects"]] for name in OF_OBJECTS}
        columns |= {name: each[name] for name in ("words", "lanes", "scene")}
        made.append(sample(path, [one["boxes"] for one in each["objects"]], i, **columns))
    return made


def shown(cache: Cache) -> list[dict[str, Any]]:
    return [{name: plain(values) for name, values in record.columns.items()} for record in cache.records()]


@given(st.lists(images, min_size=1, max_size=4), st.lists(images, min_size=1, max_size=2))
@settings(max_examples=25, deadline=None)
def test_any_values_come_back(image, drawn, others):
    """Built in several transactions, in memory, pickled, converted or joined: each kept object has its own values."""
    expected = []
    for each in (*drawn, *others):
        kept = [one for one in each["objects"] if one["boxes"] == INSIDE]
        of_objects = {name: [one[name] for one in kept] for name in OF_OBJECTS}
        expected.append({**of_objects, **{name: each[name] for name in ("words", "lanes", "scene")}})
    n = len(drawn)
    with TemporaryDirectory() as folder, patch("fastload.cache.write.assemble.COMMIT_BYTES", 1):
        root = Path(folder)
        first = build(samples_of(drawn, image), root / "a.lmdb")
        second = build(samples_of(others, image, n), root / "b.lmdb")
        made = [
            make_record(one, {1: 0, 2: 1}, Encoding.ORIGINAL, Reduction(), False, COLUMNS)
            for one in samples_of(drawn, image)
        ]
        memory = MemoryCache([(one.record, one.entry) for one in made], CATEGORIES, COLUMNS)
        converted = Cache(transcode_cache(first.path, root / "c.lmdb", ReencodeOptions(Encoding.PLANES)).path)
        for cache in (first, memory, pickle.loads(pickle.dumps(memory)), converted):
            assert shown(cache) == expected[:n]
            assert set(cache.store.columns) == set(COLUMNS)
        assert shown(Cache([first, second])) == expected
        assert shown(Cache([second, memory], renumber=True)) == expected[n:] + expected[:n]
        assert verify_cache(first.path) == []
        for name, ragged in Cache([first, second]).annotations_without_crowds.ragged.items():
            assert isinstance(ragged, Ragged) and ragged.column.name == name
            whole = [each[name] for each in expected]
            rows = [one for each in whole for one in each] if ragged.column.per == "object" else whole
            assert plain(ragged.lists()) == rows


@given(st.lists(st.lists(points, max_size=3), max_size=6), st.data())
def test_rows_are_chosen_as_those_of_an_array(values, data):
    """By slices, masks and row numbers in any order, with repeats, of two levels and of one."""
    n = len(values)
    rows = data.draw(st.lists(st.integers(0, max(n - 1, 0)), max_size=6)) if n else []
    mask = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    bound = st.none() | st.integers(-8, 8)
    cut = slice(data.draw(bound), data.draw(bound), data.draw(st.sampled_from([None, 1, 2, -1])))
    flat = [[point for ring in one for point in ring] for one in values]
    for levels, lists in ((2, values), (1, flat)):
        ragged = Column("x", "int64", shape=(2,), ragged=levels).given(lists, n)
        assert plain(ragged.lists()) == lists and len(ragged) == n
        assert plain(ragged[np.array(rows, int)].lists()) == [lists[i] for i in rows]
        assert plain(ragged[np.array(mask, bool)].lists()) == list(compress(lists, mask))
        assert plain(ragged[cut].lists()) == lists[cut]
        assert plain(ragged[1:][cut].lists()) == lists[1:][cut]
        assert ragged[:].values.base is not None or not ragged.values.size


def test_an_interrupted_build_keeps_them(image, tmp_path, monkeypatch):
    """A build that stopped after two of four images ends as one that did not."""
    made = [sample(image, [INSIDE] * i, i, polygons=[[[[i, k]] * k] for k in range(i)]) for i in range(4)]
    whole = build(made, tmp_path / "a.lmdb")
    monkeypatch.setattr("fastload.cache.write.assemble.COMMIT_BYTES", 1)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache(Made(made), tmp_path / "b.lmdb", OPTIONS, stop)
    report = build_cache(Made(made), tmp_path / "b.lmdb", OPTIONS)
    assert report.resumed == 2 and Cache(report.path).fingerprint == whole.fingerprint


KEYPOINTS = [[8, 12, 2], [7, 9, 0], [-4, 60, 1]]
POLYGONS = [[[2, 3], [40, 3], [40, 50]], [[4, 4], [8, 4], [8, 8]]]


def moving(path: Path, **more: Any) -> Sample:
    """A sample with points inside and outside of its image of 64 x 48, and one that is unlabeled."""
    columns = {"keypoints": [KEYPOINTS], "polygons": [POLYGONS], "trace": [POLYGONS[0]], "lanes": POLYGONS}
    return sample(path, [INSIDE], **{**columns, **more})


@pytest.mark.parametrize("convert", [False, True])
def test_points_follow_an_image_that_is_stored_smaller(image, tmp_path, convert):
    """Halved with the image, by the build or by a conversion; not clipped; what is unlabeled stays (0, 0, 0)."""
    half = Reduction(short=24)
    if convert:
        whole = build([moving(image)], tmp_path / "a.lmdb")
        cache = Cache(transcode_cache(whole.path, tmp_path / "b.lmdb", ReencodeOptions(Encoding.ORIGINAL, half)).path)
    else:
        cache = build([moving(image)], tmp_path / "a.lmdb", BuildOptions(Encoding.ORIGINAL, half))
    record = cache.record(0)
    assert record.size == (32, 24) and record.boxes.tolist() == [[1, 1.5, 20, 15]]
    assert record.columns["keypoints"].tolist() == [[[4, 6, 2], [0, 0, 0], [-2, 30, 1]]]
    halved = [(np.array(ring) / 2).tolist() for ring in POLYGONS]
    assert plain(record.columns["polygons"]) == [halved] and plain(record.columns["lanes"]) == halved
    assert plain(record.columns["trace"]) == [halved[0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_point_lies_on_the_same_pixel(orientation):
    """Of all EXIF orientations: the pixel that PIL's turned image has where the point is now is the one it was on."""
    stored = Image.fromarray(np.arange(7 * 5, dtype=np.uint8).reshape(5, 7))
    stored.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(encoded(stored, "PNG", exif=stored.getexif())))))
    y, x = np.mgrid[:5, :7]
    centers = np.stack([x + 0.5, y + 0.5, y * 7 + x], -1).reshape(-1, 3)
    turned = turn_points(centers, orientation, (7, 5))
    column, row = (turned[:, :2] - 0.5).astype(int).T
    assert upright[row, column].tolist() == turned[:, 2].tolist() == list(range(35))


@pytest.mark.parametrize("drawn_on", ["stored", "upright"])
def test_points_follow_a_turned_image(tmp_path, drawn_on):
    """As boxes do: with the image if the source states the size of the unturned one, else they refer to the upright."""
    picture = Image.fromarray(pixels(64, 48))
    picture.getexif()[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(picture, exif=picture.getexif()))
    size = (64, 48) if drawn_on == "stored" else (48, 64)
    options = BuildOptions(Encoding.ORIGINAL, exif_rotate=True)
    record = build([moving(tmp_path / "a.jpg", size=size)], tmp_path / "c.lmdb", options).record(0)
    expected = {"keypoints": [KEYPOINTS], "polygons": [POLYGONS]}
    if drawn_on == "stored":
        expected["keypoints"] = [[[48 - y, x, v] for x, y, v in KEYPOINTS]]
        expected["polygons"] = [[[[48 - y, x] for x, y in ring] for ring in POLYGONS]]
    expected["keypoints"][0][1] = [0, 0, 0]
    for name, values in expected.items():
        assert plain(record.columns[name]) == values


def test_relative_coordinates_become_pixels(image, tmp_path):
    """A source whose boxes are in 0..1 has its points and polygons in 0..1 too."""
    columns = {"keypoints": [[[0.5, 0.25, 2], [0, 0, 0], [1.5, 1, 1]]], "polygons": [[[[0, 0], [1, 0], [1, 1]]]]}
    record = build([sample(image, [[0, 0, 1, 0.5]], relative=True, **columns)], tmp_path / "c.lmdb").record(0)
    assert record.boxes.tolist() == [[0, 0, 64, 24]]
    assert record.columns["keypoints"].tolist() == [[[32, 12, 2], [0, 0, 0], [96, 48, 1]]]
    assert plain(record.columns["polygons"]) == [[[[0, 0], [64, 0], [64, 48]]]]


def test_further_boxes_and_areas_move(image, tmp_path):
    """A box of a source's own is clipped and scaled as the box of the object is, and an area with it."""
    extra = (Column("visible", "float32", shape=(4,), moves="box"), Column("room", "float64", moves="area"))
    made = [sample(image, [INSIDE], visible=[[-4, 2, 8, 90]], room=[10])]
    cache = build(made, tmp_path / "c.lmdb", BuildOptions(Encoding.ORIGINAL, Reduction(24)), columns=extra)
    assert cache.record(0).columns["visible"].tolist() == [[0, 1, 4, 24]] and cache.columns["room"].tolist() == [2.5]
    assert set(cache.store.columns) == set(extra)


def test_items_have_all_columns(image, tmp_path):
    """`cache[i]` has each column as tensors of its own: lists for ragged ones, one for each object or for the image."""
    more = {"tags": [[4, 5]], "words": [1, 2], "scene": 9}
    first = build([moving(image, **more), moving(image, number=1, lanes=[])], tmp_path / "a.lmdb")
    for cache in (first, Cache([first, first], renumber=True)):
        for i in range(2):
            target, expected = cache[i][1], cache.record(i).columns
            assert {name: plain(target[name]) for name in expected} == {k: plain(v) for k, v in expected.items()}
    target = first[0][1]
    assert target["polygons"][0][1].shape == (3, 2) and target["tags"][0].dtype == torch.int16
    target["polygons"][0][0] += 1
    target["keypoints"] += 1
    assert plain(first[0][1]["polygons"]) == [POLYGONS] and not torch.equal(
        first[0][1]["keypoints"], target["keypoints"]
    )


def test_what_a_source_does_not_give_is_empty(image, tmp_path):
    """No column, no list for an object, or none for an image: no values; plain points are unlabeled."""
    made = [sample(image, [INSIDE, INSIDE], polygons=[None, POLYGONS]), sample(image, [], 1)]
    first, second = shown(build(made, tmp_path / "c.lmdb"))
    assert first["polygons"] == [[], POLYGONS] and first["tags"] == [[], []] and first["words"] == first["lanes"] == []
    assert first["keypoints"] == np.zeros((2, 3, 3)).tolist() and second["polygons"] == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"polygons": [POLYGONS, POLYGONS]}, "`polygons` has 2 lists for 1 objects"),
        ({"polygons": [POLYGONS[0]]}, r"`polygons` has a list of int64 of shape \(2,\)"),
        ({"polygons": [[[[1, 2, 3]]]]}, r"`polygons` has a list of int64 of shape \(1, 3\), not numbers \('n', 2\)"),
        ({"polygons": [[[[1, np.nan]]]]}, "`polygons` holds coordinates that are not finite"),
        ({"polygons": [[[[1, 1e300]]]]}, "`polygons` holds coordinates that are not finite"),
        ({"polygons": [5]}, "len"),
        ({"polygons": [[[["a", "b"]]]]}, "`polygons` has a list of <U1"),
        ({"keypoints": [[[1, 2, 3], [0, 0, 0], [np.inf, 0, 1]]]}, "`keypoints` holds coordinates that are not finite"),
        ({"tags": [[1, 70_000]]}, "`tags` holds numbers that int16 cannot"),
        ({"tags": [3]}, r"`tags` has a list of int64 of shape \(\)"),
        ({"tags": [[[], []]]}, r"`tags` has a list of float64 of shape \(2, 0\)"),
        ({"words": [[1], [2]]}, r"`words` has a list of int64 of shape \(2, 1\)"),
    ],
)
def test_a_source_that_contradicts_itself_is_an_error(image, tmp_path, columns, message):
    """Wrong shapes, numbers and lengths name the image and the column."""
    with pytest.raises(SourceError, match=rf"image 7 \(7.jpg\) are invalid: .*{message}"):
        build([sample(image, [INSIDE], 7, **columns)], tmp_path / "c.lmdb")


def test_values_of_dropped_objects_are_not_looked_at(image, tmp_path):
    """An object whose box is dropped takes its points along, whatever they are; so does an unlabeled point."""
    keypoints = [[[np.nan] * 3] * 3, [[np.nan, np.nan, 0]] * 3]
    record = build([sample(image, [OUTSIDE, INSIDE], keypoints=keypoints)], tmp_path / "c.lmdb").record(0)
    assert record.columns["keypoints"].tolist() == [[[0, 0, 0]] * 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int32", "shape": (2,), "moves": "points"}, "float32 or float64"),
        ({"dtype": "float32", "moves": "points"}, "moves as points"),
        ({"dtype": "float32", "shape": (4,), "moves": "points"}, "moves as points"),
        ({"dtype": "float32", "shape": (3,), "moves": "polygon"}, "moves as polygon"),
        ({"dtype": "float32", "shape": (2,), "moves": "box"}, "moves as box"),
        ({"dtype": "float32", "shape": (2,), "moves": "mask"}, "moves as mask"),
        ({"dtype": "float32", "ragged": 3}, "3 levels"),
        ({"dtype": "float32", "ragged": -1}, "-1 levels"),
        ({"dtype": "float32", "shape": (4, 2), "flip_pairs": ((0, 1),)}, "move as points"),
        ({"dtype": "float32", "shape": (2,), "moves": "points", "flip_pairs": ((0, 1),)}, "move as points"),
        *(
            ({"dtype": "float32", "shape": (4, 3), "moves": "points", "flip_pairs": pairs}, "pairs of different points")
            for pairs in (((0, 4),), ((1, 1),), ((0, 1), (1, 2)), ((0, 1, 2),), (3,), ((-1, 0),), ((0, 1.0),), "ab")
        ),
    ],
)
def test_columns_that_cannot_be_are_refused(settings, message):
    """What moves is made of floating point numbers of the right shape; lists are at most of lists."""
    with pytest.raises(ValueError, match=message):
        Column("x", **settings)


def test_batches_and_examples_are_as_without_them(image, tmp_path):
    """Loaders and subsets go on showing plain columns; `annotations.ragged` has rows as objects have."""
    made = [moving(image, crowd=[i % 2]) for i in range(3)]
    made = [Sample(i, f"{i}.jpg", image, {**one.columns, "tags": [[i] * i]}) for i, one in enumerate(made)]
    cache = build(made, tmp_path / "c.lmdb")
    assert cache.columns.keys() == {"keypoints", "scene"}
    assert cache.ragged.keys() == {"polygons", "trace", "tags", "words", "lanes"}
    ((_, targets),) = FastLoader(cache.subset([2, 0]), 2)
    assert targets.columns["keypoints"].shape == (2, 1, 3, 3) and targets.image_id.tolist() == [2, 0]
    assert plain(cache.annotations.ragged["tags"].lists()) == [[], [1], [2, 2]]
    assert plain(cache.annotations_without_crowds.ragged["tags"].lists()) == [[], [2, 2]]
    assert len(cache.annotations_without_crowds.ragged["words"]) == 3
    assert not cache.record(1).columns["polygons"][0][0].flags.writeable
    assert "│ polygons " in CliRunner().invoke(app, ["info", str(cache.path)]).stdout


def test_a_column_of_another_kind_is_another_cache(image, tmp_path):
    """A cache is up to date only if its columns are ragged and move as the source's do; caches show what all have."""
    made, tags = [sample(image, [INSIDE])], [Column("tags", "float32"), Column("tags", "float32", ragged=1)]
    ragged = build(made, tmp_path / "a.lmdb", columns=tags[1:])
    for other in (tags[0], Column("tags", "float32", ragged=2), Column("tags", "float32", moves="area")):
        with pytest.raises(CacheError, match="columns differ"):
            build(made, ragged.path, columns=(other,))
    both = Cache([ragged, build(made, tmp_path / "b.lmdb", columns=tags[:1])], renumber=True)
    assert not both.store.columns and both[0][1].keys() == both[1][1].keys() == both[0][1].keys() - {"tags"}


def test_readers_of_the_first_release_skip_them(image, tmp_path):
    """An entry of the manifest that they would take for a plain column has a key that they do not know."""
    manifest = build([moving(image)], tmp_path / "c.lmdb").manifest
    known = {"dtype", "shape", "checksum"}
    found = {
        key
        for key, described in manifest.arrays.items()
        if re.fullmatch(r"(image|object)/[A-Za-z_][A-Za-z0-9_]{0,63}", key) and described.keys() == known
    }
    assert found == {"image/scene"}


@pytest.fixture(scope="module")
def ragged(image, tmp_path_factory) -> Path:
    """Two images with an object each."""
    made = [moving(image, tags=[[4, 5, 6]], words=[1]), moving(image, tags=[[]], words=[2, 3])]
    made = [Sample(i, one.name, image, one.columns) for i, one in enumerate(made)]
    return build(made, tmp_path_factory.mktemp("ragged") / "c.lmdb").path


def changed(cache: Path, copy: Path, key: str, values: Any = None, **described: Any) -> Path:
    """A copy of a cache with another array for `key`, or none, and sound checksums."""
    copy.write_bytes(cache.read_bytes())
    with lmdb.open(str(copy), subdir=False, lock=False, map_size=1 << 28) as env, env.begin(write=True) as txn:
        manifest = json.loads(txn.get(MANIFEST_KEY).partition(b"\n")[2])
        if values is None and not described:
            del manifest["arrays"][key]
        else:
            content = np.array(values).tobytes() if values is not None else txn.get(INDEX_PREFIX + key.encode())
            shape = {} if values is None else {"shape": list(np.shape(values))}
            manifest["arrays"][key] |= {"checksum": f"{_core.xxh64(content):016x}", **shape, **described}
            txn.put(INDEX_PREFIX + key.encode(), content)
        text = json.dumps(manifest, sort_keys=True).encode()
        txn.put(MANIFEST_KEY, b"xxh64=%016x\n" % _core.xxh64(text) + text)
    return copy


HUGE = 1 << 62
OFFSETS = {
    "object/tags/offsets": [[0, 4, 3], [1, 3, 3], [0, 3, 2], [0, -1, 3], [0, HUGE, 3], [-HUGE, 0, 3], [0, 3, HUGE]],
    "image/words/offsets": [[0, 4, 3], [0, 1, 3, 3], []],
    "object/polygons/offsets": [[0, 2, 5], [0, 5, 4], [2, 2, 4], [0, 2]],
    "object/polygons/inner_offsets": [[0, 3, 6, 9, 13], [0, 6, 3, 9, 12], [3, 3, 6, 9, 12], [0, 12], [], [0]],
}


@pytest.mark.parametrize(("key", "values"), [(key, values) for key, lists in OFFSETS.items() for values in lists])
def test_offsets_that_do_not_fit_are_refused(ragged, tmp_path, key, values):
    """Offsets that fall, begin or end elsewhere or are too few, with sound checksums: an error with the file's name."""
    path = changed(ragged, tmp_path / "x.lmdb", key, np.array(values, np.int64))
    with pytest.raises(CacheError, match=f"{path} cannot be read as a cache: its .*(wrong|invalid)"):
        Cache(path)


@pytest.mark.parametrize(
    ("key", "described"),
    [
        ("object/tags/offsets", {}),
        ("object/tags/offsets", {"dtype": "<u8"}),
        ("object/tags/offsets", {"shape": [3.0]}),
        ("object/tags/offsets", {"shape": [3, 1]}),
        ("object/tags/offsets", {"shape": 3}),
        ("object/tags/offsets", {"checksum": 0}),
        ("object/polygons/inner_offsets", {}),
        ("object/polygons/inner_offsets", {"shape": [5.0]}),
        ("object/polygons/inner_offsets", {"shape": [HUGE]}),
        ("object/tags", {"shape": [4]}),
        ("object/tags", {"shape": [HUGE, HUGE]}),
        ("object/tags", {"ragged": 2}),
        ("object/tags", {"ragged": 0}),
        ("object/polygons", {"ragged": 1}),
        ("object/polygons", {"moves": "box"}),
        ("object/keypoints", {"moves": "polygon"}),
        ("object/keypoints", {"ragged": 1}),
        ("object/keypoints", {"flip_pairs": [[0, 3]]}),
        ("object/keypoints", {"flip_pairs": [[0, 1], [1, 2]]}),
        ("object/keypoints", {"flip_pairs": [0, 1]}),
        ("object/polygons", {"flip_pairs": [[0, 1]]}),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(ragged, tmp_path, key, described):
    """Types, shapes and traits are untrusted: an error that names the file, never a read out of bounds."""
    path = changed(ragged, tmp_path / "x.lmdb", key, **described)
    with pytest.raises(CacheError, match=f"{path} cannot be read as a cache"):
        Cache(path)


@given(st.sampled_from(sorted(OFFSETS)), st.lists(st.integers(-2, 14), max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_offsets_are_read_or_refused(ragged, key, values):
    """Whatever the offsets are: an error, or lists that together are all the values."""
    with TemporaryDirectory() as folder:
        path = changed(ragged, Path(folder) / "x.lmdb", key, np.array(values, np.int64))
        try:
            cache = Cache(path)
        except CacheError as error:
            assert str(path) in str(error)
            return
        assert values[0] == 0 and values == sorted(values) and len(shown(cache)) == 2
        name = key.split("/")[1]
        lists = cache.ragged[name].lists()
        rings = [ring for one in lists for ring in one] if name == "polygons" else lists
        assert sum(map(len, rings)) == len(cache.ragged[name].values)


def test_offsets_overwritten_under_an_open_cache_are_noticed(ragged, tmp_path):
    """Offsets belong to the index: a change under an open cache is found as in any array of it."""
    path = tmp_path / "x.lmdb"
    path.write_bytes(ragged.read_bytes())
    cache, at = Cache(path), path.read_bytes().index(np.array([0, 3, 6, 9, 12]).tobytes())
    with open(path, "r+b") as file:
        file.seek(at + 8)
        file.write(b"\x7f")
    with pytest.raises(CacheError, match="its index has changed"):
        cache.check_unchanged()


def test_the_document_says_how_they_are_stored():
    """docs/format.md names the arrays of offsets, and the keys and values of a manifest's entry."""
    text = (Path(__file__).parents[2] / "docs/format.md").read_text()
    for word in (
        "name + `/offsets`",
        "name + `/inner_offsets`",
        "`moves`",
        "`ragged`",
        "`flip_pairs`",
        "`points`",
        "`polygon`",
    ):
        assert word in text, word
