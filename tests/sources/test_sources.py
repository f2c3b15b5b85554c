"""Sources: what each format's files mean, and clear errors for those that mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastload.errors import SourceError
from fastload.sources.detect import Format, detect_format, find_datasets
from fastload.sources.pairs import paired_dataset
from tests.support.datasets import box, jpeg, many_jpegs, write_coco


def load(root: Path, split: str | None = None):
    return find_datasets(root, splits=[split] if split else ())[0].load()


def test_coco(tmp_path):
    """COCO: order of the file, xywh to corners, crowds, areas, categories by id; polygons are not needed."""
    boxes = [
        box(7, 20, [1.5, 2, 3, 4], 18, area=5.5, iscrowd=1, segmentation={"counts": "x", "size": [1, 2]}),
        box(8, 10, [0, 0, 2, 2], segmentation=[[1, 2, 3, 4, 5, 6]]),
        box(9, 20, [5, 5, 1, 1]),
    ]
    source = load(write_coco(tmp_path, many_jpegs(3), boxes))
    assert [(c.id, c.name, c.supercategory) for c in source.categories] == [
        (1, "person", "person"),
        (18, "dog", "animal"),
    ]
    first, second, third = source.samples()
    assert (first.image_id, first.name, first.size) == (10, "00000.jpg", (64, 48))
    assert second.columns["boxes"].tolist() == [[1.5, 2, 4.5, 6], [5, 5, 6, 6]]
    assert second.columns["annotation_id"].tolist() == [7, 9] and second.columns["label"].tolist() == [18, 1]
    assert second.columns["crowd"].tolist() == [True, False]
    assert second.columns["area"][0] == 5.5 and np.isnan(second.columns["area"][1])
    assert len(third.columns["annotation_id"]) == 0
    assert [sample.image_id for sample in source.samples(1)] == [20, 30]


def test_coco_finds_image_folders(tmp_path):
    """The image folder lies next to `annotations`, or in `images`; every split is found."""
    write_coco(tmp_path, many_jpegs(1), split="val2017")
    write_coco(tmp_path, many_jpegs(2), split="train2017")
    (tmp_path / "images").mkdir()
    (tmp_path / "train2017").rename(tmp_path / "images" / "train2017")
    found = find_datasets(tmp_path)
    assert [dataset.split for dataset in found] == ["train2017", "val2017"]
    assert [dataset.cache for dataset in found] == [
        tmp_path / "fastload" / "train2017.lmdb",
        tmp_path / "fastload" / "val2017.lmdb",
    ]
    assert all(sample.path.exists() for dataset in found for sample in dataset.load().samples())
    assert len(find_datasets(tmp_path, splits=["val2017"])) == 1


def test_coco_without_images(tmp_path):
    """A split without its image folder is marked, and an error when it is the only one or asked for."""
    write_coco(tmp_path, many_jpegs(1), split="a")
    write_coco(tmp_path, many_jpegs(1), split="b")
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    assert [bool(dataset.missing) for dataset in find_datasets(tmp_path)] == [False, True]
    with pytest.raises(SourceError, match="no image folder"):
        find_datasets(tmp_path, splits=["b"])
    dataset = paired_dataset(tmp_path / "annotations" / "instances_b.json", tmp_path / "elsewhere")
    assert dataset.cache == tmp_path / "fastload" / "b.lmdb"
    assert [sample.path.exists() for sample in dataset.load().samples()] == [True]


def test_coco_awkward_entries(tmp_path):
    """Paths outside the folder, repeated ids, boxes of unlisted images and invalid boxes are reported, not fatal."""
    root = write_coco(tmp_path, many_jpegs(1), [])
    path = root / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["images"] += [
        {"id": 2, "file_name": "../secret.jpg"},
        {"id": 3, "file_name": "/etc/passwd"},
        {"id": 10, "file_name": "again.jpg"},
        {"id": 4, "file_name": "sub/ok.jpg", "width": 0, "height": 0},
    ]
    document["annotations"] = [box(1, 99, [0, 0, 1, 1]), box(2, 10, [1, 2]), {"image_id": 10}, box(3, 10, ["a"] * 4)]
    path.write_text(json.dumps(document))
    source = load(root)
    samples = list(source.samples())
    assert [bool(sample.skip_reason) for sample in samples] == [False, True, True, True, False]
    assert "points outside" in samples[1].skip_reason and "id 10" in samples[3].skip_reason
    assert samples[4].path == root / "train" / "sub" / "ok.jpg" and samples[4].size is None
    assert next(iter(source.samples(3))).skip_reason == samples[3].skip_reason
    assert np.isnan(samples[0].columns["boxes"]).all() and samples[0].columns["annotation_id"].tolist() == [2, 3]
    assert [(problem.image_id, problem.kind, problem.reason) for problem in source.problems] == [
        (99, "box dropped", "annotation 1: its image is not listed"),
        (10, "box dropped", "annotation 4: its category_id null is no whole number"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "\xff\xfe",
        '{"images": []}',
        '{"images": 3, "categories": []}',
        '{"images": [1], "categories": []}',
        '{"images": [{"id": "x", "file_name": "a"}], "categories": []}',
        '{"images": [{"id": 1}], "categories": []}',
        '{"images": [], "categories": [{"id": 1}]}',
        '{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
        '{"images": [], "categories": [], "annotations": {"a": 1}}',
        "[" * 100_000,
    ],
)
def test_coco_files_that_make_no_sense(tmp_path, content):
    """An annotation file that is no COCO is a SourceError that names it."""
    root = write_coco(tmp_path, many_jpegs(1))
    path = root / "annotations" / "instances_train.json"
    path.write_text(content, "latin-1")
    with pytest.raises(SourceError, match=r"instances_train\.json"):
        load(root)


def test_digest_follows_annotations(tmp_path):
    """The digest changes with any change to the annotations, and with nothing else."""
    one, two = write_coco(tmp_path / "a", many_jpegs(2)), write_coco(tmp_path / "b", many_jpegs(2))
    assert load(one).digest == load(two).digest
    write_coco(tmp_path / "b", many_jpegs(2), [])
    assert load(one).digest != load(two).digest


def test_coco_mini_agrees_with_pycocotools(coco_mini):
    """Every box, area, crowd flag, class and size of real annotations is what pycocotools reads."""
    from pycocotools.coco import COCO

    for dataset in find_datasets(coco_mini):
        source = dataset.load()
        coco = COCO(coco_mini / "annotations" / f"instances_{dataset.split}.json")
        assert [c.id for c in source.categories] == sorted(coco.getCatIds())
        assert [sample.image_id for sample in source.samples()] == coco.getImgIds()
        for sample in source.samples():
            rows = coco.loadAnns(coco.getAnnIds(sample.image_id))
            assert sample.columns["annotation_id"].tolist() == [row["id"] for row in rows]
            assert sample.columns["boxes"].tolist() == [
                [x, y, x + w, y + h] for x, y, w, h in (r["bbox"] for r in rows)
            ]
            assert sample.columns["area"].tolist() == [row["area"] for row in rows]
            assert sample.columns["crowd"].tolist() == [bool(row["iscrowd"]) for row in rows]
            assert sample.columns["label"].tolist() == [row["category_id"] for row in rows]
            image = coco.imgs[sample.image_id]
            assert (sample.name, sample.size) == (image["file_name"], (image["width"], image["height"]))


VOC = """<annotation><filename>{name}.jpg</filename>
<size><width>64</width><height>48</height></size>{objects}</annotation>"""
VOC_OBJECT = """<object><name>{}</name><difficult>{}</difficult>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def write_voc(root: Path) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    objects = {
        "000005": [("dog", 0, 1, 1, 10, 20), ("cat", 1, 5.5, 6, 64, 48)],
        "000007": [],
        "000009": [("zebra", 0, 1, 2, 3, 4)],
    }
    for name, things in objects.items():
        body = "".join(VOC_OBJECT.format(*thing) for thing in things)
        (root / "Annotations" / f"{name}.xml").write_text(VOC.format(name=name, objects=body))
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg())
    (root / "ImageSets/Main/train.txt").write_text("000007\n000005\n")
    (root / "ImageSets/Main/val.txt").write_text("000009\n")
    (root / "ImageSets/Main/dog_train.txt").write_text("000005 1\n000007 -1\n")
    return root


