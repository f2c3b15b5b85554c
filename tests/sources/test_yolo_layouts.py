"""YOLO in every form: settings files, paths, lists of images, and what the lines of label files are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fastload import Cache
from fastload.cache.format.problems import read_problems
from fastload.cache.read.cache_file import CacheFile
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.errors import SourceError
from fastload.sources.detect import Format, detect_format, find_datasets
from tests.support.datasets import encoded, jpeg, pixels

BOX = "0 .5 .5 .25 .5\n"
XYXY = [0.375, 0.25, 0.625, 0.75]


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """A folder of these files; a name that ends in .jpg with "" is an image."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = jpeg() if content == "" and path.suffix == ".jpg" else content
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def two_splits(root: Path, yaml: str, **more: str) -> Path:
    """Image a in images/a, image b in images/b, each with a box, and a data.yaml."""
    files = {f"images/{name}/{name}.jpg": "" for name in "ab"} | {f"labels/{name}/{name}.txt": BOX for name in "ab"}
    return write(root, {**files, "data.yaml": yaml + "\nnames: [cat, dog]\n", **more})


def labeled(root: Path, labels: list[str | bytes], settings: str = "") -> Path:
    """A dataset of one split whose k-th image has the k-th label file."""
    files: dict[str, str | bytes] = {f"images/{i}.jpg": "" for i in range(len(labels))}
    files |= {f"labels/{i}.txt": label for i, label in enumerate(labels)}
    return write(root, {**files, "data.yaml": f"train: images\nnames: [cat, dog]\n{settings}"})


def loaded(root: Path) -> dict:
    return {dataset.split: dataset.load() for dataset in find_datasets(root)}


def names(source) -> list[str]:
    return [sample.name for sample in source.samples()]


def reasons(source) -> list[str]:
    return [problem.reason for problem in source.problems]


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/a\nval: images/b",
        "path: .\ntrain: images/a\nval: images/b",
        "path: {root}\ntrain: images/a\nval: images/b",
        "path: ../datasets/set\ntrain: ./images/a/\nval: images/b",
        "train: {root}/images/a\nval: {root}/images/b",
        "train: ../images/a\nval: ../images/b\ntest:  # optional",
        "train: [images/a]\nval:\n  - images/b",
        "train: a.txt\nval: b.txt",
    ],
)
def test_paths_of_splits(tmp_path, yaml):
    """Folders, lists of folders and list files, relative or absolute, by folder and by the YAML file itself."""
    lists = {"a.txt": "./images/a/a.jpg\n", "b.txt": "images/b/b.jpg"}
    root = two_splits(tmp_path / "set", yaml.format(root=tmp_path / "set"), **lists)
    for given in (root, root / "data.yaml"):
        splits = loaded(given)
        assert [name[-5:] for source in splits.values() for name in names(source)] == ["a.jpg", "b.jpg"]
        assert list(splits) == ["train", "val"] and not any(source.problems for source in splits.values())
        for sample in splits["val"].samples():
            assert sample.columns["boxes"].tolist() == [XYXY]
    assert {dataset.cache for dataset in find_datasets(root / "data.yaml")} == {
        root / "fastload/train.lmdb",
        root / "fastload/val.lmdb",
    }


def test_several_folders_of_a_split(tmp_path):
    """The images of all folders, named from the folder they share; an image listed twice counts once."""
    root = two_splits(tmp_path, "train: [images/a, images/b, images/a]")
    source = loaded(root)["train"]
    assert names(source) == ["a/a.jpg", "b/b.jpg"]
    assert [problem.kind for problem in source.problems] == ["merged"] and "1 entries" in reasons(source)[0]


@pytest.mark.parametrize(
    "given", ["names: [yes, no, 1e3]", "names: {0: yes, 1: no, 2: 1e3}", "names:\n- yes\n- no\n- 1e3"]
)
def test_names_are_text(tmp_path, given):
    """Names that YAML takes for flags or numbers stay the text that they are written as."""
    root = write(tmp_path, {"images/a.jpg": "", "labels/a.txt": BOX, "data.yaml": given})
    assert [category.name for category in loaded(root)["all"].categories] == ["yes", "no", "1e3"]


