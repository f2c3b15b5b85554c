"""Round trips: what a cache holds is what pycocotools and supervision read from the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from fastload import Cache
from fastload.cache.format.layout import Encoding
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.sources.detect import find_datasets
from fastload.sources.run_lengths import encode
from tests.support.datasets import box, jpeg, many_jpegs, write_coco

OPTIONS = BuildOptions(Encoding.ORIGINAL, workers=2)
WIDTH, HEIGHT = 64, 48
CONCAVE = [10.2, 8.3, 50.4, 9.2, 30.3, 20.4, 52.1, 40.2, 12.3, 38.2]
VOC_OBJECT = """<object><name>{}</name>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""
TRIANGLE = [2.1, 30.2, 9.3, 45.4, 1.2, 44.3]


def square_mask() -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[5:25, 20:60] = True
    return mask


def runs_of(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Uncompressed run lengths."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, flat.size]).tolist()}


@pytest.fixture(scope="module")
def coco_tree(tmp_path_factory) -> Path:
    """Polygons of one ring and of two, run lengths of both forms, and a box alone; the last image has no objects."""
    compressed = {"size": [HEIGHT, WIDTH], "counts": encode(square_mask()).decode()}
    annotations = [
        box(1, 10, [10, 8, 42, 33], segmentation=[CONCAVE], area=900.5),
        box(2, 10, [1, 8, 52, 38], 18, segmentation=[TRIANGLE, CONCAVE], area=950),
        box(3, 20, [20, 5, 40, 20], 18, segmentation=compressed, iscrowd=1, area=800),
        box(4, 20, [20, 5, 40, 20], segmentation=runs_of(square_mask()), iscrowd=1, area=800),
        box(5, 10, [3.25, 4.5, 20, 30], area=600),
    ]
    return write_coco(tmp_path_factory.mktemp("coco"), many_jpegs(3), annotations)


def built(root: Path, folder: Path, **extras: Any) -> Cache:
    """The cache of a tree of one split."""
    (dataset,) = find_datasets(root, **extras)
    return Cache(build_cache(dataset.load(), folder / "x.lmdb", OPTIONS).path)


def check_masks(cache: Cache, api: COCO) -> int:
    """Compare the masks of a cache with those of pycocotools, and return how many there are."""
    overlaps = []
    for i in range(len(cache)):
        for id, mask in zip(cache.record(i).annotation_ids.tolist(), cache.masks(i).numpy(), strict=True):
            note = api.anns[id]
            if not note.get("segmentation"):
                assert not mask.any()
                continue
            ours, theirs = coco_mask.encode(np.asfortranarray(mask)), api.annToRLE(note)
            if isinstance(note["segmentation"], dict):
                assert np.array_equal(mask, api.annToMask(note))
                assert np.array_equal(coco_mask.toBbox(ours), coco_mask.toBbox(theirs))
            overlaps.append(float(coco_mask.iou([ours], [theirs], [0])[0, 0]))
            # pycocotools rounds the edges of polygons to pixels in another way.
            edge = 0 if isinstance(note["segmentation"], dict) else 2 + perimeter(note["segmentation"])
            assert abs(int(coco_mask.area(ours)) - int(coco_mask.area(theirs))) <= edge
    assert np.median(overlaps) > 0.9
    return len(overlaps)


def perimeter(rings: list[list[float]]) -> float:
    closed = [np.reshape([*ring, *ring[:2]], (-1, 2)) for ring in rings]
    return sum(float(np.hypot(*np.diff(points, axis=0).T).sum()) for points in closed)


def test_masks_are_those_of_pycocotools(coco_tree, tmp_path):
    """Areas and boxes of the masks of polygons, and of run lengths of both forms."""
    cache = built(coco_tree, tmp_path, masks=True)
    assert check_masks(cache, COCO(coco_tree / "annotations/instances_train.json")) == 4
    for row, run_lengths in enumerate(cache.ragged["rle"].lists()):
        expected = encode(square_mask()) if cache.annotation_ids[row] in (3, 4) else b""
        assert bytes(run_lengths) == expected


@pytest.mark.long
def test_real_masks_are_those_of_pycocotools(coco_mini, tmp_path):
    """The same of 3,275 real objects."""
    (dataset,) = find_datasets(coco_mini, splits=["train2017"], masks=True)
    cache = Cache(build_cache(dataset.load(), tmp_path / "x.lmdb", OPTIONS).path)
    assert check_masks(cache, COCO(coco_mini / "annotations/instances_train2017.json")) > 3000


def by_supervision(cache: Cache, dataset: Any) -> dict[str, Any]:
    """The detections of supervision by file name, after comparing their boxes and classes with those of the cache."""
    found = {Path(path).name: detections for path, detections in dataset.annotations.items()}
    assert found.keys() == {cache.name(i) for i in range(len(cache))}
    assert {*dataset.classes} <= {category.name for category in cache.categories}
    for record in cache.records():
        theirs = found[record.name]
        np.testing.assert_allclose(record.boxes, theirs.xyxy.reshape(-1, 4), atol=1e-4)
        names = [dataset.classes[id] for id in ([] if theirs.class_id is None else theirs.class_id.tolist())]
        assert [cache.categories[label].name for label in record.labels] == names
    return found


def drawn(rings: list[NDArray[Any]]) -> NDArray[np.bool_]:
    """A mask of polygons, drawn by supervision."""
    supervision = pytest.importorskip("supervision")
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    for ring in rings:
        mask |= supervision.polygon_to_mask(np.round(ring).astype(np.int32), (WIDTH, HEIGHT)).astype(bool)
    return mask


def test_coco_is_read_as_by_supervision(coco_tree, tmp_path):
    """Boxes, classes, areas, crowds, polygons and run lengths of a COCO file."""
    supervision = pytest.importorskip("supervision")
    cache = built(coco_tree, tmp_path, masks=True)
    file = coco_tree / "annotations/instances_train.json"
    found = by_supervision(cache, supervision.DetectionDataset.from_coco(str(coco_tree / "train"), str(file)))
    for i, record in enumerate(cache.records()):
        theirs = found[record.name]
        if not len(record.boxes):
            continue
        assert record.area.tolist() == theirs.data["area"].tolist()
        assert record.crowd.tolist() == theirs.data["iscrowd"].astype(bool).tolist()
        for k, rings in enumerate(record.columns["polygons"]):
            mask = drawn(rings) if rings else cache.masks(i)[k].numpy().astype(bool)
            assert np.array_equal(mask, theirs.mask[k])


def test_real_boxes_are_read_as_by_supervision(coco_mini, tmp_path):
    """Boxes and classes of 200 real images."""
    supervision = pytest.importorskip("supervision")
    (dataset,) = find_datasets(coco_mini, splits=["val2017"])
    cache = Cache(build_cache(dataset.load(), tmp_path / "x.lmdb", OPTIONS).path)
    file = coco_mini / "annotations/instances_val2017.json"
    by_supervision(cache, supervision.DetectionDataset.from_coco(str(coco_mini / "val2017"), str(file)))


def yolo_tree(root: Path, labels: list[str], settings: str = "") -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for i, label in enumerate(labels):
        (root / f"images/{i}.jpg").write_bytes(jpeg(seed=i))
        (root / f"labels/{i}.txt").write_text(label)
    (root / "data.yaml").write_text(f"train: images\nnames: {json.dumps(['cat', 'dog'])}\n{settings}")
    return root


def from_yolo(root: Path, **options: Any) -> Any:
    supervision = pytest.importorskip("supervision")
    paths = (str(root / name) for name in ("images", "labels", "data.yaml"))
    return supervision.DetectionDataset.from_yolo(*paths, **options)


def test_yolo_is_read_as_by_supervision(tmp_path):
    """Boxes and polygons of YOLO label files, an empty one among them."""
    outline = " ".join(str(value / side) for value, side in zip(CONCAVE, [WIDTH, HEIGHT] * 5, strict=True))
    labels = ["0 .5 .5 .25 .5\n1 .31 .42 .2 .17\n", f"1 {outline}\n0 {outline}\n", ""]
    root = yolo_tree(tmp_path, labels)
    cache = built(root, tmp_path)
    found = by_supervision(cache, from_yolo(root))
    record = cache.record(1)
    for k, rings in enumerate(record.columns["polygons"]):
        assert np.array_equal(drawn(rings), found[record.name].mask[k])


def test_yolo_poses_are_read_as_by_supervision(tmp_path):
    """Boxes of labels with keypoints, as `kpt_shape` says."""
    root = yolo_tree(tmp_path, ["0 .5 .5 .25 .5 .4 .4 2 .6 .6 1\n"], "kpt_shape: [2, 3]\n")
    by_supervision(built(root, tmp_path), from_yolo(root))


def test_yolo_rotated_boxes_are_read_as_by_supervision(tmp_path):
    """The corners of rotated boxes, and the boxes around them."""
    root = yolo_tree(tmp_path, ["0 .5 .1 .8 .5 .5 .9 .2 .5\n1 .3 .3 .6 .35 .55 .7 .25 .65\n"], "task: obb\n")
    cache = built(root, tmp_path)
    found = by_supervision(cache, from_yolo(root, is_obb=True))
    corners = found["0.jpg"].data["xyxyxyxy"]
    np.testing.assert_allclose(cache.record(0).columns["rotated"], corners, atol=1e-4)


def test_voc_is_read_as_by_supervision(tmp_path):
    """Boxes, counted from 1, and classes of VOC's XML files, of an image without objects too."""
    supervision = pytest.importorskip("supervision")
    objects = [[("dog", 1, 1, 10, 20), ("cat", 5.5, 6, 64, 48)], [], [("cat", 30, 2, 33, 4)]]
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()
    for i, rows in enumerate(objects):
        (tmp_path / f"JPEGImages/{i}.jpg").write_bytes(jpeg(seed=i))
        text = "".join(VOC_OBJECT.format(*row) for row in rows)
        (tmp_path / f"Annotations/{i}.xml").write_text(f"<annotation><filename>{i}.jpg</filename>{text}</annotation>")
    folders = (str(tmp_path / name) for name in ("JPEGImages", "Annotations"))
    by_supervision(built(tmp_path, tmp_path), supervision.DetectionDataset.from_pascal_voc(*folders))
