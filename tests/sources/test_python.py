"""Samples from Python: pairs of a torch Dataset and dicts of any kind of image, with errors that name the index."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from fastload import ArgumentError, BuildOptions, Cache, CacheError, Column, Encoding, SourceError, build_cache
from fastload.cache.format.problems import read_problems
from fastload.cache.write import assemble
from fastload.sources.python import PythonSource
from tests.support.datasets import encoded, jpeg, pixels

OPTIONS = BuildOptions(Encoding.ORIGINAL, workers=2)
CLASSES = ["cat", "dog"]
BOX = [2.0, 3.0, 40.0, 30.0]


class Detection(torch.utils.data.Dataset):
    """A dataset in torchvision's convention; `broken` is an index that raises."""

    def __init__(self, count: int = 5, broken: int | None = None) -> None:
        self.count, self.broken, self.read = count, broken, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        self.read.append(index)
        if index == self.broken:
            raise KeyError("lost")
        n = index % 3
        target = {
            "boxes": torch.tensor([BOX] * n).reshape(-1, 4),
            "labels": torch.arange(n) % 2 + 1,
            "masks": torch.ones((n, 48, 64), dtype=torch.uint8),
            "keypoints": torch.tensor([[[5.0, 6, 2], [0, 0, 0]]] * n).reshape(-1, 2, 3),
            "image_id": torch.tensor([100 + index]),
            "area": torch.full((n,), 7.0, requires_grad=True),
            "iscrowd": torch.zeros(n, dtype=torch.int64),
        }
        return torch.from_numpy(pixels(64, 48, index).copy()).permute(2, 0, 1), target


def build(samples, path: Path, classes=CLASSES, **more) -> Cache:
    build_cache(samples, path, OPTIONS, classes=classes, **more)
    return Cache(path)


def one(path: Path, **fields) -> Cache:
    return build([{"image": jpeg(), **fields}], path / "one.lmdb")


def test_a_torch_dataset(tmp_path):
    """Boxes, labels, masks, keypoints, ids, areas and crowds of torchvision's target dicts are stored."""
    cache = build(Detection(), tmp_path / "a.lmdb", {1: "cat", 2: "dog"})
    assert cache.image_ids.tolist() == [100, 101, 102, 103, 104] and cache.labels.tolist() == [0, 0, 1, 0]
    assert cache.boxes.tolist() == [BOX] * 4 and not cache.crowd.any() and cache.area.tolist() == [7] * 4
    assert [(each.id, each.name) for each in cache.categories] == [(1, "cat"), (2, "dog")]
    assert cache.columns["keypoints"].tolist() == [[[5, 6, 2], [0, 0, 0]]] * 4
    for counts in cache.ragged["rle"].lists():
        assert coco_mask.area({"counts": bytes(counts), "size": [48, 64]}) == 48 * 64
    assert np.abs(np.asarray(Image.open(io.BytesIO(cache.record(0).data)), int) - pixels(64, 48)).mean() < 3


def test_class_labels(tmp_path):
    """A target that is an int, a tensor or a name is the class of the image; the dataset's own `classes` are used."""

    class Classified(list):
        classes = ("cat", "dog")

    for labels in ([0, 1], [torch.tensor(0), torch.tensor(1)], ["cat", "dog"]):
        pairs = Classified((Image.fromarray(pixels(64, 48)), label) for label in labels)
        build_cache(pairs, tmp_path / "a.lmdb", BuildOptions(overwrite=True))
        cache = Cache(tmp_path / "a.lmdb")
        assert cache.columns["class_id"].tolist() == [0, 1] and not len(cache.boxes)


