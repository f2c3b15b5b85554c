"""Pascal VOC in every layout, encoding and spelling: lists, folders, and what XML files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastload import Cache
from fastload.cache.format.problems import read_problems
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.errors import SourceError
from fastload.sources.detect import Format, detect_format, find_datasets
from tests.support.datasets import encoded, jpeg, pixels

SIZE = "<size><width>64</width><height>48</height></size>"
OBJECT = "<object><name>{}</name>{}<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>"


def xml(name: str = "dog", more: str = "", filename: str = "") -> str:
    """An annotation of one object."""
    stated = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{stated}{SIZE}{OBJECT.format(name, more)}</annotation>"


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """A folder of these files; a name that ends in .jpg with "" is an image, and one in .xml an annotation."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == "" and path.suffix in (".jpg", ".xml"):
            content = jpeg() if path.suffix == ".jpg" else xml()
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def devkit(root: Path, names: list[str], lists: dict[str, str], **more: str | bytes) -> Path:
    """A VOC folder of annotated images and lists of them."""
    files: dict[str, str | bytes] = {f"JPEGImages/{name}.jpg": "" for name in names}
    files |= {f"Annotations/{name}.xml": "" for name in names}
    files |= {f"ImageSets/Main/{name}.txt": content for name, content in lists.items()}
    return write(root, files | more)


def loaded(root: Path) -> dict:
    return {dataset.split: dataset.load() for dataset in find_datasets(root)}


def names(source) -> list[str]:
    return [sample.name for sample in source.samples()]


def skipped(source) -> dict[str, str | None]:
    return {sample.name: sample.skip_reason for sample in source.samples()}


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("Annotations", "JPEGImages"),
        ("annots", "images"),
        ("annotations", "images"),
        ("Annotations", "images"),
        ("labels", "images"),
        ("my xml", "my images"),
        ("annotations", "."),
        (".", "images"),
        (".", "."),
    ],
)
def test_pairs_of_folders(tmp_path, annotations, images):
    """XML files in any folder beside that of the images, or beside the images themselves as labelImg writes them."""
    root = write(tmp_path, {f"{annotations}/a b.xml": "", f"{images}/a b.jpg": "", "notes/x.txt": ""})
    assert detect_format(root) is Format.VOC
    (sample,) = loaded(root)["all"].samples()
    assert sample.path == root / images / "a b.jpg" and sample.columns["boxes"].tolist() == [[0, 0, 10, 20]]


@pytest.mark.parametrize("form", ["{split}/{name}", "{kind}/{split}/{name}", "{split}/{kind}/{name}"])
def test_splits_as_folders(tmp_path, form):
    """Roboflow's folders, and splits in or above the folders of XML files and images; classes are shared."""
    files = {}
    for split, label in (("test", "cat"), ("train", "dog"), ("valid", "dog")):
        files[form.format(split=split, kind="images", name=f"{split}.jpg")] = ""
        files[form.format(split=split, kind="annotations", name=f"{split}.xml")] = xml(label)
    splits = loaded(write(tmp_path, files))
    assert {split: names(source) for split, source in splits.items()} == {
        split: [f"{split}.jpg"] for split in ("test", "train", "valid")
    }
    labels = [next(iter(source.samples())).columns["label"].tolist() for source in splits.values()]
    assert labels == [[1], [2], [2]] and len({source.categories for source in splits.values()}) == 1


def test_every_list_is_a_split(tmp_path):
    """Also lists with an underscore, and empty ones; lists of one class are no splits."""
    lists = {"my_train": "a\n", "my_val": "b\n", "test": "", "dog_test": "a 1\nb -1\n", "dog_my_val": "b  1\n"}
    splits = loaded(devkit(tmp_path, ["a", "b", "c"], lists))
    assert {split: names(source) for split, source in splits.items()} == {
        "my_train": ["a.jpg"],
        "my_val": ["b.jpg"],
        "test": [],
    }


def test_flags_in_lists(tmp_path):
    """A list with a flag in each line that belongs to no other list is a split, unless names end that way."""
    lists = {"train_set": "a 1\nb -1\n", "val": "c 1\n"}
    splits = loaded(devkit(tmp_path, ["a", "b", "c 1"], lists))
    assert {split: names(source) for split, source in splits.items()} == {
        "train_set": ["a.jpg", "b.jpg"],
        "val": ["c 1.jpg"],
    }