def test_a_yaml_file_may_name_another_place(tmp_path):
    """A YAML file that is given itself may name folders elsewhere; one that was found may not."""
    two_splits(tmp_path / "disk", "")
    where = {
        "by_path.yaml": f"path: {tmp_path}/disk\ntrain: images/a\nnames: [cat]",
        "absolute.yaml": f"train: {tmp_path}/disk/images/a\nnames: [cat]",
        "relative.yaml": "path: ../disk\ntrain: images/a\nnames: [cat]",
    }
    root = write(tmp_path / "set", where)
    for name in where:
        (sample,) = loaded(root / name)["train"].samples()
        assert sample.name == "a.jpg" and not sample.skip_reason and len(sample.columns["boxes"]) == 1
    with pytest.raises(SourceError, match=r"several files with `names`: .* Give one of them"):
        find_datasets(root, Format.YOLO)
    for name in ("by_path.yaml", "relative.yaml"):
        (root / name).unlink()
    with pytest.raises(SourceError, match=r"is outside .* give the YAML file itself"):
        find_datasets(root)


def test_moved_paths_are_found_by_their_last_parts(tmp_path):
    """Paths of the machine where the YAML file was written: found below its folder, and the problems file says so."""
    root = two_splits(tmp_path, "train: /content/d/images/a\nval: C:\\\\d\\\\images\\\\b".replace("\\\\", "\\"))
    splits = {f"moved {split}": source for split, source in loaded(root).items()}
    assert [names(source) for source in splits.values()] == [["a.jpg"], ["b.jpg"]]
    splits |= loaded(write(root, {"data.yaml": "path: /content/d\ntrain: images/a\nval: images/b\nnames: [cat]"}))
    for source in splits.values():
        (problem,) = source.problems
        assert problem.kind == "found elsewhere" and "data.yaml" in problem.file and "does not exist" in problem.reason


@pytest.mark.parametrize("val", ["images/nope", "/content/d/images/nope", "images/a/images", "other/images"])
def test_a_path_that_does_not_exist_is_an_error(tmp_path, val):
    """It is never skipped, and never taken for the images of another split; the other splits can be chosen."""
    root = two_splits(tmp_path, f"train: images/a\nval: {val}")
    with pytest.raises(SourceError, match=rf"data.yaml gives `val` as {val}, which does not exist.*--split"):
        find_datasets(root)
    (train,) = find_datasets(root, splits=["train"])
    assert names(train.load()) == ["a.jpg"]


def test_two_moved_splits_never_share_images(tmp_path):
    """Where the last parts of both paths are one folder, neither is taken."""
    root = write(tmp_path, {"images/a.jpg": "", "labels/a.txt": BOX})
    write(root, {"data.yaml": "train: /d/train/images\nval: /d/val/images\nnames: [a]"})
    with pytest.raises(SourceError, match="is also"):
        find_datasets(root)


def test_split_folders_without_a_yaml_file(tmp_path):
    """Folders in `images` whose names begin as those of splits do are splits, and are not merged."""
    files = {f"images/{split}2017/{split}.jpg": "" for split in ("train", "val")}
    root = write(tmp_path, {**files, "labels/train2017/train.txt": BOX, "classes.txt": "\ufeffcat\r\n"})
    assert loaded(root)["val2017"].categories[0].name == "cat"
    assert {split: names(source) for split, source in loaded(root).items()} == {
        "train2017": ["train.jpg"],
        "val2017": ["val.jpg"],
    }


def test_cvat(tmp_path):
    """CVAT's YOLO 1.1: `obj.data`, names and lists whose paths begin with `data`, labels beside the images."""
    settings = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    files = {"obj.data": settings, "obj.names": "cat\nbig dog\n", "train.txt": "data/obj_train_data/a b.jpg\n"}
    root = write(tmp_path, {**files, "obj_train_data/a b.jpg": "", "obj_train_data/a b.txt": BOX})
    assert detect_format(root) is Format.YOLO
    source = loaded(root)["train"]
    (sample,) = source.samples()
    assert sample.path == root / "obj_train_data/a b.jpg" and sample.columns["boxes"].tolist() == [XYXY]
    assert [category.name for category in source.categories] == ["cat", "big dog"] and not source.problems


def test_labels_beside_the_images(tmp_path):
    """One folder of images, their text files and classes.txt, as labelImg writes it."""
    root = write(tmp_path, {"a.jpg": "", "a.txt": BOX, "classes.txt": "cat\n"})
    (sample,) = loaded(root)["all"].samples()
    assert sample.columns["boxes"].tolist() == [XYXY]


