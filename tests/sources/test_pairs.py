"""Annotations and images that are given apart, in every format; and what is said where nothing is recognized."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastload import BuildOptions, Cache, CacheError, Encoding, SourceError, build_cache, find_datasets
from fastload.cache.format.problems import read_problems
from fastload.cache.read.cache_file import CacheFile
from fastload.sources.base import Dataset
from fastload.sources.detect import Format
from fastload.sources.pairs import PAIRINGS, format_of, paired_dataset
from tests.sources.test_more_layouts import HEADER, classes_of, names_of, person, write_tar
from tests.sources.test_yolo_layouts import BOX, write
from tests.support.datasets import encoded, jpeg, pixels

OPTIONS = BuildOptions(Encoding.ORIGINAL, workers=1)
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [16, 12, 16, 24]}],
    "categories": [{"id": 1, "name": "cat"}],
}
XML = (
    "<annotation><object><name>cat</name><bndbox><xmin>17</xmin><ymin>13</ymin><xmax>32</xmax><ymax>36</ymax>"
    "</bndbox></object></annotation>"
)
ODGT = json.dumps({"ID": "a", "gtboxes": [{**person(), "fbox": [16, 12, 16, 24]}]})
FILES: dict[str, str | bytes] = {
    "photos/a.jpg": "",
    "photos/deep/b.jpg": "",
    "coco/annotations/instances_val.json": json.dumps(COCO),
    "voc/annots/a.xml": XML,
    "yolo/labels/train/a.txt": "1 .375 .5 .25 .5",
    "yolo/labels/train/deep/b.txt": BOX,
    "yolo/data.yaml": "names: [dog, cat]",
    "open/test-annotations-bbox.csv": HEADER + "a,x,/m/1,1,.25,.5,.25,.75,0,0,0\n",
    "open/class-descriptions-boxable.csv": "/m/1,cat\n",
    "crowd/annotation_train.odgt": ODGT,
    "csv/a.csv": "path,label\na.jpg,dog\ndeep/b.jpg,cat\n",
    "csv/b.csv": "path,label\na.jpg,ant\n",
    "folders/cat/a.jpg": "",
    "folders/dog/b.jpg": "",
    "names.txt": "dog\r\ncat\r\n",
}


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder with annotations of every format, and the images of most of them in `photos`."""
    write_tar(tmp_path / "tars/x-0.tar", {"a.jpg": jpeg(), "a.cls": b"cat"})
    return write(tmp_path, FILES)


def built(dataset: Dataset) -> Cache:
    return Cache(build_cache(dataset.load(), dataset.cache, OPTIONS).path)


def reasons_of(cache: Path) -> list[str]:
    return [problem.reason for problem in read_problems(cache)]


@pytest.mark.parametrize(
    ("format", "annotations", "cache"),
    [
        (Format.COCO, "coco/annotations/instances_val.json", "coco/fastload/val.lmdb"),
        (Format.VOC, "voc/annots", "voc/fastload/voc.lmdb"),
        (Format.YOLO, "yolo/labels/train", "yolo/fastload/train.lmdb"),
        (Format.OPEN_IMAGES, "open/test-annotations-bbox.csv", "open/fastload/test.lmdb"),
        (Format.CROWDHUMAN, "crowd/annotation_train.odgt", "crowd/fastload/train.lmdb"),
    ],
)
def test_boxes_of_every_format(root, format, annotations, cache):
    """Annotations and images in unrelated folders make a cache beside the annotations, with the format detected."""
    for stated in (None, format):
        dataset = paired_dataset(root / annotations, root / "photos", stated)
        assert (dataset.cache, dataset.split) == (root / cache, dataset.cache.stem)
    opened = built(dataset)
    assert opened.boxes[:1].tolist() == [[16, 12, 32, 36]] and opened.name(0) == "a.jpg"
    assert opened.categories[opened.labels[0]].name == ("person" if format is Format.CROWDHUMAN else "cat")
    assert format_of(root / annotations) is format and format.value == dataset.load().format


def test_classes_of_every_format(root):
    """CSV files are paired with a folder; class folders need images only, tar files annotations only."""
    csv = built(paired_dataset(root / "csv/a.csv", root / "photos"))
    assert classes_of(csv) == ["dog", "cat"] and [each.name for each in csv.categories] == ["ant", "cat", "dog"]
    folders = built(paired_dataset(None, root / "folders", "classes"))
    assert classes_of(folders) == ["cat", "dog"]
    assert names_of(built(paired_dataset(None, root / "photos", "folder"))) == ["a.jpg", "deep/b.jpg"]
    for tars in ("tars", "tars/x-0.tar"):
        assert classes_of(built(paired_dataset(root / tars, None))) == ["cat"]


