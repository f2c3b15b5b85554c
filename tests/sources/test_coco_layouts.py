"""COCO in the layouts and forms that datasets and annotation tools write."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from fastload import Cache, FastLoader, SourceError, TopLeftAlign
from fastload.cache.format.problems import read_problems
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cli.app import app
from fastload.sources import CocoSource, Sample, digest_of, find_datasets, json_lists
from tests.support.datasets import CATEGORIES, box, jpeg

SIZE = {"width": 64, "height": 48}


def write(
    path: Path, images: Sequence[Any], annotations: Any = None, categories: Any = CATEGORIES, **options: Any
) -> Path:
    """Write a COCO file of `images`, which are names or entries; by default with a box each."""
    entries = [{"id": i, "file_name": each} if isinstance(each, str) else each for i, each in enumerate(images, 1)]
    if annotations is None:
        annotations = [box(i, entry["id"], [i, 2, 10, 20]) for i, entry in enumerate(entries, 1)]
    document = {"images": [SIZE | entry for entry in entries], "annotations": annotations, "categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, **options))
    return path


def put(root: Path, *names: str) -> None:
    """Write images, each with pixels of its own."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(seed=seed))


def read(root: Path, annotations: Sequence[Any], image: Any = "a.jpg", **options: Any) -> tuple[CocoSource, Sample]:
    """The source of one image with `annotations`, and its sample."""
    put(root, "images/a.jpg")
    categories = options.pop("categories", CATEGORIES)
    source = CocoSource(write(root / "x.json", [image], annotations, categories), root / "images", **options)
    return source, next(source.samples())