def test_entries_of_list_files(tmp_path):
    """Names with blanks, without suffix, from another machine, twice, absent or too long; with a byte order mark."""
    files = {f"images/{name}.jpg": "" for name in ("ali (1)", "ali (2)", "c", "d.e", "f")}
    long = "b" * 300
    entries = ["images/ali (1).jpg", "images/ali (2)", "images/d.e", "/content/x/images/f.jpg", "./images/c.jpg"]
    entries += ["images/ali (1).jpg", "images/absent.jpg", f"images/{long}.jpg"]
    text = "\ufeff" + "\r\n".join(entries)
    root = write(tmp_path / "set", {**files, "labels/c.txt": BOX, "train.txt": text})
    write(root, {"data.yaml": "train: train.txt\nnames: [a]"})
    source = loaded(root)["train"]
    found = [f"images/{name}.jpg" for name in ("ali (1)", "ali (2)", "d.e", "f", "c", "absent", long)]
    assert names(source) == found
    assert sorted(problem.kind for problem in source.problems) == ["found elsewhere", "merged"]
    cache = build_cache(source, tmp_path / "c.lmdb", BuildOptions(workers=1)).path
    skipped = {problem.file: problem.reason for problem in read_problems(cache) if problem.kind == "skipped"}
    assert skipped.keys() == {*found[5:]} and "missing file" in skipped["images/absent.jpg"]
    assert "too long" in skipped[f"images/{long}.jpg"]


def test_an_entry_without_suffix_that_may_be_two_images(tmp_path):
    """It is skipped with both names."""
    files = {"images/a.jpg": "", "images/a.png": encoded(pixels(8, 8), "PNG"), "train.txt": "images/a"}
    (sample,) = loaded(write(tmp_path, {**files, "data.yaml": "train: train.txt\nnames: [a]"}))["train"].samples()
    assert "a.jpg or a.png" in (sample.skip_reason or "") or "a.png or a.jpg" in (sample.skip_reason or "")


@pytest.mark.parametrize(
    "given", [Path.absolute, lambda path: Path(os.path.relpath(path))], ids=["absolute", "relative"]
)
def test_entries_that_are_no_images(tmp_path, monkeypatch, given):
    """Folders, odd characters and long folders are skipped with a reason, and end no build."""
    monkeypatch.chdir(tmp_path)
    entries = [".", "/", "..", "images", "a\0b.jpg", "x" * 300 + "/z.jpg", "x" * 300 + "/z", "\udcff.jpg", "a.jpg"]
    text = "\n".join(entries).encode("utf-8", "surrogateescape")
    root = write(tmp_path, {"images/x.jpg": "", "a.jpg": "", "a.txt": BOX, "train.txt": text})
    write(root, {"data.yaml": "train: train.txt\nnames: [a]"})
    source = loaded(given(root))["train"]
    assert len(source) == len(entries)
    report = build_cache(source, tmp_path / "c.lmdb", BuildOptions(workers=1))
    assert report.images == 1 and report.problems["skipped"] == len(entries) - 1


def test_an_empty_list_is_an_empty_split(tmp_path):
    """It has no images, and not those of another split."""
    root = two_splits(tmp_path, "train: images/a\ntest: test.txt", **{"test.txt": ""})
    assert len(loaded(root)["test"]) == 0


def test_label_files(tmp_path):
    """CRLF, blanks, tabs, a byte order mark, no end of line; empty and absent files are background."""
    forms = ["\ufeff" + BOX, BOX.replace("\n", "\r\n"), f"\n  {BOX}\n\t\n", "0.0\t.5 .5  .25 .5", "", "\ufeff"]
    root = labeled(tmp_path, forms)
    (root / "images/9.jpg").write_bytes(jpeg())
    source = loaded(root)["train"]
    found = [sample.columns["boxes"].tolist() for sample in source.samples()]
    assert found == [[XYXY]] * 4 + [[]] * 3 and not source.problems and source.columns == ()