@pytest.mark.parametrize(
    ("labels", "images", "format"),
    [
        ("voc/annots", "photos", None),
        ("csv/a.csv", "photos", None),
        ("tars", None, None),
        (None, "folders", "classes"),
    ],
)
def test_class_names_given_in_a_file(root, labels, images, format):
    """`classes` gives the names and their order, and with other names the cache is another."""
    given = (labels and root / labels, images and root / images, format)
    names = [each.name for each in built(paired_dataset(*given, root / "names.txt")).categories]
    assert names == ["dog", "cat"]
    with pytest.raises(CacheError, match="was built from something else"):
        built(paired_dataset(*given, write(root, {"more.txt": "dog\ncat\nant"}) / "more.txt"))


def test_labels_that_are_no_given_class(root):
    """They are named problems; numbers are those of the classes."""
    write(root, {"numbers.csv": "path,label\na.jpg,1\ndeep/b.jpg,2\n", "few.txt": "dog"})
    cache = built(paired_dataset(root / "numbers.csv", root / "photos", classes=root / "names.txt"))
    assert classes_of(cache) == ["cat"]
    assert reasons_of(root / "fastload/numbers.lmdb") == ["its class 2 is none of the classes"]
    built(paired_dataset(root / "csv/a.csv", root / "photos", classes=root / "few.txt"))
    assert reasons_of(root / "csv/fastload/a.lmdb") == ["its class cat is none of the classes"]
    built(paired_dataset(root / "voc/annots", root / "photos", classes=root / "few.txt"))
    assert any("category" in reason for reason in reasons_of(root / "voc/fastload/voc.lmdb"))


def test_class_names_of_yolo(root):
    """They are a file beside the labels or images, or the one given, whose `kpt_shape` and `flip_idx` hold too."""
    labels, images = root / "yolo/labels/train", root / "photos"
    (root / "yolo/data.yaml").unlink()
    (root / "names.txt").rename(root / "n")
    with pytest.raises(SourceError, match=r"has no class names: looked for data.yaml, .*obj.names.* by --classes"):
        paired_dataset(labels, images)
    for name, text in (("yolo/obj.names", "a\nb"), ("photos/classes.txt", "c\nd"), ("yolo/labels/classes.txt", "e\nf")):
        write(root, {name: text})
        categories = paired_dataset(labels, images).load().categories
        assert "\n".join(category.name for category in categories) == text
        (root / name).unlink()
    points = write(
        root, {"p.yaml": "names: [x]\nkpt_shape: [2, 2]\nflip_idx: [1, 0]", "p/a.txt": "0 .5 .5 1 1 0 0 1 1"}
    )
    dataset = paired_dataset(points / "p", images, classes=points / "p.yaml")
    manifest = CacheFile(build_cache(dataset.load(), root / "p.lmdb", OPTIONS).path).manifest
    assert [(each.name, each.flip_pairs) for each in manifest.columns] == [("keypoints", ((0, 1),))]


def test_relative_folders(root, monkeypatch):
    """Folders may be relative to the current one, which may be that of the labels."""
    monkeypatch.chdir(root / "yolo/labels/train")
    dataset = paired_dataset(Path("."), Path("../../../photos"))
    assert (dataset.split, dataset.cache) == ("train", root / "yolo/fastload/train.lmdb")
    assert len(built(dataset).boxes) == 2


def test_labels_that_belong_to_no_image(root):
    """Two folders that have nothing to do with each other are an error, and not images without objects."""
    with pytest.raises(SourceError, match=r"no image of .*folders has a label file: the first would be"):
        paired_dataset(root / "yolo/labels/train", root / "folders").load()


