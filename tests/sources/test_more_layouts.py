"""Layouts of classified images, Open Images, CrowdHuman and WebDataset, each in a small tree of files."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fastload import BuildOptions, Cache, Encoding, SourceError, build_cache, find_datasets
from fastload.cache.format.problems import read_problems
from fastload.sources.pairs import paired_dataset
from tests.support.datasets import encoded, jpeg, pixels

OPTIONS = BuildOptions(Encoding.ORIGINAL, workers=1)


def write(path: Path, data: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data or jpeg())
    return path


def built(root: Path, format: str) -> dict[str, Cache]:
    """The caches of all splits, of a dataset whose format is detected."""
    caches = {}
    for dataset in find_datasets(root):
        source = dataset.load()
        assert (source.format, len(source)) == (format, sum(1 for _ in source.samples()))
        assert [each.image_id for each in source.samples(1)] == [each.image_id for each in source.samples()][1:]
        build_cache(source, dataset.cache, OPTIONS)
        caches[dataset.split] = Cache(dataset.cache)
    return caches


def names_of(cache: Cache) -> list[str]:
    return [cache.name(i) for i in range(len(cache))]


def classes_of(cache: Cache) -> list[str]:
    name_of = {category.id: category.name for category in cache.categories}
    return [name_of[label] for label in cache.columns["class_id"].tolist()]


@pytest.mark.parametrize("split", ["", "train"])
def test_class_folders(tmp_path, split):
    """A folder for each class, in splits or not; all splits have the same classes, numbered from 0."""
    for name in ("hot dog/b.jpg", "cat/a.jpg", "cat/deep/c.png"):
        write(tmp_path / split / name, encoded(pixels(9, 9), "PNG") if name.endswith("png") else b"")
    if split:
        write(tmp_path / "val" / "dog" / "d.jpg")
        write(tmp_path / "README.txt", "about")
    caches = built(tmp_path, "classes")
    assert list(caches) == (["train", "val"] if split else [tmp_path.name])
    cache = next(iter(caches.values()))
    assert names_of(cache) == ["cat/a.jpg", "cat/deep/c.png", "hot dog/b.jpg"] and not len(cache.boxes)
    assert classes_of(cache) == ["cat", "cat", "hot dog"] and cache.categories[0].id == 0
    if split:
        assert classes_of(caches["val"]) == ["dog"] and cache.categories == caches["val"].categories


@pytest.mark.parametrize("other", ["a/1.json", "a/1.txt", "list.csv", "c.jpg", "masks/1.png"])
def test_folders_with_other_files_are_no_classes(tmp_path, other):
    """Where files may hold annotations, or images lie beside the folders, the folders are not taken for classes."""
    for name in ("a/1.jpg", "b/1.jpg", other):
        write(tmp_path / name)
    with pytest.raises(SourceError, match="no dataset found"):
        find_datasets(tmp_path)


def test_a_csv_of_paths_and_classes(tmp_path):
    """Classes of all files are numbered together; repeated rows are merged and counted; odd rows are named."""
    for name in ("a b.jpg", "sub/c.jpg", "d.jpg"):
        write(tmp_path / "images" / name)
    rows = [
        "\ufeffPath,label",
        "a b.jpg,hot dog",
        "sub/c.jpg,cat",
        "sub/c.jpg,cat",
        "d.jpg,",
        "../e.jpg,cat",
        "f.jpg,cat",
    ]
    write(tmp_path / "train.csv", "\r\n".join([*rows, '"a b.jpg",cat', ""]))
    write(tmp_path / "val.csv", "x,class,image\n0,zebra,d.jpg\n")
    caches = built(tmp_path, "csv")
    assert classes_of(caches["train"]) == ["hot dog", "cat"] and classes_of(caches["val"]) == ["zebra"]
    assert [(each.id, each.name) for each in caches["val"].categories] == [(0, "cat"), (1, "hot dog"), (2, "zebra")]
    reasons = {problem.file: problem.reason for problem in read_problems(tmp_path / "fastload/train.lmdb")}
    assert "no class" in reasons["d.jpg"] and "outside" in reasons["../e.jpg"] and "missing" in reasons["f.jpg"]
    assert "two classes" in reasons["a b.jpg"] and "1 rows repeat" in reasons[str(tmp_path / "train.csv")]


def test_a_csv_of_numbers_without_suffixes(tmp_path):
    """Class numbers are kept, and paths may lack their suffix; a CSV without any of its images is an error."""
    write(tmp_path / "train" / "7.jpg")
    write(tmp_path / "train.csv", "image_id,label\n7,3\n")
    cache = built(tmp_path, "csv")["train"]
    assert cache.columns["class_id"].tolist() == [3] and cache.image_ids.tolist() == [7]
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(SourceError, match=r"none of its first 1 images is in .*build_cache\("):
        find_datasets(tmp_path)[0].load()


HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"


@pytest.mark.parametrize(
    ("boxes", "names", "images"),
    [
        ("train-annotations-bbox.csv", "class-descriptions-boxable.csv", "train"),
        ("csv/oidv6-train-annotations-bbox.csv", "csv/oidv7-class-descriptions-boxable.csv", "images/train"),
        ("train/labels/detections.csv", "train/metadata/classes.csv", "train/data"),
    ],
)
def test_open_images(tmp_path, boxes, names, images):
    """Fractions become pixels, groups crowds; images without boxes or without a file are counted."""
    for name in ("b", "a", "empty"):
        write(tmp_path / images / f"{name}.jpg")
    rows = [
        "b,x,/m/1,1,0.25,0.5,0,1,1,-1,0",
        "a,x,/m/0,1,0,1,0,.5,0,1,1",
        "b,x,/m/9,1,0,.5,0,.5,0,0,0",
        "gone" + ",0" * 10,
    ]
    write(tmp_path / boxes, HEADER + "\n".join(rows))
    write(tmp_path / names, "/m/0,Tortoise\n/m/1,Magpie\n")
    (cache,) = built(tmp_path, "open-images").values()
    assert names_of(cache) == ["b.jpg", "a.jpg"]
    assert cache.boxes.tolist() == [[16, 0, 32, 48], [0, 0, 32, 24], [0, 0, 64, 24]]
    labels = [cache.categories[label].name for label in cache.labels]
    assert labels == ["Magpie", "/m/9", "Tortoise"] and cache.crowd.tolist() == [False, False, True]
    assert cache.columns["occluded"].tolist() == [True, False, False]
    assert cache.columns["truncated"].tolist() == [False, False, True]
    reasons = [problem.reason for problem in read_problems(tmp_path / "fastload/train.lmdb")]
    unlisted = f"1 images in {tmp_path / images} are not listed in {tmp_path / boxes}: they are not in the cache"
    assert reasons == ["1 images of the file are not in its folder", unlisted]


def test_open_images_without_flags(tmp_path):
    """A file may have none of the columns IsGroupOf, IsOccluded and IsTruncated."""
    write(tmp_path / "val" / "a.jpg")
    write(tmp_path / "val-annotations-bbox.csv", "ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/0,0,1,0,1\n")
    write(tmp_path / "class-descriptions-boxable.csv", "/m/0,Tortoise\n")
    cache = built(tmp_path, "open-images")["val"]
    assert cache.boxes.tolist() == [[0, 0, 64, 48]] and not cache.columns.keys() & {"occluded", "truncated"}


def test_open_images_that_cannot_be_read(tmp_path):
    """Missing class names, a missing image folder and a broken row each say what to do."""
    write(tmp_path / "val-annotations-bbox.csv", HEADER + "a,1\n")
    with pytest.raises(SourceError, match="put class-descriptions-boxable"):
        find_datasets(tmp_path)[0].load()
    write(tmp_path / "class-descriptions-boxable.csv", "/m/0,Tortoise\n")
    with pytest.raises(SourceError, match="no image folder: looked for"):
        find_datasets(tmp_path)[0].load()
    write(tmp_path / "val" / "a.jpg")
    with pytest.raises(SourceError, match="a row has 2 fields instead of 11"):
        find_datasets(tmp_path)[0].load()


def person(tag: str = "person", **more) -> dict:
    return {"tag": tag, "fbox": [2, 3, 20, 30], "hbox": [0, 0, 1, 1], "vbox": [0, 0, 1, 1], **more}


def test_crowdhuman(tmp_path):
    """Full boxes of persons; ignored ones and regions are crowds; a missing image is named."""
    write(tmp_path / "Images" / "1,a.jpg")
    lines = [
        {"ID": "1,a", "gtboxes": [person(), person(extra={"ignore": 1}), person("mask"), person(fbox=[1])]},
        {"ID": "2,b", "gtboxes": []},
    ]
    write(tmp_path / "annotation_val.odgt", "\n".join(map(json.dumps, lines)) + "\n")
    cache = built(tmp_path, "crowdhuman")["val"]
    assert cache.boxes.tolist() == [[2, 3, 22, 33]] * 3 and cache.crowd.tolist() == [False, True, True]
    assert [category.name for category in cache.categories] == ["person"] and cache.annotation_ids.tolist() == [1, 2, 3]
    reasons = [problem.reason for problem in read_problems(tmp_path / "fastload/val.lmdb")]
    assert "annotation 4" in reasons[0] and "missing file" in reasons[1]
    write(tmp_path / "annotation_val.odgt", '{"ID": "1,a"}')
    with pytest.raises(SourceError, match="line 1 is no image of CrowdHuman"):
        find_datasets(tmp_path)[0].load()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_webdataset_of_classes(tmp_path):
    """Shards of images and .cls members are read in place, byte for byte; what lacks its other half is named."""
    write_tar(tmp_path / "train" / "0.tar", {"a/1.jpg": jpeg(), "a/1.cls": b"1\n", "2.jpg": jpeg(), "3.cls": b"0"})
    write_tar(tmp_path / "train" / "1.tar", {"4.cls": b"0", "4.jpg": jpeg(seed=4), "4.seg.png": b"?"})
    write(tmp_path / "classes.txt", "cat\ndog\n")
    cache = built(tmp_path, "python")["train"]
    assert names_of(cache) == ["a/1.jpg", "4.jpg"] and classes_of(cache) == ["dog", "cat"]
    assert bytes(cache.record(1).data) == jpeg(seed=4)
    problems = {problem.file: problem.reason for problem in read_problems(tmp_path / "fastload/train.lmdb")}
    assert "no .cls" in problems["0.tar/2"] and "no image" in problems["0.tar/3"]


def test_webdataset_of_several_splits(tmp_path):
    """Tar files of one folder whose names name different splits are not mixed."""
    for name in ("x-train-000000", "x-train-000001", "x_val_000000", "sub/test-0", "sub/val-0", "one/train-0"):
        write_tar(tmp_path / f"{name}.tar", {"1.jpg": jpeg(), "1.cls": b"1"})
    splits = {dataset.split: len(dataset.load()) for dataset in find_datasets(tmp_path)}
    assert splits == {"train": 2, "val": 1, "one": 1, "sub-test": 1, "sub-val": 1}
    with pytest.raises(SourceError, match="several splits: give it as DATASET, with --split"):
        paired_dataset(tmp_path, None)


def test_webdataset_of_boxes(tmp_path):
    """A .json member has the keys of samples in Python; others are skipped. Without any, the error shows the call."""
    stated = {"boxes": [[2, 3, 40, 30]], "labels": ["dog"], "caption": "x"}
    write_tar(tmp_path / "0.tar", {"1.jpg": jpeg(), "1.json": json.dumps(stated).encode()})
    cache = built(tmp_path, "python")[tmp_path.name]
    assert cache.boxes.tolist() == [[2, 3, 40, 30]] and [each.name for each in cache.categories] == ["dog"]
    write_tar(tmp_path / "0.tar", {"1.jpg": jpeg(), "1.json": b'{"caption": "x"}'})
    with pytest.raises(SourceError, match=r"no image has a .cls member.*build_cache\("):
        find_datasets(tmp_path)[0].load()
    write(tmp_path / "0.tar", np.random.default_rng(0).bytes(2000))
    with pytest.raises(SourceError, match="tar cannot be read"):
        find_datasets(tmp_path)[0].load()
