"""Extra columns: from a dataset's fields through the cache to the batches, and arrays that readers do not know."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fastload import Cache, CacheError, FastLoader, Mosaic, RandomFlip, ScaleJitterCrop, SourceError, _core
from fastload.annotations import DTYPES, MAX_VALUES, SCHEMA, Annotations, Column
from fastload.cache.format.layout import INDEX_PREFIX, MANIFEST_KEY, Encoding
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
from fastload.cache.write.resize import Reduction
from fastload.cli.app import app
from fastload.sources.detect import Format, find_datasets
from fastload.sources.voc import VocSource
from tests.support.datasets import box, jpeg, write_coco

COLUMNS = ["difficult:bool", "track_id", "weight", "pose", "scene:int32"]
OPTIONS = BuildOptions(Encoding.DCT, workers=2)


def annotated(root: Path, images: int = 8) -> Path:
    """A COCO folder whose k-th image has k boxes, some around crowds, one outside; its fields number them."""
    boxes, i = [], 0
    for k in range(images):
        for j in range(k):
            fields = {"difficult": j % 2 == 1, "track_id": 1000 * k + j, "weight": i / 4, "pose": [i, -i]}
            boxes.append(box(i + 1, 10 * (k + 1), [5 * j, 3, 20, 30], iscrowd=int(j == 3), **fields))
            i += 1
    boxes.insert(5, box(999, 40, [100, 100, 5, 5], difficult=True, track_id=-7, weight=99.0, pose=[9, 9]))
    del boxes[2]["weight"]
    write_coco(root, {f"{i}.jpg": jpeg(seed=i) for i in range(images)}, boxes)
    path = root / "annotations/instances_train.json"
    document = json.loads(path.read_text())
    for image in document["images"]:
        image["scene"] = image["id"] // 10
    path.write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return annotated(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def cache(root) -> Cache:
    return Cache(build_cache(find_datasets(root, columns=COLUMNS)[0].load(), root / "columns.lmdb", OPTIONS).path)


@pytest.fixture(scope="module")
def plain(root) -> Cache:
    return Cache(build_cache(find_datasets(root)[0].load(), root / "plain.lmdb", OPTIONS).path)


def test_the_cache_has_the_columns_of_the_boxes_it_has(cache):
    """One mask for all: a dropped box takes its values along; types are those asked for or found, gaps are filled."""
    columns = cache.columns
    kinds = {name: (array.dtype.name, array.shape[1:]) for name, array in columns.items()}
    assert kinds == {
        "difficult": ("bool", ()),
        "track_id": ("int64", ()),
        "weight": ("float32", ()),
        "pose": ("int64", (2,)),
        "scene": ("int32", ()),
    }
    expected = [1000 * k + j for k in range(8) for j in range(k)]
    assert columns["track_id"].tolist() == expected and columns["scene"].tolist() == list(range(1, 9))
    assert columns["difficult"].tolist() == [track % 1000 % 2 == 1 for track in expected]
    assert np.isnan(columns["weight"][2]) and columns["weight"][3:].tolist() == [i / 4 for i in range(3, 28)]
    assert columns["pose"].tolist() == [[i, -i] for i in range(28)]


def test_records_and_examples_show_them(cache, plain):
    """`record(i).columns` and the dict of `cache[i]` hold an image's; without extra columns there are none."""
    record, (_, target) = cache.record(3), cache[3]
    assert record.columns["track_id"].tolist() == [3000, 3001, 3002] and record.columns["scene"] == 4
    assert target["pose"].shape == (3, 2) and int(target["scene"]) == 4 and target["difficult"].dtype == torch.bool
    assert not plain.columns and not plain.record(3).columns
    assert plain[3][1].keys() == {"boxes", "labels", "image_id", "area", "iscrowd"}


CUT = [ScaleJitterCrop(40, min_visible=0.3), RandomFlip()]