def test_voc(tmp_path):
    """VOC: pixels from 1 become corners from 0, difficult becomes crowd, splits number classes alike."""
    root = write_voc(tmp_path / "VOCdevkit" / "VOC2007")
    assert [dataset.split for dataset in find_datasets(root)] == ["train", "val"]
    assert [dataset.split for dataset in find_datasets(tmp_path / "VOCdevkit")] == ["train", "val"]
    source = load(root, "train")
    assert [(c.id, c.name) for c in source.categories] == [(1, "cat"), (2, "dog"), (3, "zebra")]
    assert source.categories == load(root, "val").categories
    first, second = source.samples()
    assert (first.image_id, len(first.columns["annotation_id"])) == (7, 0)
    assert (second.image_id, second.name, second.size) == (5, "000005.jpg", (64, 48))
    assert second.columns["boxes"].tolist() == [[0, 0, 10, 20], [4.5, 5, 64, 48]]
    assert second.columns["crowd"].tolist() == [False, True] and second.columns["label"].tolist() == [2, 1]
    assert source.digest != load(root, "val").digest


def test_voc_without_lists_and_with_a_broken_file(tmp_path):
    """Without lists every annotated image counts; an unreadable XML leaves its image out."""
    root = write_voc(tmp_path)
    for path in (root / "ImageSets/Main").iterdir():
        path.unlink()
    (root / "Annotations/000007.xml").write_text("<annotation><obj")
    samples = list(load(root).samples())
    assert [sample.image_id for sample in samples] == [5, 7, 9]
    assert [bool(sample.skip_reason) for sample in samples] == [False, True, False]
    assert samples[2].columns["annotation_id"].tolist() == [3]