@pytest.mark.parametrize("convert", ["path", "str", "bytes", "bytearray", "unread PIL", "unread PIL of bytes"])
def test_a_jpeg_keeps_its_bytes(tmp_path, convert):
    """However a JPEG is given, its bytes are stored as they are."""
    path, data = tmp_path / "photo.jpg", jpeg()
    path.write_bytes(data)
    image = {
        "path": path,
        "str": str(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "unread PIL": Image.open(path),
        "unread PIL of bytes": Image.open(io.BytesIO(data)),
    }[convert]
    cache = build([{"image": image}], tmp_path / "a.lmdb")
    assert bytes(cache.record(0).data) == data and not read_problems(tmp_path / "a.lmdb")
    assert cache.record(0).name == ("photo.jpg" if "path" in convert or convert == "str" else "sample 0")


@pytest.mark.parametrize(
    "convert",
    [
        lambda array: array,
        lambda array: array.transpose(2, 0, 1),
        lambda array: torch.from_numpy(array.copy()),
        lambda array: torch.from_numpy(array.copy()).permute(2, 0, 1),
        lambda array: Image.fromarray(array),
        lambda array: encoded(array, "PNG"),
        lambda array: array[:, :, 0],
        lambda array: array[:, :, :1],
        lambda array: torch.from_numpy(array[None, :, :, 0].copy()),
    ],
    ids=["HWC", "CHW", "tensor HWC", "tensor CHW", "PIL", "PNG", "HW", "HW1", "tensor 1HW"],
)
def test_pixels_are_encoded_as_a_png_of_them(tmp_path, convert):
    """Arrays, tensors and PIL images are stored as the same pixels in a PNG are, and listed as converted."""
    given = convert(pixels(64, 48))
    gray = not isinstance(given, bytes | Image.Image) and 3 not in given.shape
    array = pixels(64, 48)[..., 0] if gray else pixels(64, 48)
    cache = build([{"image": given}], tmp_path / "a.lmdb")
    png = build([{"image": encoded(array, "PNG")}], tmp_path / "b.lmdb")
    assert bytes(cache.record(0).data) == bytes(png.record(0).data)
    assert [problem.kind for problem in read_problems(tmp_path / "a.lmdb")] == ["converted"]


def test_a_changed_pil_image_is_not_its_file(tmp_path):
    """A PIL image that was read from a JPEG and changed is stored with its change."""
    image = Image.open(io.BytesIO(jpeg()))
    image.paste((255, 255, 255), (0, 0, 64, 48))
    cache = build([{"image": image}], tmp_path / "a.lmdb")
    assert np.asarray(Image.open(io.BytesIO(cache.record(0).data))).min() > 250


@pytest.mark.parametrize(
    ("format", "box"), [("xyxy", [2, 3, 40, 30]), ("xywh", [2, 3, 38, 27]), ("cxcywh", [21, 16.5, 38, 27])]
)
def test_box_formats(tmp_path, format, box):
    """The three formats of boxes mean the same box."""
    cache = build([{"image": jpeg(), "boxes": [box], "labels": ["dog"]}], tmp_path / "a.lmdb", format=format)
    assert cache.boxes.tolist() == [BOX] and cache.labels.tolist() == [1]


def test_columns_are_found(tmp_path):
    """Other keys become columns of images or objects, also if the first samples have no objects."""
    samples = [
        {"image": jpeg(), "boxes": [], "labels": [], "score": [], "scene": 4, "polygons": []},
        {
            "image": jpeg(),
            "boxes": [BOX, BOX],
            "labels": [0, 1],
            "score": [0.5, 1],
            "scene": 5,
            "polygons": [[[[1, 2], [3, 4], [5, 6]]], []],
        },
        {"image": jpeg(), "boxes": [BOX], "labels": [0], "scene": np.int16(6)},
    ]
    cache = build(samples, tmp_path / "a.lmdb")
    assert cache.columns["scene"].tolist() == [4, 5, 6]
    assert np.array_equal(cache.columns["score"], [0.5, 1, np.nan], equal_nan=True)
    assert [len(rings) for rings in cache.ragged["polygons"].lists()] == [1, 0, 0]
    declared = build([samples[0]], tmp_path / "b.lmdb", columns=[Column("score", "float64")])
    assert declared.columns["score"].dtype == np.float64


def test_keypoints_without_visibility(tmp_path):
    """Points (x, y) are visible, and unlabeled at (0, 0)."""
    cache = one(tmp_path, boxes=[BOX], labels=[0], keypoints=[[[5, 6], [0, 0]]])
    assert cache.columns["keypoints"].tolist() == [[[5, 6, 2], [0, 0, 0]]]


def test_masks_of_another_size(tmp_path):
    """An image whose masks have another size is skipped, with both sizes as the reason."""
    good, bad = ({"image": jpeg(), "boxes": [BOX], "labels": [0], "masks": np.ones((1, h, 64))} for h in (48, 40))
    assert len(build([good, bad], tmp_path / "a.lmdb")) == 1
    (problem,) = read_problems(tmp_path / "a.lmdb")
    assert problem.file == "sample 1" and "64 x 48, the annotations say 64 x 40" in problem.reason


def test_unreadable_images_are_problems(tmp_path):
    """A missing file, broken bytes and a repeated image_id cost one image each."""
    samples = [{"image": jpeg()}, {"image": tmp_path / "none.jpg"}, {"image": b"?"}, {"image": jpeg(), "image_id": 0}]
    assert len(build(samples, tmp_path / "a.lmdb")) == 1
    reasons = [problem.reason for problem in read_problems(tmp_path / "a.lmdb")]
    assert "missing file" in reasons[0] and "not an image" in reasons[1] and "same image_id 0" in reasons[2]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"img": 1}, r"`image` is missing \(its keys: img\)"),
        ("photo.jpg", "it is a str: give a dict"),
        ((jpeg(), [{"bbox": BOX}]), "its target is a list: .* wrap_dataset_for_transforms_v2"),
        ({"image": np.zeros((4, 4, 3))}, "`image` is float64: give uint8.*PILToTensor"),
        ({"image": np.zeros((4, 4, 5), np.uint8)}, r"shape \(4, 4, 5\): give \(H, W, 3\)"),
        ({"image": jpeg(), "image_id": "a7"}, "`image_id` is 'a7': give an integer"),
        ({"image": jpeg(), "labels": [0]}, "`boxes` is missing beside `labels`"),
        ({"image": jpeg(), "boxes": [[1, 2, 3]], "labels": [0]}, r"`boxes` is int64 of shape \(1, 3\): .*\(n, 4\)"),
        ({"image": jpeg(), "boxes": BOX, "labels": [0]}, r"`boxes` is float64 of shape \(4,\)"),
        ({"image": jpeg(), "boxes": [BOX]}, "`labels` is missing: give ids or names"),
        ({"image": jpeg(), "boxes": [BOX], "labels": [0, 1]}, r"`labels` has shape \(2,\): .* \(1,\)"),
        ({"image": jpeg(), "boxes": [BOX], "labels": [2]}, "`labels` has 2, which is none of the classes.* from 0"),
        ({"image": jpeg(), "boxes": [BOX], "labels": ["cow"]}, "`labels` has 'cow', which is none"),
        ({"image": jpeg(), "boxes": [BOX], "labels": [0.0]}, "`labels` is float64: give ids"),
        ({"image": jpeg(), "boxes": [BOX], "labels": [0], "masks": np.ones((48, 64))}, r"`masks` .* \(1, H, W\)"),
        ({"image": jpeg(), "boxes": [BOX], "labels": [0], "note": "x"}, "`note` is <U1 .* or remove it"),
        ({"image": jpeg(), "boxes": [BOX], "labels": [0], "size": [1, 2]}, r"`size` .* shape \(2,\) beside 1 boxes"),
    ],
)
def test_errors_name_the_sample_and_what_to_write(tmp_path, sample, message):
    """A sample that makes no sense is one sentence with its index."""
    with pytest.raises(SourceError, match=f"^sample 1: .*{message}"):
        build([{"image": jpeg(), "boxes": []}, sample], tmp_path / "a.lmdb")