@pytest.mark.parametrize("transforms", [[], CUT, [Mosaic(48)]], ids=["whole", "cut", "mosaic"])
@pytest.mark.parametrize("skip_crowd", [False, True])
def test_batches_show_each_box_with_its_own_values(cache, transforms, skip_crowd):
    """Whatever is cut, dropped or mixed, a box comes with its own values: `area` and `weight` tell which box it is."""
    settings = {"transforms": transforms, "skip_crowd": skip_crowd, "num_workers": 2, "shuffle": True}
    seen = 0
    for _, targets in FastLoader(cache, 3, **settings, generator=torch.Generator().manual_seed(1)):
        valid = targets.labels >= 0
        track, columns = targets.columns["track_id"], targets.columns
        assert columns.keys() == {"difficult", "track_id", "weight", "pose"} and track.shape == targets.labels.shape
        assert columns["pose"].shape == (*targets.labels.shape, 2)
        assert all((values[~valid] == 0).all() for values in columns.values())
        k, j = track[valid] // 1000, track[valid] % 1000
        assert (targets.crowd[valid] == (j == 3)).all() and (columns["difficult"][valid] == (j % 2 == 1)).all()
        assert (columns["pose"][valid][:, 0] == k * (k - 1) // 2 + j).all()
        if transforms in ([], CUT):
            assert (k == (targets.image_id // 10 - 1)[:, None].expand_as(valid)[valid]).all()
        assert targets.image_columns["scene"].tolist() == (targets.image_id // 10).tolist()
        seen += int(valid.sum())
    assert seen > 10 and (skip_crowd or transforms or seen == 28)


def test_the_dicts_of_a_batch_are_those_of_the_cache(cache):
    """`targets[i]` has every column, of the image's own boxes, with the values and types of `cache[i]`."""
    for _, targets in FastLoader(cache, 3):
        for target in targets:
            _, own = cache[cache.index_of(target["image_id"])]
            assert target.keys() == own.keys()
            for name in cache.columns:
                assert target[name].dtype == own[name].dtype
                torch.testing.assert_close(target[name], own[name], equal_nan=True)


def test_they_cost_nothing_where_there_are_none(plain, monkeypatch):
    """Without extra columns nothing is gathered."""
    monkeypatch.setattr(Annotations, "of_objects", None)
    monkeypatch.setattr(Annotations, "of_images", None)
    (batch,) = FastLoader(plain, 8)
    assert batch.targets.columns == batch.targets.image_columns == batch.targets.lists == {}


def test_batches_with_columns_move_and_pickle(cache):
    """Moving and pickling keep them; a collated batch of another function gets them in its dicts."""
    batch = next(iter(FastLoader(cache, 4)))
    again = pickle.loads(pickle.dumps(batch.targets))
    assert torch.equal(again.columns["pose"], batch.targets.columns["pose"])
    assert batch.to("meta").targets.columns["track_id"].is_meta and again[3]["track_id"].tolist() == [3000, 3001, 3002]
    assert batch.to("meta").targets.image_columns["scene"].is_meta
    samples = next(iter(FastLoader(cache, 4, collate_fn=list)))
    assert samples[2][1]["track_id"].tolist() == [2000, 2001]


@pytest.mark.filterwarnings("ignore:1 images")
def test_a_failed_image_shows_no_values(cache, tmp_path):
    """With on_error="skip" a damaged image's boxes go, and their values with them."""
    path = tmp_path / "x.lmdb"
    data = bytearray(cache.path.read_bytes())
    start = int(cache._mapping.offsets[3])
    data[start + 40 : start + 80] = bytes(40)
    path.write_bytes(data)
    (batch,) = FastLoader(path, 8, on_error="skip")
    assert batch.targets.num_boxes[3] == 0 and not batch.targets.columns["track_id"][3].any()
    assert batch.targets.columns["track_id"][4, :4].tolist() == [4000, 4001, 4002, 4003]


@pytest.mark.parametrize("options", [ReencodeOptions(Encoding.PLANES), ReencodeOptions(Encoding.DCT, Reduction(24))])
def test_converted_caches_keep_them(cache, tmp_path, options):
    """`convert-cache` carries every column over, also where pictures become smaller."""
    converted = Cache(transcode_cache(cache.path, tmp_path / "c.lmdb", options).path)
    assert converted.columns.keys() == cache.columns.keys()
    for name, values in cache.columns.items():
        np.testing.assert_array_equal(converted.columns[name], values)
        assert converted.columns[name].dtype == values.dtype


def test_an_interrupted_build_keeps_them(root, cache, tmp_path, monkeypatch):
    """A build that stopped after three of eight images, and after one without boxes, ends as one that did not."""
    monkeypatch.setattr("fastload.cache.write.assemble.COMMIT_BYTES", 1)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    path = tmp_path / "c.lmdb"
    with pytest.raises(KeyboardInterrupt):
        build_cache(find_datasets(root, columns=COLUMNS)[0].load(), path, OPTIONS, stop)
    report = build_cache(find_datasets(root, columns=COLUMNS)[0].load(), path, OPTIONS)
    assert report.resumed == 3 and Cache(path).fingerprint == cache.fingerprint


def test_other_columns_are_another_cache(root, cache, plain):
    """A cache is up to date only for the columns it was built with; the fingerprint tells it from one without."""
    assert cache.fingerprint != plain.fingerprint
    build_cache(find_datasets(root, columns=COLUMNS)[0].load(), cache.path, OPTIONS)
    for columns in ([], COLUMNS[1:], ["difficult", *COLUMNS[1:-1], "scene:int64"]):
        with pytest.raises(CacheError, match="columns differ"):
            build_cache(find_datasets(root, columns=columns)[0].load(), cache.path, OPTIONS)


def test_the_command_line_builds_them(root, tmp_path):
    """`build-cache --column NAME:TYPE`, repeated; `image/` says that the image's field is meant. `info` shows them."""
    out = tmp_path / "c.lmdb"
    arguments = ["build-cache", str(root), "--out", str(out), "--column", "track_id:int32", "--column", "image/scene"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    types = {name: array.dtype.name for name, array in Cache(out).columns.items()}
    assert types == {"track_id": "int32", "scene": "int64"}
    shown = " ".join(CliRunner().invoke(app, ["info", str(out)]).stdout.split())
    assert "│ scene │ " in shown and "│ track_id │ int32 │ 112 │ " in shown


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["nothing"], r"has no field `nothing`. Its fields: .*difficult.*scene"),
        (["image/track_id"], "has no field `track_id`"),
        (["file_name"], "`file_name` cannot be a column: see image 10"),
        (["pose:uint8"], "`pose` cannot be a column: see annotation 2"),
        (["difficult:float16"], "TYPE one of bool"),
        (["../x"], "is not a column"),
        (["bbox"], "would not move"),
        (["area"], "'area' cannot be an extra column"),
        (["track_id", "track_id:int32"], "requested twice"),
    ],
)
def test_fields_that_make_no_column_are_named(root, columns, message):
    """An error says which field, which annotation and what is there instead."""
    with pytest.raises(SourceError, match=message):
        find_datasets(root, columns=columns)[0].load()


@pytest.mark.parametrize("values", [[1, 2, "x"], [[1, 2], [3]], [1, 2, 2**80], [[], [], []], [1, {"a": 1}, 2]])
def test_a_value_unlike_the_others_is_an_error(tmp_path, values):
    """Text, lists of several lengths, objects and numbers too large are not guessed at."""
    boxes = [box(i, 10, [1, 1, 5, 5], mark=value) for i, value in enumerate(values)]
    root = write_coco(tmp_path, {"a.jpg": jpeg()}, boxes)
    with pytest.raises(SourceError, match="`mark` cannot be a column: see annotation"):
        find_datasets(root, columns=["mark"])[0].load()


def test_formats_without_fields_say_so(tmp_path):
    """A folder of pictures has no columns to keep."""
    (tmp_path / "a.jpg").write_bytes(jpeg())
    with pytest.raises(SourceError, match="cannot have extra columns"):
        find_datasets(tmp_path, Format.FOLDER, columns=["difficult"])


VOC = (
    """<annotation><size><width>64</width><height>48</height></size><segmented>{i}</segmented>{objects}</annotation>"""
)
OBJECT = """<object><name>cat</name><pose>Left</pose><truncated>{t}</truncated><difficult>{d}</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{x}</xmax><ymax>20</ymax></bndbox></object>"""


def test_voc(tmp_path):
    """VOC: what stands in an object or beside it, of every listed image from any position on."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(3):
        objects = "".join(OBJECT.format(t=(i + j) % 2, d=j, x=10 + j) for j in range(i))
        (tmp_path / f"Annotations/{i}.xml").write_text(VOC.format(i=i, objects=objects))
        (tmp_path / f"JPEGImages/{i}.jpg").write_bytes(jpeg())
    source = VocSource(tmp_path, "all", ["truncated:bool", "difficult", "segmented"])
    cache = Cache(build_cache(source, tmp_path / "c.lmdb", OPTIONS).path)
    assert cache.columns["truncated"].tolist() == [True, False, True] and cache.crowd.tolist() == [False, False, True]
    assert cache.columns["difficult"].tolist() == [0, 0, 1] and cache.columns["segmented"].tolist() == [0, 1, 2]
    assert next(iter(source.samples(2))).columns["difficult"].tolist() == [0, 1]
    with pytest.raises(SourceError, match=r"`pose` cannot be a column: see 1.xml"):
        VocSource(tmp_path, "all", ["pose"])


def with_array(cache: Path, copy: Path, key: str, content: bytes, **described) -> Path:
    """A copy of a cache that has one more index array, with sound checksums."""
    copy.write_bytes(cache.read_bytes())
    with lmdb.open(str(copy), subdir=False, lock=False, map_size=1 << 28) as env, env.begin(write=True) as txn:
        manifest = json.loads(txn.get(MANIFEST_KEY).partition(b"\n")[2])
        manifest["arrays"][key] = {"checksum": f"{_core.xxh64(content):016x}", **described}
        text = json.dumps(manifest, sort_keys=True).encode()
        txn.put(MANIFEST_KEY, b"xxh64=%016x\n" % _core.xxh64(text) + text)
        txn.put(INDEX_PREFIX + key.encode(), content)
    return copy


@pytest.mark.parametrize(
    ("key", "described"),
    [
        ("polygons", {"dtype": "<f4", "shape": [7, 2], "offsets": "polygons_offset", "per": "object"}),
        ("ragged/polygons", {"dtype": "<f4", "shape": [7, 2]}),
        ("object/masks", {"dtype": "<f4", "shape": [28, 2], "moves": "mask"}),
        ("object/lists", {"dtype": "<f4", "shape": [7, 2], "moves": ["points"]}),
        ("object/deep", {"dtype": "<f4", "shape": [7, 2], "ragged": 3}),
        ("object/deep", {"dtype": "<f4", "shape": [7, 2], "ragged": True}),
        ("object/deep/offsets", {"dtype": "<i8", "shape": [7]}),
        ("object/half", {"dtype": "<f2", "shape": [28]}),
        ("object/text", {"dtype": "|S4", "shape": [28]}),
        ("object/pickled", {"dtype": "|O", "shape": [28]}),
        ("object/bad name", {"dtype": "<f4", "shape": [28]}),
        ("frame/time", {"dtype": "<f4", "shape": [3]}),
    ],
)
def test_an_array_of_an_unknown_kind_is_skipped(plain, tmp_path, key, described):
    """Deeper lists, other moves, types and keys of a later version: the rest is read as ever, to the same batches."""
    copy = Cache(with_array(plain.path, tmp_path / "x.lmdb", key, b"?" * 56, **described))
    assert not copy.columns and copy.fingerprint != plain.fingerprint
    copy.check_unchanged()
    for (images, targets), (own_images, own_targets) in zip(FastLoader(copy, 3), FastLoader(plain, 3), strict=True):
        assert torch.equal(images, own_images) and torch.equal(targets.boxes, own_targets.boxes)
    transcode_cache(copy.path, tmp_path / "y.lmdb", ReencodeOptions(Encoding.DCT))


def test_a_known_kind_added_by_hand_is_a_column(plain, tmp_path):
    """What format.md says of extra columns is all that there is to them."""
    content = np.arange(28, dtype="<f8").tobytes()
    copy = Cache(with_array(plain.path, tmp_path / "x.lmdb", "object/x", content, dtype="<f8", shape=[28]))
    assert copy.columns["x"].tolist() == list(range(28))


@pytest.mark.parametrize(
    ("key", "described"),
    [
        ("object/x", {"dtype": "u1", "shape": [27]}),
        ("object/x", {"dtype": "u1", "shape": [28.0]}),
        ("object/x", {"dtype": "u1", "shape": [True]}),
        ("object/x", {"dtype": "u1", "shape": []}),
        ("object/x", {"dtype": "u1", "shape": 28}),
        ("object/x", {"dtype": "u1", "shape": [28, 0]}),
        ("object/x", {"dtype": "u1", "shape": [28, -1]}),
        ("object/x", {"dtype": "u1", "shape": [28, 2]}),
        ("object/x", {"dtype": "u1", "shape": [28, 1 << 32, 1 << 32]}),
        ("object/x", {"dtype": "u1", "shape": [28, 1, 1, 1]}),
        ("object/x", {"dtype": "b1", "shape": [28]}),
        ("image/x", {"dtype": "u1", "shape": [28]}),
        ("object/labels", {"dtype": "u1", "shape": [28]}),
        ("object/x", {"dtype": "u1", "shape": [28], "moves": "area"}),
        ("object/x", {"dtype": "<f4", "shape": [7], "moves": "box"}),
        ("object/x", {"dtype": "<f4", "shape": [28, 5], "moves": "points"}),
        ("object/x", {"dtype": "u1", "shape": [28], "ragged": 1}),
        ("object/x", {"dtype": "u1", "shape": [-1], "ragged": 1}),
        ("object/x", {"dtype": "u1", "shape": [28.0], "ragged": 1}),
    ],
)
def test_a_column_that_does_not_fit_is_refused(plain, tmp_path, key, described):
    """Shapes, types and names are untrusted, whatever the checksums say: an error, never a read out of bounds."""
    path = with_array(plain.path, tmp_path / "x.lmdb", key, b"?" * 28, **described)
    with pytest.raises(CacheError, match="cannot be read as a cache"):
        Cache(path)


def test_two_columns_of_one_name_are_refused(plain, tmp_path):
    """One name is one column, of objects or of images."""
    first = with_array(plain.path, tmp_path / "x.lmdb", "object/x", b"?" * 28, dtype="u1", shape=[28])
    with pytest.raises(CacheError, match="two columns have the same name"):
        Cache(with_array(first, tmp_path / "y.lmdb", "image/x", b"?" * 8, dtype="u1", shape=[8]))


def test_a_damaged_column_is_noticed(cache, tmp_path):
    """A flipped bit of an extra column is found on opening, as in any array of the index."""
    data, path = bytearray(cache.path.read_bytes()), tmp_path / "x.lmdb"
    data[data.index(cache.columns["track_id"].tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheError, match="checksum of its object/track_id"):
        Cache(path)


def test_a_column_overwritten_under_an_open_loader_is_noticed(cache, tmp_path):
    """A batch keeps the values it was made with; the next one reports the change."""
    path = tmp_path / "x.lmdb"
    path.write_bytes(cache.path.read_bytes())
    batches, at = iter(FastLoader(path, 4)), path.read_bytes().index(cache.columns["track_id"].tobytes())
    first = next(batches).targets.columns["track_id"]
    before = first.clone()
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b"?" * 8)
    with pytest.raises(CacheError, match=r"its index has changed"):
        next(batches)
    assert first.equal(before)


def test_the_document_says_which_columns_there_may_be():
    """docs/format.md names each type, the prefixes and the limits of an extra column."""
    text = (Path(__file__).parents[2] / "docs/format.md").read_text()
    assert all(f"`{written}`" in text for written in DTYPES.values())
    assert "`object/` + name" in text and "`image/` + name" in text and f"{MAX_VALUES:,} numbers" in text


def test_the_schema_is_the_formats():
    """Every column that all caches have is required, of objects, and named as in the index."""
    assert [column.key for column in SCHEMA] == ["boxes", "label", "crowd", "area", "annotation_id"]
    assert all(column.required and column.per == "object" for column in SCHEMA)
    assert len({Column(name, "bool").key for name in "abc"} | {Column("a", "bool", "image").key}) == 4
    for name, dtype, shape in (("labels", "bool", ()), ("a/b", "bool", ()), ("a", "float16", ()), ("a", "bool", (0,))):
        with pytest.raises(ValueError):
            Column(name, dtype, shape=shape)