# Layout: COCO files with the names in them, image files, and the splits with their images.
LAYOUTS: dict[str, tuple[dict[str, list[str]], list[str], dict[str, list[str]]]] = {
    "official": (
        {"annotations/instances_train2017.json": ["a.jpg"], "annotations/instances_val2017.json": ["b.jpg"]},
        ["train2017/a.jpg", "val2017/b.jpg"],
        {"train2017": ["train2017/a.jpg"], "val2017": ["val2017/b.jpg"]},
    ),
    "keypoints alone": (
        {"annotations/person_keypoints_val2017.json": ["b.jpg"]},
        ["val2017/b.jpg"],
        {"person_keypoints_val2017": ["val2017/b.jpg"]},
    ),
    "roboflow": (
        {f"{split}/_annotations.coco.json": [f"{split}.jpg"] for split in ("train", "valid", "test")},
        ["train/train.jpg", "valid/valid.jpg", "test/test.jpg"],
        {split: [f"{split}/{split}.jpg"] for split in ("test", "train", "valid")},
    ),
    "cvat": ({"annotations/instances_default.json": ["a.jpg"]}, ["images/a.jpg"], {"default": ["images/a.jpg"]}),
    "cvat 2": (
        {"annotations/instances_default.json": ["a.jpg"]},
        ["images/default/a.jpg"],
        {"default": ["images/default/a.jpg"]},
    ),
    "fiftyone": ({"labels.json": ["a.jpg"]}, ["data/a.jpg"], {"labels": ["data/a.jpg"]}),
    "label studio": ({"result.json": ["images/a.jpg"]}, ["images/a.jpg"], {"result": ["images/a.jpg"]}),
    "label studio on windows": ({"result.json": ["images\\a.jpg"]}, ["images/a.jpg"], {"result": ["images/a.jpg"]}),
    "label studio uploads": (
        {"result.json": ["/data/upload/1/ab-x.jpg"]},
        ["images/ab-x.jpg"],
        {"result": ["images/ab-x.jpg"]},
    ),
    "mmdetection": (
        {"annotations/train.json": ["a.jpg"], "annotations/val.json": ["b.jpg"]},
        ["train/a.jpg", "val/b.jpg"],
        {"train": ["train/a.jpg"], "val": ["val/b.jpg"]},
    ),
    "one folder of images": (
        {"train.json": ["a.jpg"], "val.json": ["b.jpg"]},
        ["images/a.jpg", "images/b.jpg"],
        {"train": ["images/a.jpg"], "val": ["images/b.jpg"]},
    ),
    "labelme2coco": ({"dataset.json": ["sub/a.jpg"]}, ["sub/a.jpg"], {"dataset": ["sub/a.jpg"]}),
    "beside": ({"coco.json": ["a.jpg"]}, ["a.jpg"], {"coco": ["a.jpg"]}),
    "above": ({"coco.json": ["a.jpg", "b.jpg"]}, ["x/y/a.jpg", "x/z/b.jpg"], {"coco": ["x/y/a.jpg", "x/z/b.jpg"]}),
    "odd names": (
        {"coco.json": ["a (1).jpg", "b\n.jpg", "é\u6587.jpg", "a\\b.jpg"]},
        ["images/a (1).jpg", "images/b\n.jpg", "images/é\u6587.jpg", "images/a\\b.jpg"],
        {"coco": ["images/a (1).jpg", "images/b\n.jpg", "images/é\u6587.jpg", "images/a\\b.jpg"]},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    """Each layout is found without options: its splits, and the file of each image."""
    files, images, expected = LAYOUTS[layout]
    put(tmp_path, *images)
    for name, names in files.items():
        write(tmp_path / name, names)
    found = {each.split: [sample.path for sample in each.load().samples()] for each in find_datasets(tmp_path)}
    assert found == {split: [tmp_path / name for name in names] for split, names in expected.items()}
    source = find_datasets(tmp_path)[0].load()
    assert all(len(sample.columns["boxes"]) == 1 and not sample.skip_reason for sample in source.samples())
    said = [problem for problem in source.problems if problem.kind == "found by name"]
    assert bool(said) == (layout in ("label studio on windows", "label studio uploads", "above"))
    assert len(said) == len(source.problems)


def test_lvis(tmp_path):
    """An image of LVIS has a `coco_url` alone, whose last two parts are its file."""
    put(tmp_path, "train2017/a.jpg", "val2017/a.jpg")
    urls = [f"http://images.cocodataset.org/{split}/a.jpg" for split in ("train2017", "val2017")]
    images = [{"id": i, "coco_url": url, "neg_category_ids": [i]} for i, url in enumerate(urls, 1)]
    write(tmp_path / "lvis_v1_val.json", images)
    source = find_datasets(tmp_path)[0].load()
    assert [sample.path for sample in source.samples()] == [tmp_path / "train2017/a.jpg", tmp_path / "val2017/a.jpg"]
    alone = CocoSource(write(tmp_path / "lvis_v1_train.json", images[:1]), tmp_path / "train2017")
    assert next(alone.samples()).path == tmp_path / "train2017/a.jpg" and not alone.problems


def test_other_files_of_coco_stay_apart(tmp_path):
    """Instances are read, and keypoints where they are wanted; captions, panoptic segments and other JSON never are."""
    put(tmp_path, "val/a.jpg")
    annotated = [box(1, 1, [1, 1, 5, 5], keypoints=[1, 2, 2])]
    for task in ("instances", "person_keypoints", "panoptic"):
        write(tmp_path / f"annotations/{task}_val.json", ["a.jpg"], annotated)
    assert [each.split for each in find_datasets(tmp_path)] == ["val"]
    assert [each.split for each in find_datasets(tmp_path, keypoints=True)] == ["person_keypoints_val"]
    (tmp_path / "annotations/instances_val.json").unlink()
    write(tmp_path / "annotations/panoptic_val.json", ["a.jpg"], [box(1, 1, [], segments_info=[])])
    for name in ("empty.json", "list.json"):
        (tmp_path / name).write_text("[]" * (name == "list.json"))
    (tmp_path / "annotations/captions_val.json").write_text('{"images": [], "annotations": []}')
    assert [each.split for each in find_datasets(tmp_path)] == ["person_keypoints_val"]


def test_a_folder_of_no_known_layout(tmp_path):
    """The error says what is there, what was looked for, and what to do."""
    put(tmp_path, "pictures/a.jpg")
    (tmp_path / "boxes.csv").write_text("")
    with pytest.raises(SourceError, match=r"holds pictures/, 1 \.csv file: looked for .*fastload\.build_cache\("):
        find_datasets(tmp_path)


def test_a_file_that_two_names_lead_to_is_of_neither(tmp_path):
    """Only names as written are sure; several files of one name are not guessed at either."""
    put(tmp_path, "images/x.jpg", "images/a/y.jpg", "images/b/y.jpg", "images/z.jpg")
    names = ["/up/1/x.jpg", "/up/2/x.jpg", "y.jpg", "z.jpg", "/up/z.jpg", "a/y.jpg", "../images/a/y.jpg", "no.jpg"]
    samples = list(CocoSource(write(tmp_path / "x.json", names), tmp_path / "images").samples())
    reasons = [sample.skip_reason or "" for sample in samples]
    assert [bool(reason) for reason in reasons] == [True, True, True, False, True, False, True, False]
    assert "several images lead to" in reasons[0] and "several files are called y.jpg" in reasons[2]
    assert "points outside" in reasons[6] and samples[7].path == tmp_path / "images/no.jpg"


def test_ids_are_whole_numbers_in_any_form(tmp_path):
    """1, 1.0 and "1" are the same id; null and nonsense are named and belong to no image, whatever its id."""
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    images = [{"id": id, "file_name": f"{name}.jpg"} for id, name in ((-1, "a"), ("1", "b"), (0.0, "c"), (None, "d"))]
    good = [box(1, -1.0, [1, 1, 5, 5]), box(2.0, 1, [1, 1, 5, 5], "18"), box("3", "0", [1, 1, 5, 5], 1.0)]
    bad = [box(i, id, [2, 2, 5, 5]) for i, id in enumerate([None, "x", 1.5, True, [1], 2**70, 4], 4)]
    bad += [box(11, 1, [2, 2, 5, 5], category) for category in (None, "dog", {})]
    source = CocoSource(write(tmp_path / "x.json", images, good + bad), tmp_path)
    samples = list(source.samples())
    assert [(sample.image_id, sample.columns["annotation_id"].tolist()) for sample in samples] == [
        (-1, [1]),
        (1, [2]),
        (0, [3]),
    ]
    assert [sample.columns["label"].tolist() for sample in samples] == [[1], [18], [1]]
    kinds = [problem.kind for problem in source.problems]
    assert kinds.count("box dropped") == len(bad) and kinds.count("skipped") == 1
    assert any("annotation 4: its image_id null is no whole number" in each.reason for each in source.problems)


def test_annotation_ids(tmp_path):
    """Annotations of the same id are kept and named; those without a number get the next ones."""
    ids = [7, 7, "abc", None, 9]
    source, sample = read(tmp_path, [*(box(id, 1, [1, 1, 5, 5]) for id in ids), {"image_id": 1, "category_id": 1}])
    assert sample.columns["annotation_id"].tolist() == [7, 7, 10, 11, 9, 12]
    assert [problem.kind for problem in source.problems] == ["renumbered", "renumbered", "duplicate id"]
    assert source.problems[0].reason == 'annotation "abc": its id is no whole number: it is 10 here'


@pytest.mark.parametrize("value", [0, "0", "false", False, 0.0, None, "False", 1, "1", "true", True, 1.0])
def test_crowds_by_value(tmp_path, value):
    """`iscrowd` means what it says in any form."""
    _, sample = read(tmp_path, [box(1, 1, [1, 1, 5, 5], iscrowd=value)])
    assert sample.columns["crowd"].tolist() == [str(value).lower() in ("1", "true", "1.0")]


@pytest.mark.parametrize("value", [2, "maybe", [], -1, ""])
def test_crowds_that_are_none(tmp_path, value):
    """An `iscrowd` that is neither 0 nor 1 is named, and its box is dropped."""
    source, sample = read(tmp_path, [box(1, 1, [1, 1, 5, 5], iscrowd=value), box(2, 1, [1, 1, 5, 5])])
    assert sample.columns["annotation_id"].tolist() == [2] and "is neither 0 nor 1" in source.problems[0].reason


def test_areas_and_boxes(tmp_path):
    """An area that is not positive is the box's own; boxes may be dicts or strings."""
    forms = [[1, 2, 3, 4], ["1", "2", "3", "4.0"], {"x": 1, "y": 2, "width": 3, "height": 4}]
    for bbox in forms:
        _, sample = read(tmp_path, [box(1, 1, bbox, area=6.5), box(2, 1, [1, 2]), box(3, 1, {"x": 1})])
        assert sample.columns["boxes"][0].tolist() == [1, 2, 4, 6] and np.isnan(sample.columns["boxes"][1:]).all()
    _, sample = read(tmp_path, [box(1, 1, forms[0], area=area) for area in (6.5, "6.5", 0, -1, None, "x", 1e40)])
    np.testing.assert_array_equal(sample.columns["area"], [6.5, 6.5, *[np.nan] * 5])


SQUARE = [2, 3, 12, 3, 12, 23.5, 2, 23.5]
RING = [20.25, 4, 30, 4, 30, 9]


@pytest.mark.parametrize("indent", [None, 1])
def test_polygons(tmp_path, indent):
    """Polygons are a ring each; forms that mean the same are read, and what is wrong is named and left out."""
    bad = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4], ["a"] * 6, 5, [[1, 2, 3]] * 3, [1e40] * 6]
    values = [
        [SQUARE, RING],
        SQUARE,
        [[[2, 3], [12, 3], [12, 23.5], [2, 23.5]]],
        [],
        [[]],
        None,
        [*bad, RING],
        "[[1]",
        7,
    ]
    put(tmp_path, "a.jpg")
    annotations = [box(i, 1, [1, 1, 5, 5], segmentation=value) for i, value in enumerate(values)]
    path = write(tmp_path / "x.json", ["a.jpg"], annotations, indent=indent)
    source = CocoSource(path, tmp_path, masks=True)
    polygons = next(source.samples()).columns["polygons"]
    assert [[ring.ravel().tolist() for ring in rings] for rings in polygons] == [
        [SQUARE, RING],
        *[[SQUARE]] * 2,
        *[[]] * 3,
        [RING],
        *[[]] * 2,
    ]
    assert [column.name for column in source.columns] == ["polygons"]
    assert [each.kind for each in source.problems] == ["mask dropped"] * (len(bad) + 2)
    assert any("annotation 6: a polygon has 7 numbers, which are no pairs" in each.reason for each in source.problems)
    plain = CocoSource(path, tmp_path)
    assert not plain.columns and not plain.problems and "polygons" not in next(plain.samples()).columns