def test_other_errors(tmp_path):
    """What is no sequence of samples, classes that are missing or repeated, and new columns are named."""
    for samples in ("coco/", {"image": 1}, 7):
        with pytest.raises(SourceError, match="no sequence of samples"):
            build(samples, tmp_path / "a.lmdb")
    with pytest.raises(SourceError, match=r"needs classes: write build_cache\(samples, path, classes="):
        build([{"image": jpeg(), "boxes": [BOX], "labels": [0]}], tmp_path / "a.lmdb", None)
    for classes in (["a", "a"], "dog", [1]):
        with pytest.raises(SourceError, match="`classes` is"):
            build([{"image": jpeg()}], tmp_path / "a.lmdb", classes)
    with pytest.raises(SourceError, match="unknown box format 'yxyx'"):
        build([{"image": jpeg()}], tmp_path / "a.lmdb", format="yxyx")
    with pytest.raises(SourceError, match="sample 1: `score` is new: declare it"):
        build([{"image": jpeg()}, {"image": jpeg(), "score": 1}], tmp_path / "a.lmdb")
    with pytest.raises(SourceError, match="lists no images"):
        build([], tmp_path / "a.lmdb")
    with pytest.raises(ArgumentError, match="a source has its own"):
        build(PythonSource([{"image": jpeg()}]), tmp_path / "a.lmdb")