def test_unreadable_and_orphaned_label_files(tmp_path):
    """Neither becomes background without a word: the image is skipped, and the file without image is listed."""
    root = write(labeled(tmp_path, [BOX, BOX]), {"labels/lost.txt": BOX, "labels/classes.txt": "cat"})
    (root / "labels/0.txt").unlink()
    (root / "labels/0.txt").mkdir()
    source = loaded(root)["train"]
    assert ["cannot be read" in (sample.skip_reason or "") for sample in source.samples()] == [True, False]
    assert [(problem.kind, problem.file) for problem in source.problems] == [("skipped", "lost.txt")]


def test_no_labels_at_all(tmp_path):
    """Images that are all background are taken, and the problems file says so."""
    root = write(tmp_path, {"images/train/a.jpg": "", "images/val/b.jpg": "", "labels/train/a.txt": BOX})
    splits = loaded(write(root, {"data.yaml": "names: [a]"}))
    assert not splits["train"].problems
    assert ["no image has a label file" in reason for reason in reasons(splits["val"])] == [True]


OUTLINE = "1 .1 .1 .3 .1 .3 .4"


def test_outlines(tmp_path):
    """An outline is kept beside the box around it; boxes in the same dataset have none."""
    source = loaded(labeled(tmp_path, [BOX + OUTLINE, OUTLINE, ""]))["train"]
    both, one, none = (sample.columns for sample in source.samples())
    assert both["boxes"].tolist() == [XYXY, [0.1, 0.1, 0.3, 0.4]] and both["label"].tolist() == [1, 2]
    assert both["polygons"][0] == [] and both["polygons"][1][0].tolist() == [[0.1, 0.1], [0.3, 0.1], [0.3, 0.4]]
    assert len(one["polygons"]) == 1 and none["polygons"] == []
    cache = Cache(build_cache(source, tmp_path / "c.lmdb", BuildOptions(workers=1)).path)
    rings = cache.record(0).columns["polygons"]
    np.testing.assert_allclose(rings[1][0], np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.4]]) * (64, 48), rtol=1e-6)


CORNERS = "0 .1 .1 .3 .1 .3 .4 .1 .4\n"


def test_rotated_boxes(tmp_path):
    """Eight numbers are corners if the dataset says so, or if no line of any split has others."""
    corners = [[[0.1, 0.1], [0.3, 0.1], [0.3, 0.4], [0.1, 0.4]]]
    for settings, others in (("task: obb\n", [OUTLINE]), ("", []), ("", [""])):
        root = labeled(tmp_path / f"{settings}{len(others)}".strip(), [CORNERS, *others], settings)
        source = loaded(root)["train"]
        first = next(iter(source.samples())).columns
        assert first["rotated"].tolist() == corners and first["boxes"].tolist() == [[0.1, 0.1, 0.3, 0.4]]
        assert len(source.problems) == others.count(OUTLINE)
    mixed = labeled(tmp_path / "mixed", [CORNERS, OUTLINE])
    assert [column.name for column in loaded(mixed)["train"].columns] == ["polygons"]
    files = {"images/train/a.jpg": "", "images/val/b.jpg": "", "labels/train/a.txt": CORNERS, "labels/val/b.txt": BOX}
    splits = loaded(write(tmp_path / "splits", {**files, "data.yaml": "names: [a]"}))
    assert [column.name for column in splits["train"].columns] == ["polygons"]


@pytest.mark.parametrize("shape", [(12, 2), (24, 3), (21, 3), (4, 2), (2, 3)])
def test_keypoints(tmp_path, shape):
    """`kpt_shape` says what follows the box, which is never an outline; other lines are named problems."""
    k, d = shape
    points = np.random.default_rng(0).random((k, d)).round(3)
    points[..., 2:] = np.arange(k)[:, None] % 3
    points[0] = 0
    row = BOX.strip() + " " + " ".join(map(str, points.ravel().tolist()))
    source = loaded(labeled(tmp_path, [f"{row}\n{row} .5\n{OUTLINE}\n{row}", BOX], f"kpt_shape: [{k}, {d}]"))["train"]
    columns = next(iter(source.samples())).columns
    visible = points[..., 2:] if d == 3 else np.where(points.any(1), 2, 0)[:, None]
    assert columns["boxes"].tolist() == [XYXY] * 2 and columns["keypoints"].shape == (2, k, 3)
    np.testing.assert_array_equal(columns["keypoints"][1], np.concatenate([points[:, :2], visible], 1))
    assert [problem.file for problem in source.problems] == ["0.jpg", "0.jpg", "1.jpg"]
    assert reasons(source)[0].startswith("line 2 of its labels:") and "`kpt_shape`" in reasons(source)[0]
    cache = Cache(build_cache(source, tmp_path / "c.lmdb", BuildOptions(workers=1)).path)
    assert cache.columns["keypoints"].shape == (2, k, 3)