def test_masks_in_run_lengths(tmp_path):
    """Run lengths, compressed or not, are kept compressed; masks of another size than their image are named."""
    mask = np.zeros((48, 64), np.uint8, "F")
    mask[5:20, 7:30] = 1
    rle = coco_mask.encode(mask)
    text = rle["counts"].decode()
    runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=1 - mask[0, 0], append=2))).tolist()
    bad = [{"size": [1, 2], "counts": [1, 1]}, {"size": [48, 64]}, {"counts": text}, {"size": [48, 64], "counts": "~"}]
    bad += [{"size": [48, 64], "counts": counts} for counts in ([5], ["x"], [-1, 48 * 64 + 1], text[:-1])]
    values = [{"size": [48, 64], "counts": text}, {"size": [48, 64], "counts": runs}, [SQUARE], *bad]
    annotations = [box(i, 1, [1, 1, 5, 5], segmentation=value) for i, value in enumerate(values)]
    source, sample = read(tmp_path, annotations, masks=True)
    found = sample.columns["rle"]
    assert [column.name for column in source.columns] == ["polygons", "rle"]
    assert [bytes(each) for each in found] == [rle["counts"]] * 2 + [b""] * (1 + len(bad))
    assert [each.kind for each in source.problems] == ["mask dropped"] * len(bad)
    source, sample = read(tmp_path, annotations[:1], {"id": 1, "file_name": "a.jpg", "height": None}, masks=True)
    assert "that of its image is not stated" in source.problems[0].reason