def test_an_exception_of_the_dataset_names_the_index_and_the_build_resumes(tmp_path, monkeypatch):
    """The error says which sample failed and why; what was stored before is not read again."""
    monkeypatch.setattr(assemble, "COMMIT_SECONDS", 0)
    path, classes = tmp_path / "a.lmdb", ["background", "cat", "dog"]
    with pytest.raises(SourceError, match="sample 15 cannot be read: KeyError: 'lost'"):
        build(Detection(20, broken=15), path, classes)
    mended = Detection(20)
    report = build_cache(mended, path, OPTIONS, classes=classes)
    assert report.images == 20 and not report.restarted and report.resumed > 5
    assert mended.read == [0, 1, *range(report.resumed, 20)]  # the first two, to find the columns
    assert not build_cache(mended, path, OPTIONS, classes=classes).built
    assert build(Detection(20), tmp_path / "b.lmdb", classes).fingerprint == Cache(path).fingerprint


def test_a_resumed_build_knows_earlier_image_ids(tmp_path, monkeypatch):
    """A sample that repeats the id of one stored or skipped before the interruption is skipped, as without it."""
    monkeypatch.setattr(assemble, "COMMIT_SECONDS", 0)
    samples = [{"image": jpeg(seed=i), "image_id": 100 + i} for i in range(20)]
    samples[2]["image"] = b"?"
    samples[17]["image_id"], samples[18]["image_id"] = 101, 102  # a stored and a skipped one

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache(samples, tmp_path / "a.lmdb", OPTIONS, stop, classes=CLASSES)
    report = build_cache(samples, tmp_path / "a.lmdb", OPTIONS, classes=CLASSES)
    assert report.resumed > 3 and report.problems["skipped"] == 3
    assert build(samples, tmp_path / "b.lmdb").fingerprint == Cache(tmp_path / "a.lmdb").fingerprint
    assert read_problems(tmp_path / "a.lmdb") == read_problems(tmp_path / "b.lmdb")


def test_an_iterator(tmp_path):
    """Samples that can be read only once are read once; a cache that is there asks for overwrite."""
    progress = []
    samples = ({"image": jpeg(seed=i), "boxes": [BOX][: i // 2], "labels": [1][: i // 2]} for i in range(4))
    build_cache(samples, tmp_path / "a.lmdb", OPTIONS, lambda *done: progress.append(done), classes=CLASSES)
    assert len(Cache(tmp_path / "a.lmdb")) == 4 and progress[-1] == (4, 4)
    with pytest.raises(CacheError, match="overwrite"):
        build(iter([{"image": jpeg()}]), tmp_path / "a.lmdb")


def test_a_changed_list_is_noticed(tmp_path):
    """A list is compared by its annotations and by the files that it names."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    samples = [{"image": path, "boxes": [BOX], "labels": [0]}, {"image": pixels(64, 48)}]
    build(samples, tmp_path / "a.lmdb")
    assert not build_cache(samples, tmp_path / "a.lmdb", OPTIONS, classes=CLASSES).built
    path.write_bytes(jpeg(seed=9))
    assert build_cache(samples, tmp_path / "a.lmdb", OPTIONS, classes=CLASSES).changed == 1
    assert bytes(Cache(tmp_path / "a.lmdb").record(0).data) == jpeg(seed=9)
    with pytest.raises(CacheError, match="changed"):
        build([samples[0], {"image": pixels(64, 48, 1)}], tmp_path / "a.lmdb")