@pytest.mark.parametrize(
    ("annotations", "images", "format", "message"),
    [
        ("none", "photos", None, "--annotations .*none does not exist"),
        ("voc/annots", "none", None, "--images .*none does not exist"),
        ("voc/annots", None, None, "voc needs the image folder: add --images DIR"),
        (None, "photos", None, "is given without annotations: add --annotations FILE|DIR, or --format folder"),
        (None, "photos", "voc", "voc needs a folder of .xml files: add --annotations DIR"),
        ("tars", "photos", None, "webdataset takes no --images"),
        ("voc/annots", "folders", "classes", "classes takes no --annotations"),
        ("voc/annots", "photos", "coco", "is a folder, which holds 1 .xml file: coco needs a JSON file"),
        ("names.txt", "photos", "voc", "is a file: voc needs a folder of .xml files"),
        ("voc/annots", "voc/annots/a.xml", "voc", "is a file: voc needs the image folder"),
        ("voc/annots", "photos", "yolo", "holds no label files"),
        ("csv", "photos", "voc", "holds no VOC annotations"),
        ("csv/a.csv", "photos", "open-images", "its first line must have ImageID"),
        ("names.txt", "photos", "csv", "its first line must be path,label"),
        ("csv", None, "webdataset", "holds no tar files"),
        (None, "photos/deep", "classes", "needs a folder of images for each class"),
        (None, "csv", "folder", "holds no images"),
        (
            "csv",
            "photos",
            None,
            r"no annotations recognized in .*csv, which holds 2 .csv files: looked for .*voc.*build_",
        ),
        ("names.txt", "photos", None, r"no annotations recognized in .*names.txt: looked for .*build_cache\("),
        ("yolo/data.yaml", "photos", None, "name it as DATASET"),
        ("photos/a.jpg", "photos", None, "is an image"),
    ],
)
def test_pairs_that_do_not_fit(root, annotations, images, format, message):
    """The error says what was found, and what to give instead."""
    with pytest.raises(SourceError, match=message):
        paired_dataset(annotations and root / annotations, images and root / images, format)


def test_options_that_do_not_fit(root):
    """Class names and columns that a format has no use for are errors, as are class names that do not exist."""
    coco, voc, photos = root / "coco/annotations/instances_val.json", root / "voc/annots", root / "photos"
    for given, options, message in (
        (coco, {"classes": root / "names.txt"}, "coco takes no --classes"),
        (voc, {"classes": root / "none"}, "--classes .* does not exist"),
        (voc, {"masks": True}, "read from COCO and YOLO datasets only"),
        (root / "csv/a.csv", {"columns": ["x"]}, "cannot have extra columns"),
        (voc, {"format": "cocoa"}, "unknown dataset format 'cocoa'"),
    ):
        with pytest.raises(SourceError, match=message):
            paired_dataset(given, photos, **options)
    dataset = paired_dataset(root / "open/test-annotations-bbox.csv", photos, classes=root / "names.txt")
    with pytest.raises(SourceError, match=r"names.txt names no classes: its lines must be like /m/"):
        dataset.load()


def test_every_format_can_be_paired():
    """The table has each format."""
    assert PAIRINGS.keys() == set(Format)


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        ({}, "holds nothing: .* no images either: check the path"),
        (
            {"a.jpg": ""},
            r"holds 1 .jpg file: .* --annotations FILE|DIR --images DIR; .*--format folder; .*build_cache\(",
        ),
        ({"x/a.npy": "1"}, r"holds x/: .*numpy.load\(path\)"),
        (
            {"data/0.parquet": "PAR1"},
            r'holds data/: .*build_cache\(datasets.load_dataset\("parquet", data_files=".*parquet"',
        ),
        ({"all.zip": "PK"}, "holds 1 .zip file: .*Unpack its archives"),
        (
            {"JPEGImages/a.jpg": "", "SegmentationClass/a.png": encoded(pixels(9, 9), "PNG")},
            r'holds JPEGImages/, .*build_cache\(.*"masks":',
        ),
    ],
)
def test_folders_of_no_known_layout(tmp_path, files, advice):
    """One line says what was found, what was looked for, and the Python call that would read it."""
    with pytest.raises(SourceError, match=f"no dataset found in .*, which {advice}") as error:
        find_datasets(write(tmp_path, files))
    text = str(error.value)
    assert "\n" not in text and all(f"({format.value})" in text for format in Format if format is not Format.FOLDER)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "does not exist"),
        ("a.zip", "is an archive: unpack it"),
        ("a.parquet", "is a table: in Python, "),
        ("a.npy", "numpy.load"),
        ("a.jpg", "is an image"),
        ("a.json", "use --annotations .*a.json"),
    ],
)
def test_files_that_are_no_dataset(tmp_path, name, message):
    """A single file is named for what it is, with what to do instead."""
    files = {"a.zip": "PK", "a.parquet": "PAR1", "a.npy": "1", "a.jpg": "", "a.json": "{}"}
    with pytest.raises(SourceError, match=message):
        find_datasets(write(tmp_path, files) / name)