NAN, INF = float("nan"), float("inf")
FULL = SIZE["height"] * SIZE["width"]
TEXT = coco_mask.encode(np.asfortranarray(np.tri(48, 64), np.uint8))["counts"].decode()
SOUND = [
    [[5, 5, 40, 40, 40, 5, 5, 40]],
    [[32, 2, 45, 44, 6, 16, 58, 16, 18, 44], SQUARE],
    [[-1e6, -1e6, 1e6, -1e6, 1e6, 1e6, -1e6, 1e6]],
    {"size": [48, 64], "counts": TEXT},
    {"size": [48, 64], "counts": [FULL - 9, 9]},
]
WRONG = [
    ([[1, 2, 30, 40]], "a polygon has 2 points: it needs 3"),
    ([[0, 0, 1e40, 0, 0, 5]], "a coordinate that is not finite, or beyond 1e30"),
    ([[NAN, 1, 20, 1, 20, 20]], "a coordinate that is not finite"),
    ([[INF, 1, 20, 1, 20, 20]], "a coordinate that is not finite"),
    ({"size": [48, 64], "counts": [10, 20]}, "its mask has 30 pixels, its size is 64 x 48"),
    ({"size": [48, 64], "counts": [FULL, 1]}, f"its mask has {FULL + 1} pixels"),
    ({"size": [48, 64], "counts": [1 << 52] * 4095 + [(1 << 52) + FULL]}, f"its mask has {(1 << 64) + FULL} pixels"),
    ({"size": [48, 64], "counts": [-5, FULL + 5]}, "have the negative number -5"),
    ({"size": [48, 64], "counts": [1.5, FULL - 1.5]}, "are not whole numbers"),
    ({"size": [48, 64], "counts": TEXT[:-2]}, "are no compressed mask"),
    ({"size": [48, 64], "counts": "\x01~~é"}, "are no compressed mask"),
    ({"size": [64, 48], "counts": TEXT}, "the size of its mask is 48 x 64, that of its image is 64 x 48"),
    ({"size": [10**9, 10**9], "counts": [10**18]}, "the size of its mask is 1000000000 x 1000000000"),
]


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_masks_that_are_wrong_are_named_and_the_others_drawn(tmp_path, engine):
    """Self-crossing, huge and empty ones, and those of crowds, are pycocotools'; unusable ones are empty masks."""
    put(tmp_path, "a.jpg")
    values = [*SOUND, [], [[]], *(value for value, _ in WRONG)]
    annotations = [box(i, 1, [1, 1, 60, 40], segmentation=value) | {"iscrowd": i % 2} for i, value in enumerate(values)]
    source = CocoSource(write(tmp_path / "x.json", ["a.jpg"], annotations), tmp_path, masks=True)
    build_cache(source, tmp_path / "x.lmdb")
    named = {each.reason.partition(":")[0]: each for each in read_problems(tmp_path / "x.lmdb")}
    assert len(named) == len(WRONG)
    for i, (_, reason) in enumerate(WRONG, len(SOUND) + 2):
        found = named[f"annotation {i}"]
        assert (found.kind, found.file) == ("mask dropped", "a.jpg") and reason in found.reason
    ((_, targets),) = FastLoader(tmp_path / "x.lmdb", 1, masks=True, engine=engine, collate_fn=TopLeftAlign(1))
    masks = targets.masks.dense().numpy()
    assert masks.shape == (len(values), 48, 64) and not masks[len(SOUND) :].any()
    for mask, value in zip(masks, SOUND, strict=False):
        parts = (
            coco_mask.frPyObjects(value, 48, 64) if not isinstance(value, dict) or value["counts"] != TEXT else value
        )
        expected = coco_mask.decode(coco_mask.merge(parts) if isinstance(parts, list) else parts)
        np.testing.assert_array_equal(mask, expected.astype(bool))


