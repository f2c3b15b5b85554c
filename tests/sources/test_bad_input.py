"""Odd names, byte order marks and unlisted images, in each format whose lists or annotation files name images."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fastload import BuildOptions, Cache, Encoding, SourceError, build_cache, find_datasets
from fastload.cache.format.problems import read_problems
from fastload.sources.base import UNLISTED
from tests.support.datasets import CATEGORIES, box, jpeg

OPTIONS = BuildOptions(Encoding.ORIGINAL, workers=1)
XML = (
    "<annotation><object><name>dog</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>"
    "</object></annotation>"
)
ODD = ["sp ace.jpg", "n\u00e4\u72d7.jpg", "back\\slash.jpg", "not-utf8\udce9.jpg", "#%20[x],'\".jpg", "-*.jpg"]
ODD += ["a.b.jpg"]
NEWLINES = ["new\nline.jpg", "ret\rurn.jpg", "u\u2028\x85.jpg"]  # a list with a name a line cannot hold the first two
OUTSIDE = ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "..\\x.jpg", "C:\\x.jpg", "..", ".", "~/x.jpg", "x\0.jpg"]
LONG = ["b" * 300 + ".jpg", "x/" * 3000 + "a.jpg"]


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


def stem(name: str) -> str:
    return os.path.splitext(name)[0]


def coco(root: Path, names: Sequence[str], split: str) -> Path:
    images = [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)]
    boxes = [box(i, i, [1, 2, 10, 20]) for i in range(len(names))]
    content = json.dumps({"images": images, "annotations": boxes, "categories": CATEGORIES})
    put(root / f"annotations/{split}.json", content)
    return root / "images"


def yolo(root: Path, names: Sequence[str], split: str) -> Path:
    put(root / "data.yaml", "names: [dog]\ntrain: train.txt\nval: val.txt\n")
    put(root / "val.txt", "") if split == "train" else None
    put(root / f"{split}.txt", "\n".join(name if name in OUTSIDE else f"images/{name}" for name in names))
    return root / "images"


def voc(root: Path, names: Sequence[str], split: str) -> Path:
    put(root / f"ImageSets/Main/{split}.txt", "\n".join(names))
    for name in names:
        if name not in OUTSIDE + LONG:
            put(root / f"Annotations/{stem(name)}.xml", XML)
    return root / "JPEGImages"


def table(root: Path, names: Sequence[str], split: str) -> Path:
    text = io.StringIO()
    csv.writer(text).writerows([["path", "label"], *([name, "dog"] for name in names)])
    put(root / f"{split}.csv", text.getvalue())
    return root / "images"


def crowdhuman(root: Path, names: Sequence[str], split: str) -> Path:
    lines = [json.dumps({"ID": stem(name), "gtboxes": [{"tag": "person", "fbox": [1, 2, 3, 4]}]}) for name in names]
    put(root / f"annotation_{split}.odgt", "\n".join(lines))
    return root / "Images"


def open_images(root: Path, names: Sequence[str], split: str) -> Path:
    text = io.StringIO()
    rows = [[stem(name), "/m/1", 0.1, 0.5, 0.1, 0.5] for name in names]
    csv.writer(text).writerows([["ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"], *rows])
    put(root / f"{split}-annotations-bbox.csv", text.getvalue())
    put(root / "class-descriptions-boxable.csv", "/m/1,Dog\n")
    return root / "images"


FORMATS: dict[str, Callable[[Path, Sequence[str], str], Path]] = {
    "coco": coco,
    "yolo": yolo,
    "voc": voc,
    "csv": table,
    "crowdhuman": crowdhuman,
    "open-images": open_images,
}
BY_LINE = {"yolo", "voc"}  # formats with lists of a name a line


def build(root: Path, split: str = "train", format: str | None = None) -> Cache:
    (dataset,) = find_datasets(root, format, [split])
    build_cache(dataset.load(), dataset.cache, OPTIONS)
    return Cache(dataset.cache)


def problems(root: Path, split: str = "train") -> dict[str, str]:
    return {each.file: each.reason for each in read_problems(root / f"fastload/{split}.lmdb")}


def names_of(cache: Cache) -> list[str]:
    return [os.path.basename(cache.name(i)) for i in range(len(cache))]


@pytest.mark.parametrize("format", FORMATS)
def test_odd_names(tmp_path, format):
    """Blanks, backslashes, other alphabets, bytes that are not UTF-8 and new lines are parts of names."""
    names = ODD + (NEWLINES[2:] if format in BY_LINE else NEWLINES)
    folder = FORMATS[format](tmp_path, names, "train")
    for name in names:
        put(folder / name, jpeg())
        if format == "yolo":
            put(tmp_path / "labels" / f"{stem(name)}.txt", "0 .5 .5 .5 .5")
    cache = build(tmp_path)
    assert names_of(cache) == [name.replace("\udce9", "\ufffd") for name in names] and not problems(tmp_path)
    assert len(cache.boxes) == (0 if format == "csv" else len(names))


@pytest.mark.parametrize("format", FORMATS)
def test_names_that_lead_nowhere(tmp_path, format):
    """Names outside the folder, and those that no file can have, cost one image each, with a reason."""
    put(tmp_path / "set/x.jpg", jpeg(seed=1))
    root = tmp_path / "set/a"
    names = ["ok.jpg", *OUTSIDE, *LONG]
    put(FORMATS[format](root, names, "train") / "ok.jpg", jpeg())
    assert names_of(build(root)) == ["ok.jpg"]
    listed = problems(root)
    if format == "open-images":
        reason = f"{len(names) - 1} images of the file are not in its folder"
        assert listed == {str(root / "train-annotations-bbox.csv"): reason}
    else:
        reasons = read_problems(root / "fastload/train.lmdb")
        assert len(reasons) == len(names) - 1 and all(each.kind == "skipped" for each in reasons)
        assert sum("points outside" in each.reason for each in reasons) >= 4


@pytest.mark.parametrize("format", ["coco", "crowdhuman"])
def test_lone_surrogates(tmp_path, format):
    """JSON can state names that no file has: they are named, and readable in the problems file."""
    folder = FORMATS[format](tmp_path, ["ok.jpg", "lone\ud800.jpg"], "train")
    put(folder / "ok.jpg", jpeg())
    assert names_of(build(tmp_path)) == ["ok.jpg"]
    assert "lone surrogates" in problems(tmp_path)["lone\ud800.jpg"]


def test_a_lone_surrogate_as_the_name_of_a_class(tmp_path):
    """YAML can state it; it is kept."""
    put(tmp_path / "images/a.jpg", jpeg())
    put(tmp_path / "labels/a.txt", "0 .5 .5 .5 .5")
    put(tmp_path / "data.yaml", 'names: ["x\\uD800"]\ntrain: images\n')
    assert [category.name for category in build(tmp_path).categories] == ["x\ud800"]


@pytest.mark.parametrize("key", ["path", "names", "train"])
def test_long_paths_in_yaml(tmp_path, key):
    """A path that no file can have is one that does not exist."""
    settings = {"path": ".", "names": "[dog]", "train": "images"} | {key: "/" + "b" * 300}
    put(tmp_path / "images/a.jpg", jpeg())
    put(tmp_path / "labels/a.txt", "0 .5 .5 .5 .5")
    put(tmp_path / "data.yaml", "\n".join(f"{name}: {value}" for name, value in settings.items()))
    if key == "path":
        assert len(build(tmp_path)) == 1 and "does not exist" in problems(tmp_path)[str(tmp_path / "data.yaml")]
    else:
        with pytest.raises(SourceError, match="does not exist" if key == "train" else "no class names"):
            build(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_byte_order_marks(tmp_path, format):
    """In any text file it changes nothing."""
    folder = FORMATS[format](tmp_path, ["a.jpg", "b.jpg"], "train")
    for name in ("a", "b"):
        put(folder / f"{name}.jpg", jpeg())
        if format == "yolo":
            put(tmp_path / f"labels/{name}.txt", "0 .5 .5 .5 .5\r\n")
    for path in [each for each in tmp_path.rglob("*") if each.is_file() and each.suffix != ".jpg"]:
        put(path, codecs.BOM_UTF8 + path.read_bytes())
    cache = build(tmp_path)
    assert names_of(cache) == ["a.jpg", "b.jpg"] and not problems(tmp_path)
    assert len(cache.boxes) == (0 if format == "csv" else 2) and len(cache.categories) == (2 if format == "coco" else 1)


@pytest.mark.parametrize("format", FORMATS)
def test_unlisted_images_are_counted(tmp_path, format):
    """One note says how many images are in no list of the folder, and what else is there does not count."""
    folder = FORMATS[format](tmp_path, ["a.jpg"], "train")
    FORMATS[format](tmp_path, ["b.jpg"], "val")
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.PNG", "notes.md", ".hidden.jpg", "other/e.jpg"):
        put(folder / name, jpeg())
    assert names_of(build(tmp_path)) == ["a.jpg"]
    notes = [each.reason for each in read_problems(tmp_path / "fastload/train.lmdb") if each.kind == UNLISTED]
    assert len(notes) == 1 and f"2 images in {folder} are not listed in {tmp_path}" in notes[0]
    (folder / "c.jpg").unlink()
    (folder / "d.PNG").unlink()
    assert not any(each.kind == UNLISTED for each in find_datasets(tmp_path, splits=["val"])[0].load().problems)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_members_of_tar_files(tmp_path):
    """Names of members are no paths: they may be anything. Formats are known by content; dots in names are kept."""
    names = ODD[:-1] + NEWLINES + ["../x.jpg", "/etc/y.jpg", "C:\\z.jpg", "no-suffix", "v.1.jpg", "v.2.jpg"]
    members = {name: jpeg() for name in names} | {f"{stem(name)}.cls": b"0" for name in names if "." in name}
    members |= {"no-suffix.download": jpeg(), "no-suffix.cls": b"0", "._sp ace.jpg": b"macOS"}
    del members["no-suffix"]
    members |= {"h.heic": b"\0\0\0\x18ftypheic" + bytes(50), "h.cls": b"0"}
    members |= {"t.jpg": jpeg(), "t.png": jpeg(), "t.cls": b"0", "t.seg.png": b"?"}
    write_tar(tmp_path / "0.tar", members)
    cache = build(tmp_path, tmp_path.name)
    assert len(cache) == len(names) + 1
    found = problems(tmp_path, tmp_path.name)
    assert found.keys() == {"h.heic", "0.tar/t.png"}
    assert "HEIC" in found["h.heic"] and "t.jpg comes before it" in found["0.tar/t.png"]


def test_odd_values_of_crowdhuman(tmp_path):
    """They cost a box each; a line that repeats an image is skipped."""
    put(tmp_path / "Images/a.jpg", jpeg())
    odd = [{"tag": "person", "fbox": [1, 2, 3, 10**400]}, {"tag": "person", "fbox": [1, 2, 3, 4], "extra": [1]}]
    lines = [{"ID": "a", "gtboxes": odd}, {"ID": "a", "gtboxes": []}]
    put(tmp_path / "annotation_train.odgt", "\n".join(map(json.dumps, lines)))
    assert build(tmp_path).crowd.tolist() == [False]
    reasons = [each.reason for each in read_problems(tmp_path / "fastload/train.lmdb")]
    assert "not four numbers" in reasons[0] and "an earlier line has the same ID a" in reasons[1]


def test_odd_names_of_the_dataset_itself(tmp_path):
    """A folder whose name is not UTF-8, with markup and a new line: its cache is built in it and opens."""
    root = tmp_path / "[red]\n\udce9"
    put(coco(root, ["a.jpg"], "[bold]") / "a.jpg", jpeg())
    assert names_of(build(root, "[bold]")) == ["a.jpg"]
    assert build(root, "[bold]").manifest.source["location"] == str(root / "annotations/[bold].json")