def write_yolo(root: Path, yaml: str | None, nested: bool = True) -> Path:
    for split, names in (("train", ["b", "a", "c"]), ("val", ["d"])):
        images, labels = (root / f"images/{split}", root / f"labels/{split}")
        if not nested:
            images, labels = root / split / "images", root / split / "labels"
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for name in names:
            (images / f"{name}.jpg").write_bytes(jpeg())
        (labels / f"{names[0]}.txt").write_text(
            "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.1 0.3 0.1 0.3 0.4\nx y\n7 .5 .5 .1 .1 .9\n"
        )
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


@pytest.mark.parametrize(
    ("yaml", "nested"),
    [
        ("path: ../datasets/x\ntrain: images/train\nval: images/val\nnames: [person, dog]", True),
        ("train: ../train/images\nval: ../val/images\nnc: 2\nnames:\n  0: person\n  1: dog", False),
        ("names: {0: person, 1: dog}", True),
    ],
    ids=["ultralytics", "roboflow", "names"],
)
def test_yolo(tmp_path, yaml, nested):
    """YOLO: relative boxes and outlines, ids from 1, pictures without labels, the usual layouts."""
    root = write_yolo(tmp_path / "set", yaml, nested)
    assert [dataset.split for dataset in find_datasets(root)] == ["train", "val"]
    source = load(root, "train")
    assert [(c.id, c.name) for c in source.categories] == [(1, "person"), (2, "dog")]
    samples = list(source.samples())
    assert [(sample.image_id, sample.name) for sample in samples] == [(1, "a.jpg"), (2, "b.jpg"), (3, "c.jpg")]
    columns = samples[1].columns
    assert samples[1].relative and columns["label"].tolist() == [2, 1]
    assert columns["boxes"].tolist() == [[0.375, 0.25, 0.625, 0.75], [0.1, 0.1, 0.3, 0.4]]
    assert [(problem.file, problem.reason[:17]) for problem in source.problems] == [
        ("b.jpg", "line 4 of its lab"),
        ("b.jpg", "line 5 of its lab"),
    ]
    assert len(samples[0].columns["annotation_id"]) == 0
    assert next(iter(source.samples(1))).columns["annotation_id"].tolist() == columns["annotation_id"].tolist()


def test_yolo_class_names(tmp_path):
    """Without YAML, classes.txt names the classes; without either there is an error."""
    root = write_yolo(tmp_path, None)
    with pytest.raises(SourceError, match="no class names"):
        load(root)
    (root / "classes.txt").write_text("person\ndog\n")
    assert [category.name for category in load(root).categories] == ["person", "dog"]
    (root / "data.yaml").write_text("names: [unclosed")
    with pytest.raises(SourceError, match=r"data.yaml is not valid YAML"):
        load(root)