def test_names_in_lists(tmp_path):
    """With blanks, suffixes, a byte order mark and CRLF; twice; dots in names are no suffixes."""
    text = "\ufeffali (1)\r\nali (2).jpg\r\nv1.2\r\nali (1)\r\n\r\n"
    splits = loaded(devkit(tmp_path, ["ali", "ali (1)", "ali (2)", "v1.2"], {"train": text, "val": "ali\n"}))
    assert names(splits["train"]) == ["ali (1).jpg", "ali (2).jpg", "v1.2.jpg"] and names(splits["val"]) == ["ali.jpg"]
    assert not any(skipped(splits["train"]).values())
    (problem,) = splits["train"].problems
    assert problem.kind == "merged" and "1 names" in problem.reason and not splits["val"].problems


def test_images_without_annotations_are_named(tmp_path):
    """Absent XML, listed or not, absent images and names that are too long: problems, and no background."""
    long = "b" * 300
    root = devkit(tmp_path / "set", ["a"], {"train": f"a\nbare\nabsent\n{long}\n"}, **{"JPEGImages/bare.jpg": ""})
    write(root, {"Annotations/lost.xml": ""})
    source = loaded(root)["train"]
    assert [bool(reason) for reason in skipped(source).values()] == [False, True, True, True]
    assert "no annotation file" in (skipped(source)["bare.jpg"] or "")
    cache = build_cache(source, tmp_path / "c.lmdb", BuildOptions(workers=1)).path
    assert [problem.file for problem in read_problems(cache)] == ["bare.jpg", "absent.jpg", f"{long}.jpg"]
    (root / "ImageSets/Main/train.txt").unlink()
    source = loaded(root)["all"]
    assert names(source) == ["a.jpg", "bare.jpg", "lost.jpg"]
    assert ["no annotation file" in (reason or "") for reason in skipped(source).values()] == [False, True, False]
    build_cache(source, tmp_path / "all.lmdb", BuildOptions(workers=1))
    problems = {problem.file: problem.reason for problem in read_problems(tmp_path / "all.lmdb")}
    assert problems.keys() == {"bare.jpg", "lost.jpg"} and "missing file" in problems["lost.jpg"]


@pytest.mark.parametrize(
    "content",
    [
        "<ns:annotation xmlns:ns='http://x'>{}</ns:annotation>",
        "<annotation xmlns='http://x'>{}</annotation>",
        "<Annotation>{}</Annotation>",
        "\ufeff<?xml version='1.0' encoding='utf-8'?>\n<annotation>{}</annotation>",
        "<annotation><objects>{}</objects></annotation>",
    ],
)
@pytest.mark.parametrize("spelling", ["object", "Object", "OBJECT"])
def test_spellings(tmp_path, content, spelling):
    """Namespaces, a byte order mark and upper case change nothing."""
    body = OBJECT.format("dog", "").replace("object", spelling)
    if spelling == "OBJECT":
        body = body.replace("bndbox", "BndBox").replace("xmin", "XMin").replace("name", "Name")
    root = write(tmp_path, {"annots/a.xml": content.format(body), "images/a.jpg": ""})
    (sample,) = loaded(root)["all"].samples()
    assert sample.columns["boxes"].tolist() == [[0, 0, 10, 20]] and not sample.skip_reason