def test_flip_idx(tmp_path):
    """It becomes pairs of the column; one that does not exchange keypoints in pairs is an error."""
    row = BOX.strip() + " .1 .2 .3 .4"
    source = loaded(labeled(tmp_path, [row], "kpt_shape: [2, 2]\nflip_idx: [1, 0]"))["train"]
    path = build_cache(source, tmp_path / "c.lmdb", BuildOptions(workers=1)).path
    assert CacheFile(path).manifest.columns[0].flip_pairs == ((0, 1),)
    with pytest.raises(SourceError, match="each of the 2 keypoints once"):
        loaded(labeled(tmp_path, [row], "kpt_shape: [2, 2]\nflip_idx: [1, 1]"))
    with pytest.raises(SourceError, match="does not exchange keypoints in pairs"):
        loaded(labeled(tmp_path, [f"{row} .5 .5"], "kpt_shape: [3, 2]\nflip_idx: [1, 2, 0]"))


@pytest.mark.parametrize("stated", ["[17]", "[0, 3]", "[17, 4]", "17", "many", "[a, 3]", "{a: 1}"])
def test_a_kpt_shape_that_makes_no_sense(tmp_path, stated):
    """It is an error that says what it must be."""
    with pytest.raises(SourceError, match=r"`kpt_shape` as .*: it must be \[K, 2\] or \[K, 3\]"):
        loaded(labeled(tmp_path, [BOX], f"kpt_shape: {stated}"))


def test_lines_that_fit_nothing(tmp_path):
    """Each is named with its number and the reason, and the lines around it are kept."""
    lines = ["0 .5 .5 .25 .5", "0 .5 .5 .25", "0 .5 .5 .25 .5 .9", "cat .5 .5 .2 .2", "0", "0,.5,.5,.2,.2"]
    lines += ["0.5 .5 .5 .2 .2", "-1 .5 .5 .2 .2", "0 nan .5 .2 .2", "0 1e300 .5 .2 .2", "1 .5 .5 .25 .5"]
    source = loaded(labeled(tmp_path, ["\n".join(lines)]))["train"]
    (sample,) = source.samples()
    assert sample.columns["label"].tolist() == [1, 2] and sample.columns["boxes"].tolist() == [XYXY] * 2
    assert [reason.partition(" of")[0] for reason in reasons(source)] == [f"line {i}" for i in range(2, 11)]
    assert {problem.kind for problem in source.problems} == {"box dropped"}


def test_the_digest_follows_labels_and_settings(tmp_path):
    """It changes with a label file and with `kpt_shape`."""
    seen = {loaded(labeled(tmp_path / "a", [CORNERS, BOX]))["train"].digest}
    seen |= {loaded(labeled(tmp_path / "b", [CORNERS, BOX + BOX]))["train"].digest}
    seen |= {loaded(labeled(tmp_path / "c", [CORNERS, BOX], "kpt_shape: [2, 2]"))["train"].digest}
    assert len(seen) == 3


@pytest.mark.parametrize("rotate", [False, True])
def test_exif_orientation_is_named(tmp_path, rotate):
    """Boxes of an image that EXIF turns: the problems file names the option, unless it was given."""
    turned = jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    root = labeled(tmp_path, [BOX, BOX, ""])
    for i in (0, 2):
        (root / f"images/{i}.jpg").write_bytes(turned)
    source = loaded(root)["train"]
    cache = build_cache(source, tmp_path / "c.lmdb", BuildOptions(exif_rotate=rotate, workers=1)).path
    named = [problem.file for problem in read_problems(cache) if "--exif-rotate" in problem.reason]
    assert named == ([] if rotate else ["0.jpg"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_label_file_without_permission(tmp_path):
    """Its image is skipped, and is not background."""
    root = labeled(tmp_path, [BOX])
    (root / "labels/0.txt").chmod(0)
    (sample,) = loaded(root)["train"].samples()
    assert "cannot be read" in (sample.skip_reason or "")