def test_boxes_of_outlines(tmp_path):
    """An annotation without a box has the box of its mask, as pycocotools has it, or of its polygons."""
    mask = np.asfortranarray(np.random.default_rng(0).random((48, 64)) < 0.002, np.uint8)
    rle = coco_mask.encode(mask)
    values = [[SQUARE, RING], {"size": [48, 64], "counts": rle["counts"].decode()}, None]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "segmentation": value, **more}
        for i, (value, more) in enumerate(zip(values, ({}, {"bbox": None}, {"bbox": []}), strict=True))
    ]
    for masks in (False, True):
        _, sample = read(tmp_path, annotations, masks=masks)
        x, y, width, height = coco_mask.toBbox(rle)
        assert sample.columns["boxes"][:2].tolist() == [[2, 3, 30, 23.5], [x, y, x + width, y + height]]
        assert np.isnan(sample.columns["boxes"][2]).all()


def test_keypoints(tmp_path):
    """There are as many as the categories name, or the data has; other lengths are named, and the box stays."""
    one, two = [1, 2, 2, 3, 4, 1], [5, 6, 2]
    values = [one, None, two, [1, 2, 3, 4], ["x"] * 6, [0] * 6, [float("nan")] * 6]
    annotations = [
        box(i, 1, [1, 1, 5, 5], 18 if value is two else 1, keypoints=value) for i, value in enumerate(values)
    ]
    named = [CATEGORIES[0] | {"keypoints": ["nose"]}, CATEGORIES[1] | {"keypoints": ["nose", "tail"]}]
    for categories in (named, CATEGORIES):
        source, sample = read(tmp_path, annotations, categories=categories, keypoints=True)
        found = sample.columns["keypoints"]
        assert found.shape == (7, 2, 3) and found[0].ravel().tolist() == one and not found[[1, 3, 4, 5, 6]].any()
        assert found[2].ravel().tolist() == ([*two, 0, 0, 0] if categories is named else [0] * 6)
        wrong = {3, 4, 6} if categories is named else {2, 3, 4, 6}
        dropped = [each for each in source.problems if each.kind == "keypoints dropped"]
        assert {int(each.reason.split(":")[0].split()[1]) for each in dropped} == wrong
        assert [each.kind for each in source.problems if each not in dropped] == (
            [] if categories is named else ["no flip pairs"]
        )


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        ([["nose", "left_eye", "right_eye", "left_ear", "right_ear"]], ((1, 2), (3, 4))),
        ([["LeftHip", "RightHip", "tail"], ["LeftHip"]], None),
        ([["L_Eye", "R_Eye", "lip", "upright"], ["R_Eye", "L_Eye"], ["LEFT", "RIGHT", "nose", "tail"]], ((0, 1),)),
        ([["nose", "tail"], ["left knee", "chin"]], ()),
        ([["left_eye", "right_eye"], ["nose", "left_eye", "right_eye"]], None),
        ([[3, None, "left", "eye-right", "eye-left"]], ((3, 4),)),
    ],
)
def test_left_and_right_keypoints(tmp_path, names, pairs):
    """Pairs are found by names; categories that number them differently have none, and a note says so."""
    most = max(map(len, names))
    categories = [{"id": i, "name": str(i), "keypoints": each} for i, each in enumerate(names, 1)]
    annotations = [box(1, 1, [1, 1, 5, 5], keypoints=[1, 1, 2] * len(names[0]))]
    source, _ = read(tmp_path, annotations, categories=categories, keypoints=True)
    (column,) = source.columns
    assert column.flip_pairs == (pairs or ()) and column.shape == (most, 3)
    assert [each.kind for each in source.problems] == ([] if pairs is not None else ["no flip pairs"])