def test_folder(tmp_path):
    """A folder: every picture below it by path, no boxes, nothing that fastload or the system put there."""
    for name in ("b.jpg", "a/x.PNG", "fastload/no.jpg", ".hidden/no.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg())
    source = find_datasets(tmp_path, Format.FOLDER)[0].load()
    assert [(sample.image_id, sample.name) for sample in source.samples()] == [(1, "a/x.PNG"), (2, "b.jpg")]
    assert source.categories == () and all(len(sample.columns["annotation_id"]) == 0 for sample in source.samples())


def test_formats_are_told_apart(tmp_path):
    """The format is found where it is clear; where it is not, the error says what to do."""
    write_coco(tmp_path / "coco", many_jpegs(1))
    write_voc(tmp_path / "voc")
    write_yolo(tmp_path / "yolo", "names: [a]")
    for format in ("coco", "voc", "yolo"):
        assert detect_format(tmp_path / format).value == format
    write_coco(tmp_path / "voc", many_jpegs(1))
    with pytest.raises(SourceError, match="coco and voc: choose one with --format"):
        detect_format(tmp_path / "voc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no images either"):
        detect_format(tmp_path / "empty")
    (tmp_path / "empty" / "x.jpg").write_bytes(jpeg())
    with pytest.raises(SourceError, match="--format folder"):
        detect_format(tmp_path / "empty")


def test_nothing_to_find(tmp_path):
    """Folders and splits that are not there are named, with those that are."""
    with pytest.raises(SourceError, match="does not exist"):
        find_datasets(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"no dataset of the format voc .*, which holds nothing: looked for \*.xml"):
        find_datasets(tmp_path, Format.VOC)
    with pytest.raises(SourceError, match=r"no split test: choose from train"):
        find_datasets(write_coco(tmp_path, many_jpegs(1)), splits=["test"])


def test_no_name_leads_out_of_the_folder(tmp_path):
    """Absolute names and .. in lists of VOC and YOLO leave their images out with the reason; nothing there is read."""
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg())
    secret.with_suffix(".txt").write_text("0 .5 .5 .1 .1\n")
    voc = write_voc(tmp_path / "voc")
    names = ["000007", "../../secret", str(secret.with_suffix("")), "a/../../../secret"]
    (voc / "ImageSets/Main/train.txt").write_text("\n".join(names))
    samples = list(load(voc, "train").samples())
    assert ["points outside" in (sample.skip_reason or "") for sample in samples] == [False, True, True, True]
    yolo = write_yolo(tmp_path / "yolo", "train: train.txt\nval: images/val\nnames: [a, b]")
    names = ["./images/train/a.jpg", yolo / "images/train/b.jpg", "../secret.jpg", secret, "x/../../secret.jpg"]
    (yolo / "train.txt").write_text("\n".join(map(str, names)))
    samples = list(load(yolo, "train").samples())
    assert ["points outside" in (sample.skip_reason or "") for sample in samples] == [False, False, True, True, True]
    assert [len(sample.columns["annotation_id"]) for sample in samples] == [0, 2, 0, 0, 0]


@pytest.mark.parametrize("where", ["../outside", "{}/outside"])
def test_a_yolo_split_lies_in_its_folder(tmp_path, where):
    """A YAML file that names pictures elsewhere is an error that says so."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x.jpg").write_bytes(jpeg())
    root = write_yolo(tmp_path / "set", f"train: {where.format(tmp_path)}\nnames: [a, b]")
    with pytest.raises(SourceError, match="is outside "):
        find_datasets(root, Format.YOLO)


def test_links_are_followed_once(tmp_path):
    """Links to pictures and folders elsewhere are a dataset's own; rings of links end."""
    (tmp_path / "disk").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "disk" / name).write_bytes(jpeg())
    root = tmp_path / "set"
    (root / "sub").mkdir(parents=True)
    (root / "more").symlink_to(tmp_path / "disk")
    (root / "c.jpg").symlink_to(tmp_path / "disk/a.jpg")
    for i in range(3):
        (root / f"ring{i}").symlink_to(root)
        (root / "sub" / f"ring{i}").symlink_to(root)
    source = find_datasets(root, Format.FOLDER)[0].load()
    assert [sample.name for sample in source.samples()] == ["c.jpg", "more/a.jpg", "more/b.jpg"]