@pytest.mark.parametrize(
    ("declared", "written", "name"),
    [
        ("ANSI", "ascii", "dog"),
        ("ANSI", "utf-8", "собака"),
        ("gb2312", "gb18030", "狗"),
        ("GBK", "gbk", "狗"),
        ("x-unknown", "utf-8", "狗"),
        ("windows-1252", "cp1252", "Köter"),
        ("big5", "big5", "狗"),
        ("utf-16", "utf-16", "狗"),
        ("utf-8", "utf-8", "狗"),
    ],
)
def test_encodings(tmp_path, declared, written, name):
    """Those that Python knows by any name are decoded; names that are none are taken as UTF-8."""
    text = f'<?xml version="1.0" encoding="{declared}"?>\n{xml(name)}'
    files = {"annots/a.xml": text.encode(written), "annots/b.xml": xml("b"), "images/a.jpg": "", "images/b.jpg": ""}
    source = loaded(write(tmp_path, files))["all"]
    assert name in [category.name for category in source.categories] and not any(skipped(source).values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f'<?xml version="1.0" encoding="ANSI"?>{xml("狗")}'.encode("gbk"), "is not utf-8"),
        (b'<?xml version="1.0" encoding="base64"?><annotation/>x', "cannot be read"),
        (b"<annotation><object>", "cannot be read"),
        (b"", "cannot be read"),
        (b"\0\1\2", "cannot be read"),
        (b"<html></html>", "begin with <html>"),
    ],
)
def test_files_that_make_no_sense(tmp_path, content, reason):
    """They skip their image with the reason, and end no build."""
    files = {"annots/a.xml": content, "annots/b.xml": "", "images/a.jpg": "", "images/b.jpg": ""}
    source = loaded(write(tmp_path / "set", files))["all"]
    assert reason in (skipped(source)["a.jpg"] or "") and not skipped(source)["b.jpg"]
    assert build_cache(source, tmp_path / "c.lmdb", BuildOptions(workers=1)).images == 1


def test_an_annotation_file_that_cannot_be_read(tmp_path):
    """Its image is skipped with the reason."""
    root = write(tmp_path, {"annots/b.xml": "", "images/a.jpg": "", "images/b.jpg": "", "annots/a.xml/x.txt": ""})
    source = loaded(root)["all"]
    assert "cannot be read: Is a directory" in (skipped(source)["a.jpg"] or "") and not skipped(source)["b.jpg"]


def test_the_image_of_an_annotation(tmp_path):
    """It has the name of the XML file, in any format; else it is the one that the file states."""
    files: dict[str, str | bytes] = {"annots/a.xml": xml(filename="wrong.jpg"), "images/a.jpg": ""}
    files |= {"annots/1.xml": xml(filename="renamed.jpg"), "images/renamed.jpg": ""}
    files |= {"annots/c.xml": xml(filename="c.png"), "images/c.jpg": "", "images/c.png": encoded(pixels(64, 48), "PNG")}
    source = loaded(write(tmp_path, files))["all"]
    assert names(source) == ["renamed.jpg", "a.jpg", "c.png"] and not any(skipped(source).values())


def test_flags_are_columns(tmp_path):
    """By value; those that no file has are no columns; what is no flag is named."""
    flags = ["<difficult>1</difficult><truncated>True</truncated>", "<difficult>false</difficult>", "", "<occluded/>"]
    flags += ["<difficult>maybe</difficult><truncated>0.4</truncated>"]
    body = "".join(OBJECT.format("dog", flag) for flag in flags)
    files = {"annots/a.xml": f"<annotation>{SIZE}{body}</annotation>", "images/a.jpg": ""}
    source = loaded(write(tmp_path / "set", files))["all"]
    assert [column.name for column in source.columns] == ["difficult", "truncated", "occluded"]
    assert [(problem.kind, problem.file) for problem in source.problems] == [("flag ignored", "a.jpg")]
    assert "object 5: `difficult` is 'maybe'" in source.problems[0].reason
    cache = Cache(build_cache(source, tmp_path / "c.lmdb", BuildOptions(workers=1)).path)
    assert cache.columns["difficult"].tolist() == [True, False, False, False, False]
    assert cache.columns["truncated"].tolist() == [True, False, False, False, True]
    assert not cache.columns["occluded"].any() and cache.crowd.tolist() == [1, 0, 0, 0, 0]
    plain = write(tmp_path / "plain", {"annots/a.xml": "", "images/a.jpg": ""})
    assert loaded(plain)["all"].columns == ()


def test_images_in_subfolders(tmp_path):
    """Images below the image folder belong to XML files that are all in one folder."""
    root = write(
        tmp_path, {"annotations/a.xml": "", "annotations/b.xml": "", "images/x/a.jpg": "", "images/y/b.jpg": ""}
    )
    assert [sample.path.parent.name for sample in loaded(root)["all"].samples()] == ["x", "y"]


def test_ambiguous_folders(tmp_path):
    """Two folders of images of which none has a usual name are not guessed between."""
    files = {"annots/a.xml": "", "left/a.jpg": "", "right/a.jpg": ""}
    with pytest.raises(SourceError, match="no dataset of the format voc in"):
        find_datasets(write(tmp_path, files), Format.VOC)