@pytest.mark.parametrize("options", [{"masks": True}, {"keypoints": True}])
def test_what_is_asked_for_has_to_be_there(tmp_path, options):
    """Without any masks or keypoints an error says so, unless the file has no annotations at all."""
    with pytest.raises(SourceError, match="no annotation has"):
        read(tmp_path, [box(1, 1, [1, 1, 5, 5])], **options)
    source, _ = read(tmp_path, [], **options)
    assert source.columns == ()
    (tmp_path / "b.jpg").write_bytes(jpeg())
    with pytest.raises(SourceError, match=r"is a folder dataset: (masks|keypoints) are read from COCO"):
        find_datasets(tmp_path, "folder", **options)


def test_images_without_a_file_name(tmp_path):
    """They are skipped and named, and the others are read."""
    source = CocoSource(write(tmp_path / "x.json", ["a.jpg", {"id": 2}, {"id": 3, "file_name": 5}]), tmp_path)
    assert [sample.skip_reason for sample in source.samples()] == [None, *["it has no `file_name`"] * 2]
    assert not source.problems


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("indent", [None, 2])
def test_batches_and_windows_change_nothing(tmp_path, monkeypatch, encoding, indent):
    """However small the part of the file in memory is, what is read and the digest are the same."""
    put(tmp_path, "é.jpg")
    boxes = [box(i, 1, [i % 9, 2, 3.5, 4], segmentation=[SQUARE, RING], note='"segmentation": [[') for i in range(50)]
    path = write(tmp_path / "x.json", ["é.jpg"], boxes, indent=indent, ensure_ascii=False)
    path.write_text(path.read_text(), encoding)
    whole = CocoSource(path, tmp_path, masks=True)
    assert whole.digest == digest_of(path.read_bytes())
    monkeypatch.setattr(json_lists, "BATCH", 7)
    for window in (1, 50, 333):
        monkeypatch.setattr(json_lists, "WINDOW", window)
        parts = CocoSource(path, tmp_path, masks=True)
        assert parts.digest == whole.digest and not parts.problems
        (one,), (other,) = parts.samples(), whole.samples()
        assert one.name == other.name == "é.jpg"
        for name, values in one.columns.items():
            np.testing.assert_equal(values, other.columns[name])


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    """The text and the objects of a file are in memory in parts: what remains of a box is its columns."""
    boxes = [box(i, 1, [1, 2, 3.5, 4], segmentation=[SQUARE, RING * 9], note="x" * 300) for i in range(10_000)]
    path = write(tmp_path / "x.json", ["a.jpg"], boxes)
    del boxes
    monkeypatch.setattr(json_lists, "BATCH", 500)
    monkeypatch.setattr(json_lists, "WINDOW", 1 << 16)
    tracemalloc.start()
    CocoSource(path, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2  # the text alone would take all of it


@pytest.mark.parametrize(
    "text", ['{"images": [}', '{"images": [1 2]}', '{"images" 3}', '{"a": 1} x', '{"a": [1,]}', "{,}"]
)
def test_json_that_breaks_off_says_where(tmp_path, text):
    """The error names the file and shows what is there."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SourceError, match=r"x\.json is not valid JSON: it breaks off or cannot be read at '"):
        CocoSource(tmp_path / "x.json", tmp_path)


def test_the_command_line_stores_masks_and_keypoints(tmp_path):
    """`build-cache --masks --keypoints`: they are in the cache and in batches, and problems in its file."""
    put(tmp_path, "images/a.jpg")
    annotations = [box(1, 1, [1, 1, 9, 9], segmentation=[SQUARE], keypoints=[1, 2, 2]), box(2, 5, [1, 1, 9, 9])]
    write(tmp_path / "coco.json", ["a.jpg"], annotations)
    command = ["build-cache", str(tmp_path), "--masks", "--keypoints"]
    assert CliRunner().invoke(app, command).exit_code == 0
    cache = Cache(tmp_path / "fastload/coco.lmdb")
    record = cache.record(0)
    assert record.columns["polygons"][0][0].ravel().tolist() == SQUARE
    assert record.columns["keypoints"].tolist() == [[[1, 2, 2]]]
    assert [each.kind for each in read_problems(cache.path)] == ["no flip pairs", "box dropped"]


def test_coco_mini_has_the_masks_of_pycocotools(coco_mini, tmp_path):
    """Real polygons and crowds: the areas of their masks, and the boxes around them, through a cache."""
    from pycocotools.coco import COCO

    (dataset,) = find_datasets(coco_mini, splits=["train2017"], masks=True)
    cache = Cache(build_cache(dataset.load(), tmp_path / "x.lmdb", BuildOptions(workers=2)).path)
    api = COCO(coco_mini / "annotations/instances_train2017.json")
    checked = 0
    for record in cache.records():
        height, width = api.imgs[record.image_id]["height"], api.imgs[record.image_id]["width"]
        polygons, rle = record.columns["polygons"], record.columns["rle"]
        for i, id in enumerate(record.annotation_ids.tolist()):
            expected = api.anns[id]
            if not expected.get("segmentation"):
                assert len(polygons[i]) == len(rle[i]) == 0
                continue
            if len(rle[i]):
                mask, slack = {"size": [height, width], "counts": bytes(rle[i])}, 0
            else:
                rings = [ring.ravel().tolist() for ring in polygons[i]]
                mask, slack = coco_mask.merge(coco_mask.frPyObjects(rings, height, width)), 5 + 0.01 * expected["area"]
                np.testing.assert_array_equal(
                    np.concatenate(rings), np.float32(np.concatenate(expected["segmentation"]))
                )
                points = np.concatenate(polygons[i])
                x, y, w, h = expected["bbox"]
                np.testing.assert_allclose([*points.min(0), *points.max(0)], [x, y, x + w, y + h], atol=1.01)
            # float32 rounds points that lie halfway between two pixels.
            assert abs(int(coco_mask.area(mask)) - int(coco_mask.area(api.annToRLE(expected)))) <= slack
            checked += 1
    assert checked > 1000
